"""The samples of relays' stores."""

from pipeline.store import relay_samples
from pipeline.store.database import Database


def test_sample_is_kept_by_relay_and_replaced(db: Database) -> None:
    first, second = [bytes([n]) * 32 for n in range(20)], [bytes([n]) * 32 for n in range(20, 40)]
    with db.write() as tx:
        relay_samples.put(tx, 1, first)
        relay_samples.put(tx, 2, first)
        relay_samples.put(tx, 1, second)
    with db.read() as tx:
        assert relay_samples.of_relay(tx, 1) == second
        assert relay_samples.of_relay(tx, 2) == first
        assert relay_samples.of_relay(tx, 3) == []


def test_empty_sample_forgets_the_one_before(db: Database) -> None:
    with db.write() as tx:
        relay_samples.put(tx, 1, [b"\1" * 32])
        relay_samples.put(tx, 1, [])
    with db.read() as tx:
        assert relay_samples.of_relay(tx, 1) == []
