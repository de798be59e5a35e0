"""The memory of what was refused."""

from pipeline.store import drops
from pipeline.store.database import Database
from pipeline.store.drops import Drop, Dropped


def test_the_newest_drops_of_an_event_are_told(db: Database) -> None:
    with db.write() as tx:
        for number in range(7):
            drops.append(tx, [Drop(b"\1" * 32, f"reason-{number}", 1), Drop(b"\2" * 32, "other", 1)], number)
        assert drops.of_event(tx, b"\1" * 32, 2) == (Dropped("reason-6", "", 6), Dropped("reason-5", "", 5))


def test_a_flood_is_remembered_in_part_and_the_oldest_forgotten(db: Database) -> None:
    with db.write() as tx:
        flood = [Drop(number.to_bytes(32), "invalid-hash", 1) for number in range(1000)]
        for at in range(drops.MOST // drops.MOST_AT_ONCE + 10):
            drops.append(tx, flood, at)
        assert tx.execute("SELECT count(*) FROM drops").get == drops.MOST
        assert drops.of_event(tx, (drops.MOST_AT_ONCE - 1).to_bytes(32), 1) != ()
        assert drops.of_event(tx, drops.MOST_AT_ONCE.to_bytes(32)) == ()
