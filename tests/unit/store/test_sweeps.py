"""Progress of sweeps: the last word counts, and what is over is forgotten."""

from dataclasses import replace

from pipeline.store import sweeps
from pipeline.store.database import Database
from pipeline.store.sweeps import SweepProgress

PROGRESS = SweepProgress(1, "tail:global/", 100, 200, 500, 3)


def test_progress_is_replaced_and_forgotten_when_nothing_is_left(db: Database) -> None:
    other = replace(PROGRESS, relay=2)
    with db.write() as tx:
        sweeps.put(tx, [PROGRESS, other, replace(PROGRESS, until=150, started=600)])
    with db.read() as tx:
        assert sweeps.of_relay(tx, 1) == [replace(PROGRESS, until=150, started=600)]
        assert sweeps.of_relay(tx, 2) == [other]
    with db.write() as tx:
        sweeps.put(tx, [replace(PROGRESS, since=0, until=-1)])
    with db.read() as tx:
        assert sweeps.of_relay(tx, 1) == []
        assert sweeps.of_relay(tx, 2) == [other]
