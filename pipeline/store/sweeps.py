"""Sweeps under way: what of each is still to be fetched, so that a restart goes on where it was.

Progress is written in or after the transaction that commits the events it covers, never before.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.store.database import Tx

PUT = """
INSERT INTO sweeps (relay, sweep, since, until, started, generation) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (relay, sweep) DO UPDATE SET
  since = excluded.since, until = excluded.until, started = excluded.started, generation = excluded.generation
"""
DELETE = "DELETE FROM sweeps WHERE relay = ? AND sweep = ?"
OF_RELAY = "SELECT relay, sweep, since, until, started, generation FROM sweeps WHERE relay = ?"


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """Of a sweep that began at `started`, `since` to `until` is left (seconds); nothing if that is no span.

    `generation` is the newest change among those that it asks about.
    """

    relay: int
    sweep: str
    since: int
    until: int
    started: int
    generation: int

    @property
    def is_over(self) -> bool:
        """True if nothing is left."""
        return self.until < self.since


def put(tx: Tx, progress: Iterable[SweepProgress]) -> None:
    """Note how far sweeps are; those that are over are forgotten."""
    for each in progress:
        if each.is_over:
            tx.execute(DELETE, (each.relay, each.sweep))
        else:
            tx.execute(PUT, (each.relay, each.sweep, each.since, each.until, each.started, each.generation))


def of_relay(tx: Tx, relay: int) -> list[SweepProgress]:
    """Return every sweep of a relay that is under way."""
    return [SweepProgress(*row) for row in tx.execute(OF_RELAY, (relay,))]
