"""Cursors keep the claim of the newest generation, and go forward within it."""

import random

from pipeline.store import cursors
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database

LATEST = 10_000


def test_cursors_of_each_relay_and_query_are_kept_apart(db: Database) -> None:
    kept = [Cursor(1, "global/", 100, 0), Cursor(1, "authors/01", 90, 4), Cursor(2, "global/", 80, 0)]
    with db.write() as tx:
        cursors.advance(tx, kept, LATEST)
        assert sorted(cursors.of_relay(tx, 1), key=str) == sorted(kept[:2], key=str)
        assert cursors.of_relay(tx, 2) == kept[2:]
        assert cursors.of_relay(tx, 3) == []


def test_cursor_keeps_the_newest_claim_of_the_newest_generation(db: Database) -> None:
    rng = random.Random(1)
    newest = (0, 0)
    for _ in range(50):
        moved = [Cursor(1, "authors/", rng.randrange(1000), rng.randrange(50)) for _ in range(3)]
        newest = max(newest, *((cursor.generation, cursor.complete_until) for cursor in moved))
        with db.write() as tx:
            cursors.advance(tx, moved, LATEST)
            assert cursors.of_relay(tx, 1) == [Cursor(1, "authors/", newest[1], newest[0])]


def test_claims_of_two_hosts_never_become_one_that_neither_made(db: Database) -> None:
    """The host that lags behind the plan never asked for authors of the newer generation."""
    lagging, leading = Cursor(1, "authors/", 100, 5), Cursor(1, "authors/", 50, 10)
    with db.write() as tx:
        for first, second in ((lagging, leading), (leading, lagging)):
            cursors.advance(tx, [first], LATEST)
            cursors.advance(tx, [second], LATEST)
            assert cursors.of_relay(tx, 1) == [leading]
            tx.execute("DELETE FROM cursors")


def test_a_cursor_from_a_time_to_come_gives_way(db: Database) -> None:
    """It was moved while the clock was wrong; else what comes until that time would count as had."""
    with db.write() as tx:
        cursors.advance(tx, [Cursor(1, "authors/", LATEST + 1, 3)], 2 * LATEST)
        cursors.advance(tx, [Cursor(1, "authors/", 500, 2)], LATEST)
        assert cursors.of_relay(tx, 1) == [Cursor(1, "authors/", 500, 3)]
        cursors.advance(tx, [Cursor(1, "authors/", 400, 2)], LATEST)
        assert cursors.of_relay(tx, 1) == [Cursor(1, "authors/", 500, 3)]


def test_no_cursor_is_moved_to_a_time_to_come(db: Database) -> None:
    """The clock was set back between the end of a sweep and its commit; what is dated later was refused meanwhile."""
    with db.write() as tx:
        cursors.advance(tx, [Cursor(1, "authors/", LATEST + 500, 3)], LATEST)
        assert cursors.of_relay(tx, 1) == [Cursor(1, "authors/", LATEST, 3)]
        cursors.advance(tx, [Cursor(1, "authors/", LATEST + 600, 4)], LATEST)
        assert cursors.of_relay(tx, 1) == [Cursor(1, "authors/", LATEST, 4)]
