"""Questions whose answers follow each other: live events, publishing, subscriptions, NIPs."""

import json
from collections.abc import Callable, Sequence

import pytest

from pipeline.nostr.event import Event, event_from_json
from pipeline.nostr.negentropy_wire import INFINITY, Writer
from pipeline.probe.exchange import Ask, Awaited, End, Reply
from pipeline.probe.known import Known, ProbeQuestion
from pipeline.probe.observation import Observation
from pipeline.probe.questions.extensions import Challenge, CountMessage, EoseHint, SetComparison, Withheld
from pipeline.probe.questions.live import DELIVERIES, ReplacedSubscription, UnpublishedEvent
from pipeline.probe.questions.subscriptions import OpenId
from pipeline.probe.questions.writing import Deletion, Notes
from tests.unit.probe.model import ModelRelay, seen, world

WORLD = world()
EOSE = Reply(End.EOSE)
SILENCE = Reply(End.SILENCE)
ACCEPTED = Reply(End.OK, accepted=True)
Said = Reply | Callable[[Sequence[Ask]], Reply]


def played(question: ProbeQuestion, *replies: Said, known: Known | None = None) -> dict[str, Observation]:
    """What the question shows of a relay that answers so, one after the other; it must ask for all of them."""
    steps = question.ask(writing() if known is None else known)
    asked = [next(steps)]
    try:
        for reply in replies:
            asked.append(steps.send(reply if isinstance(reply, Reply) else reply(asked)))
    except StopIteration as end:
        assert reply is replies[-1]
        return {each.name: each for each in end.value}
    raise AssertionError(f"it asks for more: {asked[-1]}")


def writing() -> Known:
    known = ModelRelay(WORLD).known()
    known.writes = True
    known.published.append(known.controls()[0])
    return known


def reading() -> Known:
    return ModelRelay(WORLD).known()


def published(asked: Sequence[Ask]) -> Event:
    """The event that was published last."""
    frames = [ask.frames[0] for ask in asked if ask.awaited is Awaited.OK]
    return event_from_json(json.dumps(json.loads(frames[-1])[1]).encode())


def delivered(asked: Sequence[Ask]) -> Reply:
    return Reply(End.EVENT, events=(published(asked),))


NOTE = DELIVERIES[0]


def test_live_event_is_delivered_or_not() -> None:
    assert played(NOTE, EOSE, ACCEPTED, delivered)["live.note"].value == "delivered"
    assert played(NOTE, EOSE, ACCEPTED, SILENCE)["live.note"].value == "not delivered"
    assert played(NOTE, EOSE, ACCEPTED, Reply(End.CLOSED, "error: shut"))["live.note"].value == "subscription ended"
    assert played(NOTE, EOSE, Reply(End.OK, "blocked: no", accepted=False))["live.note"].value is None
    assert played(NOTE, Reply(End.CLOSED, "blocked: no"))["live.note"].value == "refused"


def test_subscription_without_an_eose_may_be_served_all_the_same() -> None:
    zero = next(each for each in DELIVERIES if each.name == "limit_zero")
    assert played(zero, SILENCE, ACCEPTED, delivered)["live.limit_zero"].value == "delivered"


def test_live_events_of_others_are_passed_over() -> None:
    other = Reply(End.EVENT, events=(reading().controls()[0],))
    assert played(NOTE, EOSE, ACCEPTED, other, other, delivered)["live.note"].value == "delivered"


@pytest.mark.parametrize("question", [*DELIVERIES, ReplacedSubscription()])
def test_nothing_is_published_that_was_not_allowed(question: ProbeQuestion) -> None:
    with pytest.raises(StopIteration) as end:
        next(question.ask(reading()))
    (line,) = end.value.value
    assert (line.value, line.note) == (None, "needs --write")


def test_open_id_serves_the_second_or_both() -> None:
    def first_one(asked: Sequence[Ask]) -> Reply:
        return Reply(End.EVENT, events=(published(asked[:3]),))

    name = "subscription.open_id_serves"
    question = ReplacedSubscription()
    assert played(question, EOSE, EOSE, ACCEPTED, ACCEPTED, delivered, SILENCE)[name].value == "the second alone"
    assert played(question, EOSE, EOSE, ACCEPTED, ACCEPTED, first_one, delivered)[name].value == "both"
    assert played(question, EOSE, EOSE, ACCEPTED, ACCEPTED, first_one, SILENCE)[name].value == "the first alone"
    assert played(question, EOSE, EOSE, ACCEPTED, ACCEPTED, SILENCE)[name].value == "neither"


def test_what_arrives_by_itself_should_be_stored() -> None:
    event = reading().controls()[0]
    came, stored = Reply(End.EVENT, events=(event,)), Reply(End.EOSE, events=(event,))
    assert played(UnpublishedEvent(), EOSE, came, stored)["live.is_stored"].value is True
    assert played(UnpublishedEvent(), EOSE, came, EOSE)["live.is_stored"].value is False
    assert played(UnpublishedEvent(), EOSE, SILENCE)["live.arrives"].value is None


def test_open_id_may_be_answered_ignored_or_refused() -> None:
    found = played(OpenId(), EOSE, EOSE, SILENCE)
    assert [each.value for each in found.values()] == ["answered", "ignored"]
    duplicate = Reply(End.NOTICE, "Duplicate subscription: Ignoring")
    assert played(OpenId(), EOSE, EOSE, duplicate)["subscription.open_id_same_filter"].value == "refused"


def test_challenge_comes_at_once_with_a_refusal_or_not_at_all() -> None:
    question = Challenge("ws://relay.example")
    offered, refusing = Reply(End.EOSE, challenge="x"), Reply(End.CLOSED, "auth-required: x", challenge="x")
    found = played(question, offered, Reply(End.OK, "", accepted=True))
    assert [each.value for each in found.values()] == ["at once, or with the first request", "accepted"]
    found = played(question, EOSE, refusing, Reply(End.OK, "error: no serviceUrl", accepted=False))
    assert [each.value for each in found.values()] == ["with a refusal", "refused"]
    assert played(question, EOSE, refusing, SILENCE)["nip42.auth"].value == "no verdict"
    assert [each.value for each in played(question, EOSE, EOSE).values()] == ["none", None]


def test_count_is_compared_with_what_comes() -> None:
    events = Reply(End.EOSE, events=tuple(reading().controls()[:3]))
    assert played(CountMessage(), Reply(End.COUNT, count=3), events)["nip45.count"].value == "right"
    assert played(CountMessage(), Reply(End.COUNT, count=4), events)["nip45.count"].value == "another number"
    assert played(CountMessage(), SILENCE)["nip45.count"].value == "no answer"
    assert played(CountMessage(), Reply(End.NOTICE, "unknown"))["nip45.count"].value == "refused"


def test_eose_hint_is_seen() -> None:
    assert played(EoseHint(), Reply(End.EOSE, finished=False))["nip67.hint"].value is True
    assert played(EoseHint(), EOSE)["nip67.hint"].value is False


def id_list(ids: list[bytes]) -> Reply:
    writer = Writer()
    writer.id_list(INFINITY, ids)
    return Reply(End.NEGENTROPY, payload=bytes(writer.data))


def test_sets_are_compared_with_the_events_known() -> None:
    known = reading()
    control = known.controls()[0]
    own = [each.id for each in known.controls() if (each.pubkey, each.kind) == (control.pubkey, control.kind)]
    assert played(SetComparison(), id_list(sorted(own)))["nip77.compares"].value == "right"
    assert played(SetComparison(), id_list(sorted(own)[:1]))["nip77.compares"].value == "leaves events out"
    assert (
        played(SetComparison(), Reply(End.NEGENTROPY, payload=b"\x00"))["nip77.compares"].value == "breaks the protocol"
    )
    assert played(SetComparison(), Reply(End.NEG_ERR, "blocked: disabled"))["nip77.compares"].value == "refused"
    assert played(SetComparison(), SILENCE)["nip77.compares"].value == "no answer"


def test_withheld_kind_shows_by_a_refusal_a_count_or_by_publishing_one() -> None:
    name, known = "withheld.kind_4", reading
    notes = Reply(End.EOSE, events=tuple(reading().controls()[:40]))
    refusal = Reply(End.CLOSED, "auth-required: no")
    counted = Reply(End.COUNT, count=7)
    assert played(Withheld(4), refusal, notes, known=known())[name].value == "refused"
    assert played(Withheld(4), EOSE, counted, notes, known=known())[name].value == "withheld silently"
    assert played(Withheld(4), EOSE, SILENCE, notes, known=known())[name].value is None
    assert played(Withheld(4), notes, notes, known=known())[name].value == "shown"
    assert played(Withheld(4), ACCEPTED, EOSE, notes, ACCEPTED)[name].value == "withheld silently"


def test_message_that_was_deleted_is_not_expected_of_pages() -> None:
    known = writing()

    def shown(asked: Sequence[Ask]) -> Reply:
        known.note([published(asked)])
        return delivered(asked)

    before = set(known.pool)
    notes = Reply(End.EOSE, events=tuple(each for each in known.controls() if each.kind == 1)[:2])
    assert played(Withheld(4), ACCEPTED, shown, notes, ACCEPTED, known=known)["withheld.kind_4"].value == "shown"
    assert set(known.pool) == before


def test_refusal_of_whatever_is_asked_says_nothing_of_a_kind() -> None:
    known = reading()
    known.plain_refusal = "restricted: members only"
    refusal = Reply(End.CLOSED, "restricted: members only")
    assert {each.value for each in played(Withheld(4), refusal, refusal, known=known).values()} == {None}


def test_notes_are_published_once_twice_and_forged() -> None:
    known = ModelRelay([]).known()
    known.writes = True

    def all_of_them(asked: Sequence[Ask]) -> Reply:
        notes = [event_from_json(json.dumps(json.loads(ask.frames[0])[1]).encode()) for ask in asked[:6]]
        return Reply(End.EOSE, events=tuple(notes))

    duplicate, forged = Reply(End.OK, "duplicate:", accepted=True), Reply(End.OK, "invalid: no", accepted=False)
    found = played(Notes(), *[ACCEPTED] * 6, all_of_them, duplicate, forged, known=known)
    assert [each.value for each in found.values()] == ["accepted", True, "accepted", "refused"]
    assert len(known.published) == 6
    found = played(Notes(), Reply(End.OK, "blocked: no", accepted=False), known=ModelRelay([]).known())
    assert [each.value for each in found.values()] == ["refused", None, None, None]


def test_deletion_is_honoured_when_nothing_comes_any_more() -> None:
    known = writing()
    held = Reply(End.EOSE, events=tuple(known.published))
    assert played(Deletion(), held, ACCEPTED, EOSE)["write.deletion"].value == "honoured"
    assert played(Deletion(), held, ACCEPTED, held, held)["write.deletion"].value == "ignored"
    assert played(Deletion(), held, ACCEPTED, held, EOSE)["write.deletion"].value == "honoured"
    more = Reply(End.EOSE, events=tuple(known.controls()[:3]))
    assert played(Deletion(), more, ACCEPTED, held, held)["write.deletion"].value == "honoured in part"
    assert played(Deletion(), held, Reply(End.OK, "blocked: no", accepted=False))["write.deletion"].value == "refused"
    assert played(Deletion(), EOSE, ACCEPTED, EOSE)["write.deletion"].value is None
    assert played(Deletion(), held, ACCEPTED, Reply(End.CLOSED, "error: x"))["write.deletion"].value is None


def test_model_relay_answers_as_it_is_asked() -> None:
    assert seen(EoseHint(), ModelRelay(WORLD))["nip67.hint"].value is False
