"""The loop for a sink that answers one by one, over a real database and a sink that does as it is told."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.delivery import outbox_client, stream_worker
from pipeline.delivery.outbox_client import LEASE_MS, MAX_CLAIMS
from pipeline.delivery.poison import MAX_BATCH_BY_LOST_CLAIMS
from pipeline.delivery.sink_health import LASTING_S
from pipeline.process.backoff import Backoff
from pipeline.process.clock import ManualClock
from pipeline.sinks.base import DELIVERED, Answer, Message, Refused, Retry, SinkDown, Verdict
from pipeline.store import outbox
from pipeline.store.sinks import SinkName
from tests.integration.delivery.support import PATIENCE_S, Loop, Outbox, notes, wait_until

ROOM = 100


@dataclass
class Told:
    """Has at most `most` messages under way and answers each as `judge` says: a verdict, `SILENT`, or `SinkDown`."""

    judge: Callable[[str], "Verdict | SinkDown | None"] = lambda _: DELIVERED
    most: int = ROOM
    is_open: bool = True
    under_way: dict[bytes, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    beside: list[int] = field(default_factory=list)
    """How many were under way beside each when it was sent."""
    collected: int = 0
    heard: float = 0.0

    def heard_at(self) -> float:
        return self.heard

    def room(self) -> int:
        return self.most - len(self.under_way)

    def open(self) -> None:
        if not self.is_open:
            raise SinkDown("dial-refused", "nobody there")

    def send(self, message: Message) -> None:
        self.beside.append(len(self.under_way))
        self.under_way[message.event_id] = message.event_id.hex()
        self.sent.append(message.event_id.hex())

    def collect(self, timeout_s: float) -> Sequence[Answer]:
        self.collected += 1
        answers: list[Answer] = []
        for event_id, name in list(self.under_way.items()):
            answer = self.judge(name)
            if isinstance(answer, SinkDown):
                if answers:
                    break
                self.under_way.clear()
                raise answer
            if answer is not None:
                answers.append((event_id, answer))
                del self.under_way[event_id]
        if not answers and self.under_way:
            threading.Event().wait(timeout_s)
        return answers

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def box(box: Outbox) -> Outbox:
    """An outbox of the target relay."""
    box.sink = SinkName.RELAY
    return box


def test_what_is_queued_is_sent_and_settled(box: Outbox) -> None:
    """Once each, never more at once than there is room for, and counted."""
    signed = notes(730)
    box.put(signed)
    sink = Told()
    with Loop(box, sink, "sender") as loop:
        box.wait_empty()
    assert sorted(sink.sent) == sorted(event.id for event in signed)
    assert box.outcomes() == dict.fromkeys(box.numbers.values(), "delivered")
    assert max(sink.beside) < ROOM
    assert loop.metric("event_service_stage_in_total", stage="sender") == 730
    assert loop.metric("event_service_stage_out_total", stage="sender") == 730
    assert loop.metric("event_service_sink_call_seconds_count", sink="relay") == 730
    assert loop.metric("event_service_sink_batch_events_sum", sink="relay") == 730
    assert loop.metric("event_service_delivery_seconds_count", sink="relay") == 730


def test_what_has_no_answer_holds_up_nobody(box: Outbox) -> None:
    """A thousand others are sent, answered and settled beside it, also such as come later."""
    silent, *others = notes(1001)
    box.put([silent, *others[:900]])
    sink = Told(lambda name: None if name == silent.id else DELIVERED)
    with Loop(box, sink, "sender") as loop:
        wait_until(lambda: len(box.outcomes()) == 900)
        box.put(others[900:])
        wait_until(lambda: len(box.outcomes()) == 1000)
        assert loop.metric("event_service_sink_in_flight", sink="relay") == 1
    assert sink.sent.count(silent.id) == 1
    assert [(event, claims, failures) for event, claims, failures, _ in box.rows()] == [(1, 1, 0)]


def test_an_answer_settles_its_own_row_whenever_it_comes(box: Outbox, no_retries: None) -> None:
    signed = notes(4)
    box.put(signed)
    verdicts: dict[str, Verdict] = {signed[3].id: DELIVERED}
    sink = Told(verdicts.get)
    with Loop(box, sink, "sender"):
        wait_until(lambda: len(box.outcomes()) == 1)
        verdicts[signed[1].id] = Refused("blocked")
        wait_until(lambda: len(box.outcomes()) == 2)
        verdicts[signed[0].id] = Retry("error")
        wait_until(lambda: [failures for _, _, failures, _ in box.rows()] == [1, 0])
        verdicts[signed[2].id] = Refused("odd", dead_letter=True)
        wait_until(lambda: box.dead() == {3: "odd"})
    assert box.outcomes() == {2: "refused: blocked", 4: "delivered"}
    assert [event for event, *_ in box.rows()] == [1]


def test_what_is_under_way_is_nobody_elses(tmp_path: Path) -> None:
    """Its lease is renewed for as long as it has no answer."""
    clock = ManualClock()
    box = Outbox(tmp_path / "clock.db", clock, SinkName.RELAY)
    box.put(notes(3))
    verdicts: dict[str, Verdict] = {}
    sink = Told(verdicts.get)
    with Loop(box, sink, "sender"):
        wait_until(lambda: len(sink.sent) == 3)
        for _ in range(12):
            clock.advance(LEASE_MS / 3000)
            due = clock.now_ms() + LEASE_MS * 2 // 3
            wait_until(lambda due=due: all(row[3] > due for row in box.rows()))  # type: ignore[misc]
            with box.database.write() as tx:
                assert not outbox.claim(tx, SinkName.RELAY, now=clock.now_ms(), lease=1, limit=10)
        verdicts.update(dict.fromkeys(sink.sent, DELIVERED))
        box.wait_empty()
    assert len(sink.sent) == 3
    box.database.close()


def test_what_is_not_sent_yet_and_was_lost_is_let_go(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than sent by two who both believe to hold it."""
    monkeypatch.setattr(stream_worker, "RENEW_STREAM_EVERY_S", 0.05)
    box.put(notes(3))
    sink = Told(lambda _: None)
    waiting = threading.Event()

    def room() -> int:
        # Two are claimed behind the first, and then there is no room for them.
        return 3 if not sink.sent and not waiting.is_set() else 0

    sink.room = room  # type: ignore[method-assign]
    sink.open = waiting.set  # type: ignore[method-assign]
    with Loop(box, sink, "sender") as loop:
        wait_until(lambda: len(sink.sent) == 1)
        box.execute("UPDATE outbox SET claims = claims + 1, ready_at = ? WHERE event = 2", 10**15)
        stale = {"stage": "sender", "kind": "stale-receipt"}
        wait_until(lambda: loop.metric("event_service_stage_errors_total", **stale) > 0)
        wait_until(lambda: box.rows()[2][3] <= box.clock.now_ms())
    assert len(sink.sent) == 1


def test_silence_is_told_unless_the_sink_shows_that_it_is_there(tmp_path: Path) -> None:
    """An event may be unanswered for its own sake."""
    clock = ManualClock()
    box = Outbox(tmp_path / "clock.db", clock, SinkName.RELAY)
    box.put(notes(2))
    verdicts: dict[str, Verdict] = {}
    sink = Told(verdicts.get)
    with Loop(box, sink, "sender") as loop:
        wait_until(lambda: len(sink.sent) == 2)
        clock.advance(LASTING_S)
        assert loop.worker.problem() == "sink relay does not answer"
        sink.heard = clock.monotonic()
        wait_until(lambda: not loop.worker.problem())
        clock.advance(LASTING_S)
        assert loop.worker.problem() != ""
        verdicts.update(dict.fromkeys(sink.sent, Retry("error")))
        wait_until(lambda: not loop.worker.problem())
    box.database.close()


def test_a_sink_that_is_down_costs_no_row_anything(box: Outbox, no_waits: None) -> None:
    box.put(notes(230))
    sink = Told(is_open=False)
    with Loop(box, sink, "sender") as loop:
        kind = {"stage": "sender", "kind": "dial-refused"}
        wait_until(lambda: loop.metric("event_service_stage_errors_total", **kind) > 2 * MAX_CLAIMS)
        assert sum(claims for _, claims, _, _ in box.rows()) <= ROOM, "the rest of the backlog is free"
        sink.is_open = True
        box.wait_empty()
        wait_until(lambda: not loop.health.failures)
    assert set(box.outcomes().values()) == {"delivered"}
    assert box.dead() == {}


@pytest.mark.parametrize("place", [0, 5, 29])
def test_what_breaks_the_connection_is_found(box: Outbox, no_waits: None, place: int) -> None:
    """Those that were under way go one by one after the loss, and the one that breaks it again is put off alone."""
    signed = notes(30)
    box.put(signed)
    deadly = signed[place].id
    sink = Told(lambda name: SinkDown("eof", "gone") if name == deadly else DELIVERED)
    with Loop(box, sink, "sender") as loop:
        wait_until(lambda: len(box.outcomes()) == 29)
        wait_until(lambda: box.rows()[0][2] >= 2)
    assert [event - 1 for event, *_ in box.rows()] == [place]
    assert loop.metric("event_service_sink_retries_total", sink="relay", reason="disconnected") >= 2
    counts = [sink.sent.count(event.id) for index, event in enumerate(signed) if index != place]
    assert max(counts) <= 3, "nobody is sent again and again for the sake of another"


def test_after_a_loss_a_silent_one_stands_in_the_way_for_a_moment_only(box: Outbox, no_waits: None) -> None:
    signed = notes(20)
    box.put(signed)
    losses = [SinkDown("eof", "gone")]
    sink = Told(lambda name: losses.pop() if losses else None if name == signed[0].id else DELIVERED)
    with Loop(box, sink, "sender"):
        wait_until(lambda: len(box.outcomes()) == 19)
    assert box.rows()[0][:3] == (1, 1, 0)


def test_what_is_to_be_sent_again_is_sent_in_its_order_and_without_blame(box: Outbox) -> None:
    signed = notes(5)
    box.put(signed)
    sink = Told()
    given_back: list[str] = []

    def collect(timeout_s: float) -> Sequence[Answer]:
        verdict = DELIVERED if given_back else None
        answers = [(event_id, verdict) for event_id in sink.under_way]
        given_back.extend(sink.under_way.values())
        sink.under_way.clear()
        return answers

    sink.collect = collect  # type: ignore[method-assign]
    with Loop(box, sink, "sender"):
        box.wait_empty()
    assert sink.sent == [event.id for event in signed] * 2
    assert set(box.outcomes().values()) == {"delivered"}


def test_an_unforeseen_error_is_its_rows_alone(box: Outbox, no_retries: None) -> None:
    signed = notes(10)
    box.put(signed)
    sink = Told()
    send = sink.send

    def break_down(message: Message) -> None:
        if message.event_id.hex() == signed[4].id:
            raise RuntimeError("unforeseen")
        send(message)

    sink.send = break_down  # type: ignore[method-assign]
    with Loop(box, sink, "sender") as loop:
        wait_until(lambda: len(box.outcomes()) == 9)
        wait_until(lambda: box.rows()[0][2] == 1)
    assert loop.metric("event_service_stage_errors_total", stage="sender", kind="RuntimeError") == 1


def test_a_failed_row_is_tried_again_alone(box: Outbox, no_waits: None) -> None:
    signed = notes(20)
    box.put(signed)
    tries: list[str] = []

    def judge(name: str) -> Verdict:
        tries.append(name)
        return Retry("error") if name == signed[7].id and tries.count(name) < 4 else DELIVERED

    with Loop(box, Told(judge), "sender"):
        box.wait_empty()
    assert [tries.count(event.id) for event in signed] == [1] * 7 + [4] + [1] * 12


@pytest.mark.parametrize(("claims", "together"), [(0, ROOM), (1, ROOM), (2, 64), (3, 16), (4, 4), (5, 1)])
def test_what_somebody_may_have_died_of_goes_with_few_others(box: Outbox, claims: int, together: int) -> None:
    box.put(notes(200))
    box.execute("UPDATE outbox SET claims = ?", claims)
    assert together in (*MAX_BATCH_BY_LOST_CLAIMS, ROOM)
    sink = Told()
    with Loop(box, sink, "sender"):
        box.wait_empty()
    assert max(sink.beside) == together - 1


def test_a_suspect_that_is_silent_lets_others_pass_in_the_end(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_worker, "PROBATION_S", 0.05)
    signed = notes(30)
    box.put(signed)
    box.execute("UPDATE outbox SET claims = ? WHERE event = 3", len(MAX_BATCH_BY_LOST_CLAIMS))
    sink = Told(lambda name: None if name == signed[2].id else DELIVERED)
    with Loop(box, sink, "sender"):
        wait_until(lambda: len(box.outcomes()) == 29)
        box.put(notes(5, first=30))
        wait_until(lambda: len(box.outcomes()) == 34)
    assert sink.sent.count(signed[2].id) == 1


def test_stopping_waits_a_moment_for_answers_and_gives_the_rest_back(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is answered meanwhile is settled; the rest is free at once for whoever comes next, blamed for nothing."""
    monkeypatch.setattr(stream_worker, "LAST_ANSWERS_S", 1.0)
    box.put(notes(150))
    sink = Told()
    loop = Loop(box, sink, "sender")
    sink.judge = lambda name: DELIVERED if loop.stop.is_set() and name == sink.sent[10] else None
    with loop:
        wait_until(lambda: len(sink.sent) == ROOM)
    assert list(box.outcomes()) == [box.numbers[sink.sent[10]]]
    assert len(sink.sent) == ROOM, "nothing is sent any more"
    now = box.clock.now_ms()
    assert all(ready_at <= now and failures == 0 for _, _, failures, ready_at in box.rows())
    assert loop.metric("event_service_sink_in_flight", sink="relay") == 0
    with Loop(box, Told(), "sender"):
        box.wait_empty()


def test_stopping_while_the_sink_is_down_gives_all_back(box: Outbox) -> None:
    box.put(notes(10))
    with Loop(box, Told(is_open=False), "sender") as loop:
        wait_until(lambda: loop.health.failures > 0)
        loop.end()
    now = box.clock.now_ms()
    assert all(ready_at <= now and failures == 0 for _, _, failures, ready_at in box.rows())


def test_stale_receipts_change_nothing(box: Outbox) -> None:
    """An answer that comes when the row is somebody else's is nothing but a count."""
    signed = notes(2)
    box.put(signed)
    verdicts: dict[str, Verdict] = {}
    sink = Told(verdicts.get)
    with Loop(box, sink, "sender") as loop:
        wait_until(lambda: len(sink.sent) == 2)
        box.execute("UPDATE outbox SET claims = claims + 1, ready_at = ? WHERE event = 1", 10**15)
        verdicts.update(dict.fromkeys(sink.sent, DELIVERED))
        wait_until(lambda: len(box.rows()) == 1)
        stale = {"stage": "sender", "kind": "stale-receipt"}
        wait_until(lambda: loop.metric("event_service_stage_errors_total", **stale) == 1)
    assert box.rows()[0][:3] == (1, 2, 0)
    assert loop.metric("event_service_stage_out_total", stage="sender") == 1


def test_what_comes_later_is_sent_without_delay(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether nothing is under way, or something silent; nobody looks without being told of a commit."""
    monkeypatch.setattr(stream_worker, "_IDLE_S", 10 * PATIENCE_S)
    silent = notes(1, first=99)[0]
    sink = Told(lambda name: None if name == silent.id else DELIVERED)
    with Loop(box, sink, "sender"):
        for number in range(3):
            box.put(notes(1, first=number))
            wait_until(lambda number=number: len(box.outcomes()) == number + 1)  # type: ignore[misc]
        box.put([silent])
        for number in range(3, 6):
            box.put(notes(1, first=number))
            wait_until(lambda number=number: len(box.outcomes()) == number + 1)  # type: ignore[misc]


def test_an_idle_loop_beats_and_looks_after_the_sink(box: Outbox) -> None:
    sink = Told()
    with Loop(box, sink, "sender") as loop:
        wait_until(lambda: sink.collected >= 2)
        assert loop.beats >= 2


def test_a_failed_row_is_looked_for_though_nobody_commits(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while something else is under way."""
    monkeypatch.setattr(outbox_client, "_ROW_RETRY", Backoff(base_s=0.3, factor=1.0, cap_s=0.3))
    silent, failing = notes(2)
    box.put([silent, failing])
    answers: list[Verdict] = [DELIVERED, Retry("error")]
    sink = Told(lambda name: None if name == silent.id else answers.pop())
    with Loop(box, sink, "sender"):
        wait_until(lambda: len(box.outcomes()) == 1)
    assert sink.sent.count(failing.id) == 2
