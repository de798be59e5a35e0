"""Rows that were given up, as an operator meets them."""

import pytest

from pipeline.store import dead, events, inbox, outbox
from pipeline.store.database import Database, Tx
from pipeline.store.dead import DeadFilter, DeadQueue, DeadRow
from pipeline.store.events import Accepted
from pipeline.store.inbox import Arrival
from pipeline.store.lease import DeadLetter
from pipeline.store.sinks import SinkName
from tests.support.stored import store_with_payloads

NOW = 1_700_000_000_000
PUBSUB, RELAY = DeadQueue(SinkName.PUBSUB), DeadQueue(SinkName.RELAY)
SINKS = {PUBSUB: SinkName.PUBSUB, RELAY: SinkName.RELAY}
QUEUES = [DeadQueue.INBOX, PUBSUB, RELAY]


def bury(tx: Tx, queue: DeadQueue, number: int, reason: str, at: int) -> None:
    """Let an event die in `queue`."""
    event_id, payload = number.to_bytes(32), b"payload %d" % number
    if queue is DeadQueue.INBOX:
        inbox.append(tx, [Arrival(event_id, payload, 1, NOW, 1)])
        receipts = [row.receipt for row in inbox.claim(tx, now=NOW, lease=1, limit=9)]
        inbox.queue.dead_letter(tx, [DeadLetter(receipt, reason) for receipt in receipts], at)
        return
    store_with_payloads(tx, [Accepted(number, event_id, 1, 1, 1, payload, 1, NOW, 1)])
    outbox.append(tx, SINKS[queue], [number], NOW)
    receipts = [row.receipt for row in outbox.claim(tx, SINKS[queue], now=NOW, lease=1, limit=9)]
    outbox.queue.dead_letter(tx, [DeadLetter(receipt, reason) for receipt in receipts], at)


def find(tx: Tx, queue: DeadQueue, reason: str = "", before: int = NOW + 10**9, limit: int = 100) -> list[DeadRow]:
    return dead.find(tx, DeadFilter(queue, reason, before), limit)


@pytest.mark.parametrize("queue", QUEUES)
def test_rows_are_found_by_reason_and_time_the_oldest_first(db: Database, queue: DeadQueue) -> None:
    with db.write() as tx:
        for number, (reason, at) in enumerate([("Blocked: no", 30), ("timeout", 10), ("blocked: 100% sure", 20)], 1):
            bury(tx, queue, number, reason, NOW + at)
        assert [row.buried_at - NOW for row in find(tx, queue)] == [10, 20, 30]
        assert [row.event_id for row in find(tx, queue, "BLOCKED")] == [n.to_bytes(32) for n in (3, 1)]
        assert [row.reason for row in find(tx, queue, "%")] == ["blocked: 100% sure"]
        assert [row.reason for row in find(tx, queue, before=NOW + 10)] == ["timeout"]
        assert len(find(tx, queue, limit=2)) == 2
        (row,) = find(tx, queue, "timeout")
        assert (row.queue, row.claims, row.failures) == (queue, 1, 0)
        assert dead.payload(tx, row) == b"payload 2"


@pytest.mark.parametrize("queue", QUEUES)
def test_a_row_can_be_put_back_or_dropped_for_good(db: Database, queue: DeadQueue) -> None:
    with db.write() as tx:
        for number in (1, 2):
            bury(tx, queue, number, "why", NOW)
        first, second = find(tx, queue)
        assert dead.retry(tx, queue, [first.seq], NOW + 1) == 1
        assert dead.drop(tx, queue, [second.seq], NOW + 1) == 1
        assert find(tx, queue) == []
        assert dead.drop(tx, queue, [second.seq], NOW + 1) == dead.retry(tx, queue, [first.seq], NOW + 1) == 0
        if queue is DeadQueue.INBOX:
            (row,) = inbox.claim(tx, now=NOW + 1, lease=1, limit=9)
            assert row.event_id == (1).to_bytes(32)
        else:
            (put_back,) = outbox.claim(tx, SINKS[queue], now=NOW + 1, lease=1, limit=9)
            assert put_back.event_id == (1).to_bytes(32)


def test_rows_of_one_sink_are_not_found_at_the_other(db: Database) -> None:
    with db.write() as tx:
        bury(tx, RELAY, 1, "why", NOW)
        assert find(tx, PUBSUB) == find(tx, DeadQueue.INBOX) == []


def test_a_payload_may_be_dropped_once_its_dead_row_is(db: Database) -> None:
    with db.write() as tx:
        bury(tx, RELAY, 1, "why", NOW)
        assert events.drop_delivered(tx, after=0, done_before=NOW + 10, limit=9).dropped == 0
        (row,) = find(tx, RELAY)
        dead.drop(tx, RELAY, [row.seq], NOW + 5)
        assert dead.payload(tx, row) is None
        assert events.drop_delivered(tx, after=0, done_before=NOW + 10, limit=9).dropped == 1


def test_a_row_whose_payload_is_gone_is_still_found(db: Database) -> None:
    with db.write() as tx:
        bury(tx, PUBSUB, 1, "why", NOW)
        tx.execute("DELETE FROM events")
        tx.execute("DELETE FROM payloads")
        (row,) = find(tx, PUBSUB)
        assert (row.event_id, dead.payload(tx, row)) == (b"", None)


def test_payloads_leave_with_the_dead_letters_of_the_inbox_that_are_purged(db: Database) -> None:
    """One that is queued again keeps its own, under a new number of its row."""
    with db.write() as tx:
        inbox.append(tx, [Arrival(bytes([number]) * 32, b"%d" % number, 1, NOW, 1) for number in (1, 2, 3)])
        letters = [DeadLetter(row.receipt, "why") for row in inbox.claim(tx, now=NOW, lease=1, limit=2)]
        inbox.queue.dead_letter(tx, letters, NOW)
        assert dead.drop(tx, DeadQueue.INBOX, [letters[0].receipt.seq], NOW) == 1
        assert dead.retry(tx, DeadQueue.INBOX, [letters[1].receipt.seq], NOW) == 1
        assert [row.raw for row in inbox.claim(tx, now=NOW + 1, lease=1, limit=9)] == [b"3", b"2"]
        assert tx.execute("SELECT payload FROM payloads ORDER BY event").fetchall() == [(b"2",), (b"3",)]
