"""What is noted of the last hour."""

from pipeline.store import events, inbox, outbox, throughput
from pipeline.store.database import Database
from pipeline.store.events import Accepted
from pipeline.store.inbox import Arrival
from pipeline.store.outbox import Settled
from pipeline.store.sinks import SinkName

NOW = 1_700_000_000_000


def test_a_sample_tells_what_arrived_was_handed_on_and_waits(db: Database) -> None:
    """Delays are of what was delivered since the sample before."""
    with db.write() as tx:
        inbox.append(tx, [Arrival(bytes([number]) * 32, b"{}", 1, NOW, 1) for number in range(5)])
        inbox.queue.ack(tx, [row.receipt for row in inbox.claim(tx, now=NOW, lease=1, limit=3)])
        events.store(
            tx, [Accepted(number, bytes(32), 1, 1, 1, b"{}", 1, NOW - 100 * number, 1) for number in range(1, 4)]
        )
        outbox.append(tx, SinkName.PUBSUB, [1, 2, 3], NOW)
        rows = outbox.claim(tx, SinkName.PUBSUB, now=NOW, lease=1, limit=2)
        outbox.settle(tx, [Settled(row, "delivered") for row in rows], NOW)
        first = throughput.sample(tx, NOW + 1)
        throughput.put(tx, first)
        second = throughput.sample(tx, NOW + 2)
    assert first == throughput.Sample(NOW + 1, arrived=5, handed_on=2, waiting=3, median=200, slowest=200)
    assert (second.median, second.slowest) == (None, None)


def test_an_hour_is_kept_and_nothing_of_the_future(db: Database) -> None:
    with db.write() as tx:
        for at in (NOW, NOW + throughput.KEPT_MS, NOW + throughput.KEPT_MS + 1, NOW + 1000):
            throughput.put(tx, throughput.Sample(at, 0, 0, 0, None, None))
        assert [sample.at for sample in throughput.recent(tx)] == [NOW + 1000]
        throughput.put(tx, throughput.Sample(NOW + throughput.KEPT_MS + 500, 0, 0, 0, None, None))
        assert [sample.at - NOW for sample in throughput.recent(tx)] == [1000, throughput.KEPT_MS + 500]
