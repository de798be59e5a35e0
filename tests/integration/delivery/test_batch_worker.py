"""The loop from outbox rows to a sink and back, over a real database and sinks that do as they are told."""

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.delivery import batch_worker, sink_health
from pipeline.delivery.batch_worker import BatchWorker
from pipeline.delivery.outbox_client import CLAIM_BYTES, CLAIM_STEP, LEASE_MS, MAX_CLAIMS, NEWEST_EVERY
from pipeline.delivery.poison import MAX_BATCH_BY_LOST_CLAIMS
from pipeline.process.backoff import Backoff
from pipeline.process.clock import ManualClock
from pipeline.sinks.base import DELIVERED, Message, Refused, Retry, SinkDown, Verdict, Verdicts
from pipeline.store import outbox
from pipeline.store.sinks import SinkName
from tests.integration.delivery.support import NOW, PATIENCE_S, Loop, Outbox, notes, wait_until
from tests.support.seeds import seeds

Answer = Callable[[Sequence[Message]], Verdicts]


def take(batch: Sequence[Message]) -> Verdicts:
    return [DELIVERED] * len(batch)


@dataclass
class Told:
    """A sink that answers each batch as the next of `answers` says, and takes everything afterwards."""

    answers: list[Answer] = field(default_factory=list)
    then: Answer = take
    max_messages: int = 1000
    batches: list[list[str]] = field(default_factory=list)
    kept_alive: int = 0
    called: threading.Event = field(default_factory=threading.Event)

    def deliver(self, messages: Sequence[Message]) -> Verdicts:
        self.batches.append([message.event_id.hex() for message in messages])
        self.called.set()
        answer = self.answers.pop(0) if self.answers else self.then
        return answer(messages)

    def keep_alive(self) -> None:
        self.kept_alive += 1

    def close(self) -> None:
        """Nothing is open."""

    def ids(self) -> list[str]:
        return [event_id for batch in self.batches for event_id in batch]

    def offered(self, event_id: str) -> int:
        return self.ids().count(event_id)


def down(*verdicts: Verdict | None) -> Answer:
    def answer(_: Sequence[Message]) -> Verdicts:
        raise SinkDown("UNAVAILABLE", "gone", verdicts=verdicts)

    return answer


def say(*verdicts: Verdict | None) -> Answer:
    return lambda _: verdicts


def test_what_is_queued_is_delivered_and_settled(box: Outbox) -> None:
    """Once each, with the outcome on record and the counts of the contract."""
    signed = notes(1500)
    box.put(signed)
    sink = Told()
    with Loop(box, sink) as loop:
        box.wait_empty()
    assert sorted(sink.ids()) == sorted(event.id for event in signed)
    assert box.outcomes() == dict.fromkeys(box.numbers.values(), "delivered")
    assert loop.metric("event_service_stage_in_total", stage="forwarder") == 1500
    assert loop.metric("event_service_stage_out_total", stage="forwarder") == 1500
    calls = {"handlerName": "processSavedEvent", "result": "success"}
    assert loop.metric("application_handler_calls_total", **calls) == 1500
    assert loop.metric("application_handler_calls_duration_count", **calls) == 1500


def test_what_comes_later_is_delivered_without_delay(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Told()
    monkeypatch.setattr(batch_worker, "_IDLE_S", 10 * PATIENCE_S)
    with Loop(box, sink):
        wait_until(lambda: sink.kept_alive > 0)
        for number in range(5):
            box.put(notes(1, first=number))
            wait_until(lambda number=number: len(box.outcomes()) == number + 1)  # type: ignore[misc]
    assert box.rows() == []


def test_an_idle_loop_beats_and_keeps_the_sink_alive(box: Outbox) -> None:
    sink = Told()
    with Loop(box, sink) as loop:
        wait_until(lambda: sink.kept_alive >= 2)
        assert loop.beats >= 2
    assert sink.batches == []


def test_rows_of_another_sink_are_left_alone(box: Outbox) -> None:
    box.put(notes(2))
    box.sink = SinkName.RELAY
    box.put(notes(2, first=2))
    with Loop(box, Told(), "sender"):
        wait_until(lambda: len(box.rows()) == 2)
    assert box.query("SELECT DISTINCT sink FROM outbox") == [("pubsub",)]
    assert box.query("SELECT DISTINCT sink FROM deliveries") == [("relay",)]


def test_the_sender_leaves_the_count_of_processed_events_to_the_forwarder(box: Outbox) -> None:
    """One count per event, however many sinks it goes to."""
    box.sink = SinkName.RELAY
    box.put(notes(3))
    with Loop(box, Told(), "sender") as loop:
        box.wait_empty()
    names = {sample.name for metric in loop.metrics.registry.collect() for sample in metric.samples}
    assert "application_handler_calls_total" not in names
    assert loop.metric("event_service_stage_out_total", stage="sender") == 3


def test_each_row_has_a_fate_of_its_own(box: Outbox, no_retries: None) -> None:
    box.put(notes(4))
    with Loop(box, Told([say(DELIVERED, Refused("invalid"), Retry("error"), DELIVERED)])) as loop:
        wait_until(lambda: len(box.outcomes()) == 3)
    assert box.outcomes() == {1: "delivered", 2: "refused: invalid", 4: "delivered"}
    assert [(event, claims, failures) for event, claims, failures, _ in box.rows()] == [(3, 1, 1)]
    assert loop.metric("event_service_stage_discarded_total", stage="forwarder", reason="invalid") == 1
    assert loop.metric("event_service_stage_errors_total", stage="forwarder", kind="error") == 1
    calls = "application_handler_calls_total"
    assert loop.metric(calls, handlerName="processSavedEvent", result="success") == 3
    assert loop.metric(calls, handlerName="processSavedEvent", result="error") == 1


def test_what_a_sink_is_offered_is_told(box: Outbox, no_waits: None) -> None:
    """Batches, answers, what is offered again and why, and how long each event took from first seen to delivered."""
    box.put(notes(6))
    in_flight: list[float] = []
    sink = Told()
    loop = Loop(box, sink)
    sink_label = {"sink": "pubsub"}

    def look(batch: Sequence[Message]) -> Verdicts:
        in_flight.append(loop.metric("event_service_sink_in_flight", **sink_label))
        return [DELIVERED, Retry("error"), Refused("invalid"), DELIVERED, None, None]

    sink.answers = [down(), look, down(DELIVERED)]
    with loop:
        box.wait_empty()
    assert in_flight == [6]
    assert loop.metric("event_service_sink_in_flight", **sink_label) == 0
    assert loop.metric("event_service_sink_batch_events_count", **sink_label) == 5
    assert loop.metric("event_service_sink_batch_events_sum", **sink_label) == 6 + 6 + 2 + 1 + 1
    assert loop.metric("event_service_sink_call_seconds_count", **sink_label) == 5
    retries = "event_service_sink_retries_total"
    assert loop.metric(retries, **sink_label, reason="UNAVAILABLE") == 6 + 1
    assert loop.metric(retries, **sink_label, reason="error") == 1
    assert loop.metric("event_service_delivery_seconds_count", **sink_label) == 5
    oldest = 5 * (box.clock.now_ms() / 1000 - NOW)
    assert oldest - 100 < loop.metric("event_service_delivery_seconds_sum", **sink_label) <= oldest


def test_a_row_that_failed_waits_alone(box: Outbox, no_retries: None) -> None:
    """Later ones pass it."""
    first, *others = notes(20)
    box.put([first])
    sink = Told([say(Retry("error"))])
    with Loop(box, sink):
        wait_until(lambda: box.rows() != [] and box.rows()[0][2] == 1)
        box.put(others)
        wait_until(lambda: len(box.outcomes()) == 19)
        assert len(box.rows()) == 1
    assert sink.offered(first.id) == 1


def test_waits_of_a_row_grow_to_an_hour(tmp_path: Path) -> None:
    """By its failures, with jitter; another row's are another matter."""
    clock = ManualClock()
    box = Outbox(tmp_path / "clock.db", clock)
    box.put(notes(1))
    waits = []
    sink = Told(then=lambda batch: [Retry("error")] * len(batch))
    with Loop(box, sink):
        for number in range(1, 10):
            wait_until(lambda number=number: box.rows()[0][2] == number)  # type: ignore[misc]
            ready_at = box.rows()[0][3]
            waits.append((ready_at - clock.now_ms()) / 1000)
            clock.advance(waits[-1])
    for wait, most in zip(waits, [5, 15, 45, 135, 405, 1215, 3600, 3600, 3600], strict=True):
        assert 0.7 * most - 0.001 <= wait <= most
    assert len(set(waits[-3:])) > 1, "jitter"
    box.database.close()


def test_a_failed_row_is_tried_again(box: Outbox, no_waits: None) -> None:
    box.put(notes(3))
    with Loop(box, Told([say(Retry("error"), DELIVERED, Retry("error")), say(Retry("error"), Retry("error"))])):
        box.wait_empty()
    assert set(box.outcomes().values()) == {"delivered"}


def test_a_sink_that_is_down_costs_no_row_anything(box: Outbox, no_waits: None) -> None:
    """However long: hundreds of attempts later the rows have been claimed once and failed never, and then go out."""
    box.put(notes(30))
    sink = Told(then=down())
    with Loop(box, sink) as loop:
        wait_until(lambda: len(sink.batches) > 2 * MAX_CLAIMS)
        assert {(claims, failures) for _, claims, failures, _ in box.rows()} == {(1, 0)}
        sink.then = take
        box.wait_empty()
    assert box.dead() == {}
    assert set(box.outcomes().values()) == {"delivered"}
    failed = len(sink.batches) - 1
    assert loop.metric("event_service_stage_errors_total", stage="forwarder", kind="UNAVAILABLE") == failed
    assert loop.metric("event_service_stage_in_total", stage="forwarder") == 30


def test_waits_for_a_sink_that_is_down_grow_and_are_forgotten(tmp_path: Path) -> None:
    """From a second to five, and from a second again after it worked; the loop beats all the while."""
    clock = ManualClock()
    box = Outbox(tmp_path / "clock.db", clock)
    box.put(notes(1))
    sink = Told([down()] * 9)
    with Loop(box, sink) as loop:
        for number, most in enumerate([1, 2, 4, 5, 5, 5, 5, 5, 5], 1):
            wait_until(lambda number=number: len(sink.batches) == number)  # type: ignore[misc]
            lease = f"at attempt {number} all rows are held for longer than the wait"
            wait_until(lambda most=most: box.rows()[0][3] >= clock.now_ms() + LEASE_MS + 700 * most - 1, lease)  # type: ignore[misc]
            clock.advance(0.69 * most)
            beats = loop.beats
            wait_until(lambda beats=beats: loop.beats > beats)  # type: ignore[misc]
            assert len(sink.batches) == number
            clock.advance(0.32 * most)
        box.wait_empty()
        assert loop.health.failures == 0
    box.database.close()


def test_a_sink_that_is_down_is_offered_one_batch_only(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the backlog stays free for others, and is given a chance as soon as it works again."""
    monkeypatch.setattr(sink_health, "_PATIENCE", Backoff(base_s=0.01, factor=1.0, cap_s=0.01))
    box.put(notes(30))
    sink = Told([down()] * 20, max_messages=10)
    with Loop(box, sink):
        wait_until(lambda: len(sink.batches) >= 15)
        assert sum(claims for _, claims, _, _ in box.rows()) <= 10
        box.wait_empty()
    assert len({tuple(batch) for batch in sink.batches[:20]}) == 1


def test_what_was_settled_before_the_sink_went_down_stays_settled(box: Outbox, no_waits: None) -> None:
    """Published once: only the rest is offered again."""
    signed = notes(6)
    box.put(signed)
    sink = Told([down(DELIVERED, None, Refused("invalid"), Retry("error")), down(), take])
    with Loop(box, sink):
        box.wait_empty()
    assert [len(batch) for batch in sink.batches[:3]] == [6, 3, 3]
    assert [sink.offered(event.id) for event in signed] == [1, 3, 1, 2, 3, 3]
    assert box.outcomes()[3] == "refused: invalid"


def test_what_a_sink_did_not_come_to_is_offered_again_at_once(box: Outbox) -> None:
    """Without a wait and without blame."""
    box.put(notes(5))
    sink = Told([say(DELIVERED, None, None, DELIVERED, None), say(None, DELIVERED, None), say(DELIVERED, None)])
    with Loop(box, sink) as loop:
        box.wait_empty()
    assert [len(batch) for batch in sink.batches] == [5, 3, 2, 1]
    assert loop.metric("event_service_stage_in_total", stage="forwarder") == 5
    assert loop.metric("event_service_stage_out_total", stage="forwarder") == 5


def test_being_stopped_gives_rows_back_at_once(box: Outbox) -> None:
    """Rows held while the sink is down are free for whoever comes next, blamed for nothing."""
    box.put(notes(10))
    sink = Told(then=down())
    with Loop(box, sink) as loop:
        wait_until(lambda: len(sink.batches) >= 1)
        loop.end()
    now = box.clock.now_ms()
    assert all(ready_at <= now and failures == 0 for _, _, failures, ready_at in box.rows())
    with Loop(box, Told()):
        box.wait_empty()


def test_one_of_several_loops_waits_for_rows_while_the_others_deliver(box: Outbox) -> None:
    """They take turns in claiming, none holds up the delivery of another, and all live."""
    entered, go_on = threading.Semaphore(0), threading.Event()

    def slowly(batch: Sequence[Message]) -> Verdicts:
        entered.release()
        assert go_on.wait(PATIENCE_S)
        return take(batch)

    sink = Told([slowly] * 3, max_messages=2)
    loops = [Loop(box, sink) for _ in range(4)]
    turn = threading.Lock()
    for loop in loops:
        assert isinstance(loop.worker, BatchWorker)
        loop.worker.turn = turn
    box.put(notes(6))
    with loops[0], loops[1], loops[2], loops[3]:
        for _ in range(3):
            assert entered.acquire(timeout=PATIENCE_S)
        # The fourth finds nothing; it alone is left to look.
        wait_until(lambda: sink.kept_alive > 0)
        go_on.set()
        box.wait_empty()
        beats = [loop.beats for loop in loops]
        wait_until(lambda: all(loop.beats > before for loop, before in zip(loops, beats, strict=True)))
    assert sorted(map(len, sink.batches)) == [2, 2, 2]


def test_a_batch_under_way_is_finished_before_the_loop_ends(box: Outbox) -> None:
    box.put(notes(3))
    begun, go_on = threading.Event(), threading.Event()

    def slowly(batch: Sequence[Message]) -> Verdicts:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return take(batch)

    with Loop(box, Told([slowly])) as loop:
        assert begun.wait(PATIENCE_S)
        loop.stop.set()
        go_on.set()
    assert box.rows() == []
    assert len(box.outcomes()) == 3


def test_stopping_midway_keeps_what_is_settled_and_frees_the_rest(box: Outbox) -> None:
    """Of a batch that takes several rounds."""
    box.put(notes(4))
    loop = Loop(box, Told())

    def stop_now(batch: Sequence[Message]) -> Verdicts:
        loop.stop.set()
        return [DELIVERED, None, None, None]

    sink = Told([stop_now])
    assert isinstance(loop.worker, BatchWorker)
    loop.worker.sink = sink
    with loop:
        wait_until(loop.stop.is_set)
    assert len(box.rows()) == 3
    assert all(ready_at <= box.clock.now_ms() for *_, ready_at in box.rows())


def test_stale_receipts_change_nothing(box: Outbox) -> None:
    """A loop that overslept its lease settles nothing that is somebody else's by then, and counts it."""
    signed = notes(3)
    box.put(signed)
    begun, go_on = threading.Event(), threading.Event()

    def asleep(batch: Sequence[Message]) -> Verdicts:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return [DELIVERED, Retry("error"), DELIVERED]

    with Loop(box, Told([asleep])) as loop:
        assert begun.wait(PATIENCE_S)
        box.execute("UPDATE outbox SET ready_at = 0 WHERE event < 3")
        with box.database.write() as tx:
            stolen = outbox.claim(tx, SinkName.PUBSUB, now=1, lease=10**15, limit=10)
        go_on.set()
        stale = {"stage": "forwarder", "kind": "stale-receipt"}
        wait_until(lambda: loop.metric("event_service_stage_errors_total", **stale) == 2)
    assert [row.event for row in stolen] == [1, 2]
    assert [(event, claims, failures) for event, claims, failures, _ in box.rows()] == [(1, 2, 0), (2, 2, 0)]


def test_rows_lost_while_the_sink_is_down_are_let_go(box: Outbox, no_waits: None) -> None:
    """Rather than delivered a second time by two loops that both believe to hold them."""
    box.put(notes(4))
    sink = Told(then=down())
    with Loop(box, sink) as loop:
        wait_until(lambda: len(sink.batches) >= 2)
        box.execute("UPDATE outbox SET claims = claims + 1, ready_at = ? WHERE event = 1", 10**15)
        wait_until(lambda: loop.metric("event_service_stage_errors_total", stage="forwarder", kind="stale-receipt") > 0)
        wait_until(lambda: len(sink.batches[-1]) == 3)
        sink.then = take
        wait_until(lambda: len(box.outcomes()) == 3)
    assert [event for event, *_ in box.rows()] == [1]


def test_rows_that_wait_for_their_turn_keep_their_lease(tmp_path: Path) -> None:
    """Behind slow batches, for longer than a lease, without coming up for anybody else."""
    clock = ManualClock()
    path = tmp_path / "clock.db"
    box = Outbox(path, clock)
    box.put(notes(6))
    stolen: list[int] = []

    def rob() -> None:
        rival = Outbox(path, clock)
        with rival.database.write() as tx:
            stolen.append(len(outbox.claim(tx, SinkName.PUBSUB, now=clock.now_ms(), lease=1, limit=10)))
        rival.database.close()

    def slow(batch: Sequence[Message]) -> Verdicts:
        clock.advance(LEASE_MS / 1000 * 0.9)
        robber = threading.Thread(target=rob)
        robber.start()
        robber.join()
        return [DELIVERED] + [None] * (len(batch) - 1)

    sink = Told(then=slow)
    with Loop(box, sink):
        box.wait_empty()
    assert [len(batch) for batch in sink.batches] == [6, 5, 4, 3, 2, 1]
    assert stolen == [0] * 6
    box.database.close()


@pytest.mark.parametrize("claims", [MAX_CLAIMS, MAX_CLAIMS + 10])
def test_a_row_claimed_too_often_is_buried(box: Outbox, claims: int) -> None:
    """With its reason, and its payload kept so that it can be put back; the others go on."""
    box.put(notes(3))
    box.execute("UPDATE outbox SET claims = ? WHERE event = 2", claims)
    sink = Told()
    with Loop(box, sink) as loop:
        box.wait_empty()
    assert box.dead() == {2: "too many claims"}
    assert sorted(box.outcomes()) == [1, 3]
    assert len(sink.ids()) == 2
    assert box.query("SELECT count(*) FROM events WHERE event = 2") == [(1,)]
    assert loop.metric("event_service_stage_discarded_total", stage="forwarder", reason="buried") == 1
    assert loop.metric("event_service_stage_in_total", stage="forwarder") == 3
    assert loop.metric("event_service_stage_out_total", stage="forwarder") == 2


def test_clean_restarts_during_an_outage_bury_nothing(box: Outbox) -> None:
    """What a process gives back when it stops counts against no row, nor makes it suspect."""
    box.put(notes(20))
    for _ in range(MAX_CLAIMS + 5):
        sink = Told(then=down())
        with Loop(box, sink):
            wait_until(lambda sink=sink: len(sink.batches) > 0)  # type: ignore[misc]
    assert box.dead() == {}
    sink = Told()
    with Loop(box, sink):
        box.wait_empty()
    assert [len(batch) for batch in sink.batches] == [20], "together, as nobody is suspect"
    assert len(box.outcomes()) == 20


def test_a_row_without_its_payload_is_buried(box: Outbox) -> None:
    box.put(notes(1))
    box.put(notes(2, first=1), payloads=False)
    with Loop(box, Told()):
        box.wait_empty()
    assert box.dead() == {2: "payload missing", 3: "payload missing"}
    assert box.outcomes() == {1: "delivered"}


@pytest.mark.parametrize("seed", seeds(3))
def test_what_kills_its_process_does_not_drag_others_down(box: Outbox, seed: int) -> None:
    """Rows that were there when processes died go out alone and in any order: only the deadly one is buried."""
    rng = random.Random(seed)
    signed = notes(40)
    deadly = rng.choice(signed).id
    box.put(signed)

    class Death(BaseException):
        """What no loop catches, as SIGKILL."""

    def die(batch: Sequence[Message]) -> Verdicts:
        if any(message.event_id.hex() == deadly for message in batch):
            raise Death
        return take(batch)

    deaths = 0
    while box.rows():
        loop = Loop(box, Told(then=die))
        loop.client.rng = rng
        try:
            with loop:
                wait_until(lambda loop=loop: loop.error is not None or not box.rows())  # type: ignore[misc]
        except Death:
            deaths += 1
        box.execute("UPDATE outbox SET ready_at = 0")
    assert box.dead() == {box.numbers[deadly]: "too many claims"}, f"seed {seed}"
    assert len(box.outcomes()) == 39
    assert deaths == MAX_CLAIMS


def test_suspects_come_last_and_in_the_end_alone(box: Outbox) -> None:
    signed = notes(6)
    box.put(signed)
    box.execute("UPDATE outbox SET claims = ? WHERE event IN (1, 2)", len(MAX_BATCH_BY_LOST_CLAIMS))
    # Claimed as often for failures of its own: nobody died of it.
    box.execute("UPDATE outbox SET claims = ?1, failures = ?1 WHERE event = 3", len(MAX_BATCH_BY_LOST_CLAIMS))
    sink = Told()
    with Loop(box, sink):
        box.wait_empty()
    assert [len(batch) for batch in sink.batches] == [4, 1, 1]
    assert {batch[0] for batch in sink.batches[1:]} == {signed[0].id, signed[1].id}


@pytest.mark.parametrize(("claims", "together"), [(0, 1000), (1, 256), (2, 64), (3, 16), (4, 4)])
def test_a_crash_does_not_make_everything_slow(box: Outbox, claims: int, together: int) -> None:
    """Most crashes are nobody's fault, so suspicion grows step by step."""
    box.put(notes(1000))
    box.execute("UPDATE outbox SET claims = ?", claims)
    sink = Told()
    with Loop(box, sink):
        box.wait_empty()
    assert {len(batch) for batch in sink.batches[:-1]} <= {together}
    assert len(sink.batches) == -(-1000 // together)


@pytest.mark.parametrize("bad", [{0}, {7}, {19}, {3, 4, 11}, set(range(20))])
def test_an_unforeseen_error_is_traced_to_its_row(box: Outbox, no_retries: None, bad: set[int]) -> None:
    """The sink breaks over one event: that one is put off, the others are delivered, the loop lives."""
    signed = notes(20)
    box.put(signed)
    guilty = {signed[index].id for index in bad}

    def break_down(batch: Sequence[Message]) -> Verdicts:
        if any(message.event_id.hex() in guilty for message in batch):
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "unforeseen")
        return take(batch)

    with Loop(box, Told(then=break_down)) as loop:
        wait_until(lambda: len(box.outcomes()) == 20 - len(bad))
        wait_until(lambda: all(failures == 1 for _, _, failures, _ in box.rows()))
    assert {event - 1 for event, *_ in box.rows()} == bad
    kind = {"stage": "forwarder", "kind": "UnicodeDecodeError"}
    assert loop.metric("event_service_stage_errors_total", **kind) == len(bad)


def test_a_sink_that_goes_down_while_an_error_is_traced(box: Outbox, no_waits: None) -> None:
    """What went out in the first half is settled, nobody in the other half is blamed."""
    box.put(notes(4))

    def unforeseen(_: Sequence[Message]) -> Verdicts:
        raise RuntimeError("unforeseen")

    sink = Told([unforeseen, take, down()])
    with Loop(box, sink):
        box.wait_empty()
    assert [len(batch) for batch in sink.batches] == [4, 2, 2, 2]
    assert sink.batches[2] == sink.batches[3]


def test_behind_a_long_backlog_what_is_new_goes_out_soon(box: Outbox) -> None:
    """And what is old all the same."""
    box.put(notes(400))
    wait_until(lambda: box.clock.now_ms() > box.rows()[0][3])
    put: list[tuple[int, str]] = []

    def look(batch: Sequence[Message]) -> Verdicts:
        if len(sink.batches) % 8 == 5 and len(put) < 3:
            event = notes(1, first=1000 + len(put))[0]
            box_of_the_thread = Outbox(box.path, numbers={str(number): number for number in range(400 + len(put))})
            box_of_the_thread.put([event])
            box_of_the_thread.database.close()
            put.append((len(sink.batches), event.id))
        return take(batch)

    sink = Told(then=look, max_messages=10)
    with Loop(box, sink):
        wait_until(lambda: len(box.outcomes()) == 403)
    assert len(put) == 3
    for begun, event_id in put:
        came = next(number for number, batch in enumerate(sink.batches, 1) if event_id in batch)
        assert came <= begun + NEWEST_EVERY
    assert len(sink.batches) == 41, "each batch is as full as it can be"
    assert next(iter(box.numbers)) in sink.batches[0]


def test_claims_are_bounded_in_bytes(box: Outbox) -> None:
    """A thousand of the largest events would be a gigabyte."""
    box.put(notes(130, size=180_000))
    sink = Told()
    with Loop(box, sink):
        box.wait_empty()
    most = CLAIM_BYTES + CLAIM_STEP * 181_000
    assert all(len(batch) * 180_000 <= most for batch in sink.batches)
    assert sorted(map(len, sink.batches)) == [30, 50, 50]


def test_workers_that_wait_for_their_turn_end_with_the_process(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as the turn is handed over; those that come to it claim nothing."""
    monkeypatch.setattr(batch_worker, "_TURN_WAIT_S", 600.0)
    loops = [Loop(box, Told()) for _ in range(4)]
    turn = threading.Lock()
    for loop in loops:
        assert isinstance(loop.worker, BatchWorker)
        loop.worker.turn = turn
    turn.acquire()
    with ExitStack() as stack:
        for loop in loops:
            stack.enter_context(loop)
            wait_until(lambda loop=loop: loop.beats > 0)  # type: ignore[misc]
        box.put(notes(3))
        for loop in loops:
            loop.stop.set()
        turn.release()
    assert len(box.rows()) == 3
    assert box.outcomes() == {}


def test_a_closed_database_ends_the_loop(box: Outbox) -> None:
    """An error that is not a row's is not the loop's to swallow."""

    def drop_tables(batch: Sequence[Message]) -> Verdicts:
        rival = Outbox(box.path)
        rival.execute("ALTER TABLE deliveries RENAME TO elsewhere")
        rival.database.close()
        return take(batch)

    box.put(notes(1))
    loop = Loop(box, Told([drop_tables]))
    with pytest.raises(Exception, match="deliveries"), loop:
        wait_until(lambda: loop.error is not None)


@dataclass
class Fading(Told):
    """A sink that cannot keep its connection for some calls."""

    errors: list[Exception] = field(default_factory=list)

    def keep_alive(self) -> None:
        super().keep_alive()
        if self.errors:
            raise self.errors.pop(0)


@pytest.mark.parametrize(
    ("error", "reason"), [(RuntimeError("boom"), "RuntimeError"), (SinkDown("GONE", "no route"), "GONE")]
)
def test_sink_that_cannot_keep_alive_is_asked_again(
    tmp_path: Path, error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on, counts it, and delivers what comes."""
    monkeypatch.setattr(sink_health, "_PATIENCE", Backoff(base_s=0.001, factor=1.0, cap_s=0.001))
    box, sink = Outbox(tmp_path / "events.db"), Fading(errors=[error, error])
    with Loop(box, sink) as loop:
        wait_until(lambda: sink.kept_alive > 3)
        assert loop.metric("event_service_stage_errors_total", stage="forwarder", kind=reason) == 2
        box.put(notes(1))
        box.wait_empty()
        assert loop.health.failures == 0
    assert len(sink.batches) == 1
