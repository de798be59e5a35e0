"""Rows of replays: behind everything new, marked, counted apart, and never dead letters."""

import threading
from collections.abc import Sequence

import pytest

from pipeline.delivery import batch_worker
from pipeline.delivery.outbox_client import LEASE_MS, MAX_CLAIMS, reclaim_leases
from pipeline.delivery.replay_client import MAX_ROWS
from pipeline.nostr.event import event_from_json
from pipeline.process.clock import SystemClock
from pipeline.sinks.attributes import attributes
from pipeline.sinks.base import DELIVERED, Message, Refused, Retry, Verdicts
from pipeline.store import authors, events, replay_queue, retractions
from pipeline.store.authors import Authors
from tests.factories.events import SignedEvent
from tests.integration.delivery.support import ALICE, NOW, PATIENCE_S, Loop, Outbox, canonical, notes, wait_until
from tests.integration.delivery.test_batch_worker import Told, down, say, take


def delivered(box: Outbox, signed: Sequence[SignedEvent]) -> None:
    """Have events delivered for the first time."""
    box.put(signed)
    with Loop(box, Told()):
        box.wait_empty()


def queued(box: Outbox) -> int:
    return len(box.query("SELECT seq FROM replay_queue"))


def test_replayed_event_is_the_same_message_but_for_the_mark(box: Outbox) -> None:
    signed = notes(3)
    delivered(box, signed)
    before = {message.event_id: attributes(message) for message in (sent_for_first_time(event) for event in signed)}
    box.replay(signed)
    sent: list[Message] = []

    def keep(batch: Sequence[Message]) -> Verdicts:
        sent.extend(batch)
        return take(batch)

    with Loop(box, Told(then=keep)):
        wait_until(lambda: box.replayed() == (3, 0, 0, 0))
    assert {message.event_id: attributes(message) for message in sent} == {
        event_id: known | {"replay": "true"} for event_id, known in before.items()
    }
    assert [message.payload for message in sent] == [canonical(event) for event in signed]


def sent_for_first_time(event: SignedEvent) -> Message:
    return Message(bytes.fromhex(event.id), canonical(event), NOW * 1000)


def test_replay_counts_nowhere_but_in_its_own_metric(box: Outbox) -> None:
    signed = notes(4)
    delivered(box, signed)
    before = box.query("SELECT event, sink, outcome, at FROM deliveries")
    box.replay(signed)
    with Loop(box, Told()) as loop:
        wait_until(lambda: box.replayed() == (4, 0, 0, 0))
    assert loop.metric("event_service_replayed_total", sink="pubsub", outcome="delivered") == 4
    assert loop.metric("event_service_stage_in_total", stage="forwarder") == 0
    assert loop.metric("event_service_stage_out_total", stage="forwarder") == 0
    assert loop.metric("application_handler_calls_total", handlerName="processSavedEvent", result="success") == 0
    assert loop.metric("event_service_delivery_seconds_count", sink="pubsub") == 0
    assert box.query("SELECT event, sink, outcome, at FROM deliveries") == before


def test_new_events_go_before_all_replayed_ones_that_wait(box: Outbox) -> None:
    old, new = notes(3 * MAX_ROWS), notes(700, first=10_000)
    delivered(box, old)
    box.replay(old)
    box.put(new)
    # Several claims, each of which might take replayed rows, too.
    sink = Told(max_messages=100)
    with Loop(box, sink):
        wait_until(lambda: box.replayed() == (len(old), 0, 0, 0))
    ids = sink.ids()
    assert set(ids[: len(new)]) == {event.id for event in new}
    assert sorted(ids[len(new) :]) == sorted(event.id for event in old)


def test_event_that_comes_during_a_replay_waits_for_one_call_at_most(box: Outbox) -> None:
    """It comes while the first call with replayed rows is under way, and is in the next one."""
    old, (new,) = notes(3 * MAX_ROWS), notes(1, first=10_000)
    delivered(box, old)
    box.replay(old)

    def put_meanwhile(batch: Sequence[Message]) -> Verdicts:
        box.put([new])
        return take(batch)

    sink = Told([put_meanwhile])
    with Loop(box, sink):
        wait_until(lambda: box.replayed() == (len(old), 0, 0, 0))
    assert len(sink.batches[0]) == MAX_ROWS
    assert sink.batches[1] == [new.id]


def test_one_worker_at_a_time_has_replayed_rows(box: Outbox) -> None:
    """While it waits for the sink, the other one delivers what is new."""
    old, new = notes(2 * MAX_ROWS), notes(5, first=10_000)
    delivered(box, old)
    box.replay(old)
    go_on = threading.Event()

    def hold(batch: Sequence[Message]) -> Verdicts:
        assert go_on.wait(PATIENCE_S)
        return take(batch)

    slow, quick = Told([hold]), Told()
    with Loop(box, slow) as first:
        assert slow.called.wait(PATIENCE_S)
        second = Loop(box, quick, unsettled=first.client.unsettled)
        second.worker.replays = first.replays  # type: ignore[union-attr]
        with second:
            box.put(new)
            wait_until(lambda: len(box.outcomes()) == len(old) + len(new))
            assert sorted(quick.ids()) == sorted(event.id for event in new)
            go_on.set()
            wait_until(lambda: box.replayed() == (len(old), 0, 0, 0))


def test_refused_and_hopeless_rows_are_counted_and_no_dead_letters(box: Outbox) -> None:
    signed = notes(4)
    delivered(box, signed)
    box.replay(signed)
    box.execute("UPDATE replay_queue SET claims = ? WHERE event = 4", MAX_CLAIMS + 1)
    sink = Told([say(Refused("invalid", dead_letter=True), Refused("too-large"), DELIVERED)])
    with Loop(box, sink) as loop:
        wait_until(lambda: box.replayed() == (1, 3, 0, 0))
    assert box.dead() == {}
    assert loop.metric("event_service_replayed_total", sink="pubsub", outcome="refused") == 3


def test_failed_row_is_tried_again(box: Outbox, no_waits: None) -> None:
    signed = notes(2)
    delivered(box, signed)
    box.replay(signed)
    sink = Told([say(Retry("error"), DELIVERED)])
    with Loop(box, sink):
        wait_until(lambda: box.replayed() == (2, 0, 0, 0))
    assert sink.offered(signed[0].id) == 2
    assert sink.offered(signed[1].id) == 1


def test_rows_wait_in_the_queue_while_the_sink_is_down(
    box: Outbox, no_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what comes meanwhile goes before them once it is back; the outage is nobody's failure."""
    monkeypatch.setattr(batch_worker, "_IDLE_S", 0.01)
    signed, (new,) = notes(2), notes(1, first=10_000)
    delivered(box, signed)
    box.replay(signed)

    def down_and_new(batch: Sequence[Message]) -> Verdicts:
        box.put([new])
        return down()(batch)

    sink = Told([down(), down_and_new])
    with Loop(box, sink) as loop:
        wait_until(lambda: box.replayed() == (2, 0, 0, 0))
        assert loop.worker.problem() == ""
    replayed = [event.id for event in signed]
    assert sink.batches == [replayed, replayed, [new.id], replayed]


def test_retracted_event_is_not_replayed(box: Outbox) -> None:
    """Deleted, expired by now, or by one who has vanished; requests to delete and to vanish are sent nevertheless."""
    kept, deleted = notes(2)
    expired = ALICE.sign("soon", kind=1, created_at=NOW, tags=[("expiration", str(NOW + 1))])
    deletion = ALICE.sign("", kind=5, created_at=NOW, tags=[("e", deleted.id)])
    everything = [kept, deleted, expired, deletion]
    delivered(box, everything)
    with box.database.write() as tx:
        alice = Authors().intern(tx, bytes.fromhex(ALICE.pubkey))
        retractions.delete(tx, [bytes.fromhex(deleted.id), bytes.fromhex(deletion.id)], alice, NOW * 1000)
    box.replay(everything)
    sink = Told()
    with Loop(box, sink) as loop:
        wait_until(lambda: box.replayed() == (2, 0, 2, 0))
    assert set(sink.ids()) == {kept.id, deletion.id}
    assert loop.metric("event_service_replayed_total", sink="pubsub", outcome="retracted") == 2
    with box.database.write() as tx:
        retractions.vanish(tx, alice, NOW + 100, NOW * 1000)
        assert authors.find(tx, bytes.fromhex(ALICE.pubkey)) == alice
    box.replay([kept])
    with Loop(box, sink):
        wait_until(lambda: box.replayed() == (0, 0, 1, 0))


@pytest.mark.parametrize(("kind", "is_retracted"), [(1, True), (5, False), (62, False)])
def test_request_to_delete_or_vanish_is_not_retracted_itself(box: Outbox, kind: int, *, is_retracted: bool) -> None:
    event = event_from_json(ALICE.sign("x", kind=kind, created_at=NOW).raw.encode())
    with box.database.write() as tx:
        retractions.vanish(tx, Authors().intern(tx, event.pubkey), NOW, NOW * 1000)
        assert (retractions.how_retracted(tx, event, NOW) is not None) is is_retracted


def test_payload_is_kept_while_a_replay_has_it(box: Outbox) -> None:
    signed = notes(3)
    delivered(box, signed)
    box.replay(signed[:1])
    later = SystemClock().now_ms() + 1

    def drop() -> int:
        with box.database.write() as tx:
            return events.drop_delivered(tx, after=0, done_before=later, limit=100).dropped

    assert drop() == 2
    with Loop(box, Told()):
        wait_until(lambda: box.replayed() == (1, 0, 0, 0))
    assert drop() == 1


def test_rows_of_a_forwarder_that_died_are_taken_by_the_next(box: Outbox) -> None:
    signed = notes(3)
    delivered(box, signed)
    box.replay(signed)
    with box.database.write() as tx:
        now = SystemClock().now_ms()
        held = replay_queue.claim(tx, box.sink, now=now, lease=LEASE_MS, limit=2, holder="forwarder-0")
        assert len(held) == 2
    reclaim_leases(box.database, "forwarder-0", SystemClock().now_ms())
    with Loop(box, Told()):
        wait_until(lambda: box.replayed() == (3, 0, 0, 0))


def test_rows_that_a_clock_ahead_scheduled_are_called_back(box: Outbox) -> None:
    signed = notes(1)
    delivered(box, signed)
    box.replay(signed)
    now = SystemClock().now_ms()
    box.execute("UPDATE replay_queue SET ready_at = ?", now + 10**9)
    with box.database.write() as tx:
        assert replay_queue.has_future_rows(tx, now)
        assert replay_queue.reset_future_rows(tx, now) == 1
        assert not replay_queue.has_future_rows(tx, now)
        assert replay_queue.any_ready(tx, box.sink, now)
