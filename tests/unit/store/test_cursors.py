"""Cursors only go forward."""

import random

from pipeline.store import cursors
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database


def test_cursors_of_each_relay_and_query_are_kept_apart(db: Database) -> None:
    kept = [Cursor(1, "global/", 100, 0), Cursor(1, "authors/01", 90, 4), Cursor(2, "global/", 80, 0)]
    with db.write() as tx:
        cursors.advance(tx, kept)
        assert sorted(cursors.of_relay(tx, 1), key=str) == sorted(kept[:2], key=str)
        assert cursors.of_relay(tx, 2) == kept[2:]
        assert cursors.of_relay(tx, 3) == []


def test_a_cursor_never_goes_back(db: Database) -> None:
    rng = random.Random(1)
    until = generation = 0
    for _ in range(50):
        moved = [Cursor(1, "authors/", rng.randrange(1000), rng.randrange(50)) for _ in range(3)]
        until = max(until, *(cursor.complete_until for cursor in moved))
        generation = max(generation, *(cursor.generation for cursor in moved))
        with db.write() as tx:
            cursors.advance(tx, moved)
            assert cursors.of_relay(tx, 1) == [Cursor(1, "authors/", until, generation)]
