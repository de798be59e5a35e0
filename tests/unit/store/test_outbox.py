"""What each sink is owed, apart from what the others are."""

from pipeline.store import events, outbox
from pipeline.store.database import Database, Tx
from pipeline.store.events import Accepted
from pipeline.store.lease import DeadLetter, Postponed
from pipeline.store.outbox import Settled
from pipeline.store.sinks import SinkName
from tests.support.stored import store_with_payloads

NOW = 1_700_000_000_000
PUBSUB, RELAY = SinkName.PUBSUB, SinkName.RELAY


def accept(tx: Tx, *numbers: int) -> None:
    accepted = [Accepted(n, n.to_bytes(32), 1, 1, 1, b"payload %d" % n, 1, NOW + n, 2) for n in numbers]
    events.accept(tx, accepted, NOW)
    store_with_payloads(tx, accepted)


def test_each_sink_claims_its_own_rows_only(db: Database) -> None:
    with db.write() as tx:
        accept(tx, 1, 2, 3)
        outbox.append(tx, PUBSUB, [1, 2, 3], NOW)
        outbox.append(tx, RELAY, [2], NOW)
        relay = outbox.claim(tx, RELAY, now=NOW, lease=10, limit=9)
        assert [(row.event, row.event_id, row.payload, row.received_at) for row in relay] == [
            (2, (2).to_bytes(32), b"payload 2", NOW + 2)
        ]
        assert outbox.claim(tx, RELAY, now=NOW, lease=10, limit=9) == []
        assert not outbox.any_ready(tx, RELAY, NOW)
        assert outbox.any_ready(tx, PUBSUB, NOW)
        assert [row.event for row in outbox.claim(tx, PUBSUB, now=NOW, lease=10, limit=2)] == [1, 2]
        assert [row.event for row in outbox.claim(tx, PUBSUB, now=NOW, lease=10, limit=9)] == [3]


def test_what_happens_to_a_row_of_one_sink_leaves_the_other_alone(db: Database) -> None:
    """A sink that is down must not delay, repeat or bury anything at another."""
    with db.write() as tx:
        accept(tx, 1)
        for sink in (SinkName.PUBSUB, SinkName.RELAY):
            outbox.append(tx, sink, [1], NOW)
        (relay,) = outbox.claim(tx, RELAY, now=NOW, lease=10, limit=9)
        outbox.queue.nack(tx, [Postponed(relay.receipt, NOW + 10**6)])
        (again,) = outbox.claim(tx, RELAY, now=NOW + 10**6, lease=10, limit=9)
        assert again.failures == 1
        outbox.queue.dead_letter(tx, [DeadLetter(again.receipt, "blocked")], NOW)
        assert (outbox.dead(tx, RELAY), outbox.dead(tx, PUBSUB)) == (1, 0)
        (pubsub,) = outbox.claim(tx, PUBSUB, now=NOW, lease=10, limit=9)
        assert (pubsub.failures, pubsub.receipt.claims) == (0, 1)
        assert outbox.settle(tx, [Settled(pubsub, "ok")], NOW) == 1
        assert outbox.queue.requeue(tx, [again.receipt.seq], NOW) == 1
        assert (outbox.waiting(tx, RELAY), outbox.waiting(tx, PUBSUB)) == (1, 0)


def test_the_outcome_stays_when_the_row_is_gone_and_the_first_one_stands(db: Database) -> None:
    with db.write() as tx:
        accept(tx, 1)
        outbox.append(tx, RELAY, [1], NOW)
        (first,) = outbox.claim(tx, RELAY, now=NOW, lease=10, limit=9)
        (second,) = outbox.claim(tx, RELAY, now=NOW + 10, lease=10, limit=9)
        # The first holder was late, but it did deliver; the second one still has the row.
        assert outbox.settle(tx, [Settled(first, "accepted")], NOW + 11) == 0
        assert outbox.waiting(tx, RELAY) == 1
        assert outbox.settle(tx, [Settled(second, "duplicate")], NOW + 12) == 1
        assert outbox.waiting(tx, RELAY) == 0
        assert tx.execute("SELECT * FROM deliveries").fetchall() == [(1, "relay", "accepted", NOW + 11)]


def test_a_row_whose_payload_is_gone_is_claimed_with_nothing_in_it(db: Database) -> None:
    """So that the sink can bury it, instead of meeting it again and again."""
    with db.write() as tx:
        outbox.append(tx, PUBSUB, [1], NOW)
        (row,) = outbox.claim(tx, PUBSUB, now=NOW, lease=10, limit=9)
    assert (row.event, row.event_id, row.payload) == (1, b"", b"")


def test_depth_and_age_are_told_by_sink(db: Database) -> None:
    with db.write() as tx:
        assert outbox.oldest_received_at(tx, PUBSUB) is None
        accept(tx, *range(1, 11))
        outbox.append(tx, RELAY, [1, 2], NOW)
        outbox.append(tx, PUBSUB, range(3, 11), NOW)
        assert outbox.waiting(tx, PUBSUB) == outbox.size(tx, PUBSUB).events == 8
        assert [outbox.size(tx, sink, 5).events for sink in (PUBSUB, RELAY)] == [5, 2]
        (row,) = outbox.claim(tx, PUBSUB, now=NOW, lease=1000, limit=1)
        outbox.queue.nack(tx, [Postponed(row.receipt, NOW + 10**9)])
        # A row that is backing off is still the oldest that waits.
        assert outbox.oldest_received_at(tx, PUBSUB) == NOW + 3
        assert outbox.oldest_received_at(tx, RELAY) == NOW + 1


def test_bytes_that_wait_are_those_of_the_payloads(db: Database) -> None:
    with db.write() as tx:
        accept(tx, 1, 2)
        payloads = [len(payload) for (payload,) in tx.execute("SELECT payload FROM payloads ORDER BY event")]
        outbox.append(tx, PUBSUB, [1, 2, 99], NOW)
        outbox.append(tx, RELAY, [2], NOW)
        assert outbox.size(tx, PUBSUB) == (3, sum(payloads))
        assert outbox.size(tx, RELAY) == (1, payloads[1])
        assert outbox.drop_oldest(tx, PUBSUB, 1, "full", NOW) == (1, payloads[0])
        assert outbox.size(tx, PUBSUB) == (2, payloads[1])
