"""What the inbox takes: each event once, however many bring it."""

import threading
from pathlib import Path

import apsw
import pytest

from pipeline.process.clock import ManualClock
from pipeline.store import events, inbox
from pipeline.store.database import Database, Tx
from pipeline.store.events import Accepted
from pipeline.store.inbox import Arrival
from pipeline.store.lease import DeadLetter, Postponed
from pipeline.store.schema import open_database

NOW = 1_700_000_000_000


def arrival(number: int, received_at: int = NOW) -> Arrival:
    return Arrival(number.to_bytes(32), b"%d" % number, 7, received_at, 1)


def see(tx: Tx, number: int) -> None:
    events.accept(tx, [Accepted(10_000 + number, number.to_bytes(32), 1, 1, 1, b"", 1, NOW, 0)], NOW)


def test_what_is_new_is_said_and_claimed_with_all_its_fields(db: Database) -> None:
    with db.write() as tx:
        assert inbox.append(tx, [arrival(1), arrival(2)]) == {(1).to_bytes(32), (2).to_bytes(32)}
        (first, second) = inbox.claim(tx, now=NOW, lease=10, limit=9)
    assert (first.event_id, first.raw, first.relay, first.received_at) == ((1).to_bytes(32), b"1", 7, NOW)
    assert (first.receipt.claims, first.failures) == (1, 0)
    assert second.receipt.seq > first.receipt.seq


def test_an_event_that_is_waiting_seen_or_dead_is_not_taken_again(db: Database) -> None:
    with db.write() as tx:
        inbox.append(tx, [arrival(1), arrival(3)])
        see(tx, 2)
        dead = inbox.claim(tx, now=NOW, lease=10, limit=9)[1]
        inbox.queue.dead_letter(tx, [DeadLetter(dead.receipt, "broken")], NOW)
        assert inbox.append(tx, [arrival(n) for n in (1, 2, 3, 4, 4)]) == {(4).to_bytes(32)}
        assert (inbox.waiting(tx), inbox.dead(tx)) == (2, 1)


def test_an_event_that_was_acked_without_being_seen_comes_in_again(db: Database) -> None:
    """The saver drops an unwanted event without a trace, so that it can come in once its author is wanted."""
    with db.write() as tx:
        inbox.append(tx, [arrival(1)])
        inbox.queue.ack(tx, [row.receipt for row in inbox.claim(tx, now=NOW, lease=10, limit=9)])
        assert inbox.append(tx, [arrival(1)]) == {(1).to_bytes(32)}


def test_what_another_connection_appended_meanwhile_is_not_new(db: Database, path: Path, clock: ManualClock) -> None:
    """Two crawlers bring the same events at the same time; each event is new to exactly one of them."""
    new: list[set[bytes]] = []

    def append() -> None:
        with open_database(path, clock) as other:
            mine: set[bytes] = set()
            for first in range(0, 200, 20):
                with other.write() as tx:
                    mine |= inbox.append(tx, [arrival(n) for n in range(first, first + 20)])
            new.append(mine)

    threads = [threading.Thread(target=append) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(map(len, new)) == len(set().union(*new)) == 200
    with db.read() as tx:
        assert inbox.waiting(tx) == 200


def test_an_id_of_the_wrong_length_is_refused(db: Database) -> None:
    with pytest.raises(apsw.ConstraintError), db.write() as tx:
        inbox.append(tx, [Arrival(b"short", b"", 1, NOW, 1)])


def test_claims_take_the_rows_that_have_been_ready_for_longest(db: Database) -> None:
    with db.write() as tx:
        inbox.append(tx, [arrival(1, NOW + 20), arrival(2, NOW + 10), arrival(3, NOW + 30), arrival(4, NOW + 99)])
        claimed = inbox.claim(tx, now=NOW + 30, lease=10, limit=2)
        assert sorted(row.raw for row in claimed) == [b"1", b"2"]
        assert [row.raw for row in inbox.claim(tx, now=NOW + 30, lease=10, limit=9)] == [b"3"]


def test_ready_rows_are_those_that_a_claim_takes_and_stay_as_they_are(db: Database) -> None:
    with db.write() as tx:
        inbox.append(tx, [arrival(1, NOW + 20), arrival(2, NOW + 10), arrival(3, NOW + 30), arrival(4, NOW + 99)])
    with db.read() as tx:
        found = inbox.ready(tx, now=NOW + 30, limit=2)
        assert inbox.ready(tx, now=NOW + 30, limit=2) == found
    with db.write() as tx:
        claimed = inbox.claim(tx, now=NOW + 30, lease=10, limit=2)
        assert [row._replace(receipt=row.receipt._replace(claims=1)) for row in found] == claimed
        assert inbox.queue.ack(tx, (row.receipt for row in found)) == 0, "another has them"
        assert inbox.queue.ack(tx, (row.receipt for row in claimed)) == 2


def test_what_waits_is_told_without_a_claim(db: Database) -> None:
    with db.write() as tx:
        assert inbox.ready(tx, now=NOW, limit=9) == []
        assert inbox.next_ready_at(tx) is inbox.oldest_received_at(tx) is None
        assert inbox.waiting(tx) == 0
        assert inbox.size(tx, 5) == inbox.size(tx) == (0, 0)
        inbox.append(tx, [arrival(n, NOW + n) for n in range(10)])
        assert inbox.ready(tx, now=NOW - 1, limit=9) == []
        assert inbox.ready(tx, now=NOW, limit=9)
        assert inbox.next_ready_at(tx) == inbox.oldest_received_at(tx) == NOW
        assert inbox.waiting(tx) == 10
        assert [inbox.size(tx, most).events for most in (None, 5, 50)] == [10, 5, 10]
        inbox.claim(tx, now=NOW + 3, lease=1000, limit=9)
        assert inbox.next_ready_at(tx) == NOW + 4
        assert inbox.oldest_received_at(tx) == NOW
        assert inbox.waiting(tx) == 10


def test_bytes_that_wait_follow_every_transition(db: Database) -> None:
    """Leased and put off rows wait too; what is buried does not, until it is put back."""
    with db.write() as tx:
        inbox.append(tx, [Arrival(bytes([n]) * 32, bytes(1_000 * n), 1, NOW, 1) for n in (1, 2, 3)])
        assert inbox.size(tx) == (3, 6_000)
        first, second, _ = inbox.claim(tx, now=NOW, lease=10, limit=9)
        inbox.queue.nack(tx, [Postponed(second.receipt, NOW + 10**6)])
        assert inbox.size(tx) == (3, 6_000)
        assert inbox.size(tx, 2).events == 2
        inbox.queue.dead_letter(tx, [DeadLetter(first.receipt, "bad")], NOW)
        assert inbox.size(tx) == (2, 5_000)
        inbox.queue.requeue(tx, [first.receipt.seq], NOW)
        assert inbox.size(tx) == (3, 6_000)
