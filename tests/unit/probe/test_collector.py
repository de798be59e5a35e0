"""The answer of one exchange, from the messages of the relay."""

import json

import pytest

from pipeline.probe.collector import AFTER_NOTICE_S, MAX_NOTICES, AnswerCollector
from pipeline.probe.exchange import MOST_BYTES, Ask, Awaited, End, Reply, req
from pipeline.relay.dimensions import Dimension
from tests.factories.events import Author
from tests.unit.probe.model import NOW

AUTHOR = Author.from_seed(4, 0)
NOTE = AUTHOR.sign("x", created_at=NOW)
ASK = req("q", {"limit": 1})


def collector(ask: Ask = ASK) -> AnswerCollector:
    return AnswerCollector(ask, 100.0, 105.0, None)


def raw(*elements: object) -> bytes:
    return json.dumps(elements).encode()


def event(subscription: str = "q") -> bytes:
    return f'["EVENT","{subscription}",{NOTE.raw}]'.encode()


def test_answer_has_what_came_up_to_eose() -> None:
    collected = collector()
    assert collected.feed(event(), 101.0) is None
    assert collected.feed(event("other"), 101.0) is None
    answer = collected.feed(raw("EOSE", "q", ["finish"]), 102.0)
    assert answer is not None
    assert (answer.end, len(answer.events), answer.finished, answer.took_s) == (End.EOSE, 1, True, 2.0)
    assert [subscription for subscription, _ in answer.others] == ["other"]
    assert answer.is_answered


@pytest.mark.parametrize(
    ("message", "end"),
    [
        (("CLOSED", "q", "blocked: no"), End.CLOSED), (("COUNT", "q", {"count": 4}), End.COUNT),
        (("NEG-MSG", "q", "61"), End.NEGENTROPY), (("NEG-ERR", "q", "blocked: no"), End.NEG_ERR),
    ],
)  # fmt: skip
def test_each_answer_ends_its_own_exchange_only(message: tuple[object, ...], end: End) -> None:
    collected = collector()
    label, _, *rest = message
    assert collected.feed(raw(label, "another", *rest), 101.0) is None
    answer = collected.feed(raw(*message), 101.0)
    assert answer is not None
    assert answer.end is end


def test_notice_alone_ends_it_soon_and_is_the_refusal() -> None:
    collected = collector()
    collected.feed(raw("NOTICE", "too many filters"), 101.0)
    assert collected.deadline == 101.0 + AFTER_NOTICE_S
    answer = collected.on_silence(collected.deadline)
    assert (answer.manner, answer.words) == ("NOTICE", "too many filters")
    assert answer.complaint is not None
    assert answer.complaint.dimension is Dimension.FILTERS


def test_notice_before_eose_is_a_refusal_too() -> None:
    collected = collector()
    collected.feed(raw("NOTICE", "too many kinds"), 101.0)
    answer = collected.feed(raw("EOSE", "q"), 101.5)
    assert answer is not None
    assert (answer.manner, answer.is_answered) == ("NOTICE, then EOSE", False)


def test_notice_that_came_before_the_request_is_of_an_earlier_one() -> None:
    collected = collector()
    collected.feed_earlier(raw("NOTICE", "too many concurrent REQs"), 100.0)
    collected.feed_earlier(b"\x00", 100.0)
    answer = collected.feed(raw("EOSE", "q"), 101.0)
    assert answer is not None
    assert (answer.late, answer.complaint) == (("too many concurrent REQs",), None)


def test_events_put_silence_off_but_not_for_ever() -> None:
    collected = collector()
    for second in range(101, 200):
        collected.feed(event(), float(second))
    assert collected.deadline == 100.0 + 8 * 5.0


def test_more_than_is_asked_for_ends_it() -> None:
    collected = collector(req("q", {"limit": 1}, most_events=2))
    assert collected.feed(event(), 101.0) is None
    answer = collected.feed(event(), 101.0)
    assert answer is not None
    assert answer.end is End.FLOOD
    answer = collector().feed(b" " * (MOST_BYTES + 1), 101.0)
    assert answer is not None
    assert answer.end is End.FLOOD


def test_notices_that_are_kept_are_few() -> None:
    collected = collector()
    for _ in range(10 * MAX_NOTICES):
        collected.feed(raw("NOTICE", "x"), 101.0)
    assert len(collected.on_silence(102.0).notices) < MAX_NOTICES


def test_garbage_is_no_answer_but_where_any_message_is() -> None:
    assert collector().feed(b"nonsense", 101.0) is None
    answer = collector(Ask(("x",), "q", Awaited.MESSAGE)).feed(b"nonsense", 101.0)
    assert answer is not None
    assert answer.end is End.OTHER


def test_verdict_names_the_event() -> None:
    collected = collector(Ask(("x",), NOTE.id, Awaited.OK))
    assert collected.feed(raw("OK", "ab" * 32, True, ""), 101.0) is None
    assert collected.feed(raw("OK", "", False, "invalid: no"), 101.0) is None
    assert collected.on_silence(102.0).garbage == 1
    answer = collected.feed(raw("OK", NOTE.id, False, "blocked: no"), 101.0)
    assert answer is not None
    assert (answer.accepted, answer.text) == (False, "blocked: no")


def test_live_event_is_awaited_past_eose() -> None:
    collected = collector(Ask((), "q", Awaited.LIVE))
    assert collected.feed(raw("EOSE", "q"), 101.0) is None
    answer = collected.feed(event(), 101.0)
    assert isinstance(answer, Reply)
    assert answer.end is End.EVENT
