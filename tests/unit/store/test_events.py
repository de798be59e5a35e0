"""Accepted events: known for as long as retention says, stored until all deliveries are done."""

import random
import time

import pytest

from pipeline.store import events, inbox, outbox
from pipeline.store.database import Database, Tx
from pipeline.store.events import Accepted
from pipeline.store.inbox import Arrival
from pipeline.store.outbox import Settled
from pipeline.store.retention_step import RetentionBatch
from pipeline.store.sinks import SinkName
from tests.support.seeds import seeds
from tests.support.stored import store_with_payloads

NOW = 1_700_000_000_000


def accepted(number: int, *, sinks: int = 2, received_at: int = NOW, payload: bytes = b"{}") -> Accepted:
    return Accepted(number, number.to_bytes(32), 1, 1, 1, payload, 1, received_at, sinks)


def deliver(tx: Tx, event: int, sink: SinkName, at: int) -> None:
    row = outbox.claim(tx, sink, now=at, lease=0, limit=10_000)
    mine = [each for each in row if each.event == event]
    assert len(mine) == 1
    outbox.settle(tx, [Settled(mine[0], "ok")], at)


def stored(tx: Tx) -> set[int]:
    return {event for (event,) in tx.execute("SELECT event FROM events")}


def test_an_id_is_accepted_once(db: Database) -> None:
    with db.write() as tx:
        assert events.accept(tx, [accepted(1), accepted(2), accepted(1)], NOW) == {n.to_bytes(32) for n in (1, 2)}
        assert events.accept(tx, [accepted(2), accepted(3)], NOW) == {(3).to_bytes(32)}
        asked = [((1).to_bytes(32), 1), ((4).to_bytes(32), 1), ((2).to_bytes(32), 1), ((3).to_bytes(32), 2)]
        # No event has the last of these ids and another time.
        assert events.seen(tx, asked) == {(1).to_bytes(32), (2).to_bytes(32)}


def test_an_id_that_was_noted_without_its_time_is_known_at_any_time(db: Database) -> None:
    with db.write() as tx:
        assert not events.any_without_time(tx)
        events.accept(tx, [accepted(1)._replace(created_at=events.NO_TIME)], NOW)
        assert events.any_without_time(tx)
        assert events.seen(tx, [((1).to_bytes(32), 77), ((2).to_bytes(32), 77)]) == {(1).to_bytes(32)}
        again = [accepted(number)._replace(created_at=77) for number in (1, 2)]
        assert events.accept(tx, again, NOW) == {(2).to_bytes(32)}
        assert inbox.append(tx, [Arrival((n).to_bytes(32), b"{}", 1, NOW, 77) for n in (1, 2, 3)]) == {(3).to_bytes(32)}


def test_a_payload_is_dropped_once_every_delivery_it_owes_is_old_enough(db: Database) -> None:
    with db.write() as tx:
        store_with_payloads(
            tx, [accepted(1), accepted(2), accepted(3, sinks=1), accepted(4, sinks=0), accepted(5, sinks=0)]
        )
        for sink, numbers in ((SinkName.PUBSUB, [1, 2, 3]), (SinkName.RELAY, [1, 2])):
            outbox.append(tx, sink, numbers, NOW)
        deliver(tx, 1, SinkName.PUBSUB, NOW + 10)
        deliver(tx, 1, SinkName.RELAY, NOW + 50)
        deliver(tx, 2, SinkName.PUBSUB, NOW + 10)
        deliver(tx, 3, SinkName.PUBSUB, NOW + 20)

        def drop(done_before: int) -> int:
            return events.drop_delivered(tx, after=0, done_before=done_before, limit=100).dropped

        assert drop(NOW - 1) == 0
        assert drop(NOW + 19) == 2  # those that owe nothing go by when they came
        assert stored(tx) == {1, 2, 3}
        assert drop(NOW + 20) == 1
        assert drop(NOW + 49) == 0
        assert drop(NOW + 50) == 1
        assert drop(NOW + 10**9) == 0, "the relay has not had it yet"
        assert stored(tx) == {2}


@pytest.mark.parametrize("seed", seeds(3))
def test_walking_in_slices_drops_the_same_as_one_look_at_everything(db: Database, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    bound, expected = NOW + 500, set()
    with db.write() as tx:
        for number in rng.sample(range(1, 500), 120):
            sinks = rng.randrange(3)
            times = [NOW + rng.randrange(1000) for _ in range(rng.randrange(sinks + 1))]
            received_at = NOW + rng.randrange(-500, 0) if times else NOW + rng.randrange(1000)
            store_with_payloads(tx, [accepted(number, sinks=sinks, received_at=received_at)])
            for sink, at in zip((SinkName.PUBSUB, SinkName.RELAY), times, strict=False):
                tx.execute("INSERT INTO deliveries VALUES (?, ?, 'ok', ?)", (number, sink, at))
            if len(times) == sinks and max((received_at, *times)) <= bound:
                expected.add(number)
        before, after, looked_at, limit = stored(tx), 0, 0, rng.randrange(1, 40)
        while True:
            done = events.drop_delivered(tx, after=after, done_before=bound, limit=limit)
            looked_at += done.looked_at
            assert done.looked_at <= limit
            if done.looked_at < limit:
                break
            assert done.last > after
            after = done.last
        assert looked_at == len(before)
        assert before - stored(tx) == expected


def test_a_slice_looks_at_no_more_than_it_may_however_many_are_not_done(db: Database) -> None:
    """It runs under the write lock: walking over everything that waits would hold up every other process."""
    with db.write() as tx:
        store_with_payloads(tx, [accepted(n, payload=bytes(700), received_at=NOW + 10**6) for n in range(1, 20_001)])
        began = time.process_time()
        for _ in range(20):
            done = events.drop_delivered(tx, after=0, done_before=NOW, limit=10)
            assert (done.looked_at, done.dropped, done.last) == (10, 0, 10)
        in_slices = time.process_time() - began
        began = time.process_time()
        events.drop_delivered(tx, after=0, done_before=NOW, limit=20_000)
        assert in_slices < (time.process_time() - began) * 5


def test_ids_are_forgotten_by_when_they_were_seen_in_slices(db: Database) -> None:
    rng = random.Random(3)
    times = {rng.randrange(2**60).to_bytes(32): NOW + rng.randrange(100) for _ in range(100)}
    with db.write() as tx:
        for number, (event_id, seen_at) in enumerate(times.items()):
            events.accept(tx, [Accepted(number, event_id, number % 3, 1, 1, b"", 1, NOW, 0)], seen_at)
        after, dropped = events.FIRST_SEEN, 0
        while True:
            done = events.forget_seen(tx, after=after, seen_before=NOW + 50, limit=7)
            dropped += done.dropped
            if done.last == events.FIRST_SEEN:
                break
            assert done.last > after
            after = done.last
        assert dropped == sum(seen_at < NOW + 50 for seen_at in times.values())
        left = events.seen(tx, ((event_id, number % 3) for number, event_id in enumerate(times)))
        assert left == {event_id for event_id, seen_at in times.items() if seen_at >= NOW + 50}


def test_outcomes_are_forgotten_by_their_time_among_the_oldest(db: Database) -> None:
    with db.write() as tx:
        for event in range(1, 11):
            outbox.append(tx, SinkName.PUBSUB, [event], NOW)
            (row,) = outbox.claim(tx, SinkName.PUBSUB, now=NOW, lease=1, limit=9)
            outbox.settle(tx, [Settled(row, "ok")], NOW + event)
        assert events.forget_deliveries(tx, after=0, before=NOW + 8, limit=5) == RetentionBatch(5, 5, 5)
        assert events.forget_deliveries(tx, after=5, before=NOW + 8, limit=5) == RetentionBatch(5, 2, 10)
        assert events.forget_deliveries(tx, after=10, before=NOW + 8, limit=5) == RetentionBatch(0, 0, 0)
        left = tx.execute("SELECT event FROM deliveries ORDER BY event").fetchall()
    assert left == [(8,), (9,), (10,)]
