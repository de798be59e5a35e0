"""How full a database is, and what follows from it."""

import pytest

from pipeline.store import disk
from pipeline.store.database import Database


@pytest.mark.parametrize(
    ("used", "pressure"),
    [(0, 0.0), (8_000, 0.0), (9_000, 0.0), (9_250, 0.25), (9_500, 0.5), (10_000, 1.0), (80_000, 1.0)],
)
def test_pressure_grows_from_an_eighth_to_a_quarter_beyond_the_bound(
    db: Database, monkeypatch: pytest.MonkeyPatch, used: int, pressure: float
) -> None:
    monkeypatch.setattr(disk, "used_bytes", lambda _: used)
    with db.read() as tx:
        assert disk.pressure(tx, 8_000) == pytest.approx(pressure)
        assert disk.has_room_for_strangers(tx, 8_000) is (pressure == 0)
        assert disk.is_full(tx, 8_000) is (pressure == 1)


def test_without_a_bound_there_is_room(db: Database) -> None:
    with db.read() as tx:
        assert disk.used_bytes(tx) > 0
        assert disk.pressure(tx, 0) == 0
        assert disk.has_room_for_strangers(tx, 0)
        assert not disk.is_full(tx, 0)


def test_free_pages_do_not_count(db: Database) -> None:
    with db.write() as tx:
        tx.execute("INSERT INTO payloads VALUES (1, zeroblob(1000000))")
    with db.read() as tx:
        full = disk.used_bytes(tx)
    with db.write() as tx:
        tx.execute("DELETE FROM payloads")
    with db.read() as tx:
        assert disk.used_bytes(tx) < full - 900_000
