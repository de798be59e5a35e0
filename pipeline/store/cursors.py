"""How far the answer of each relay to each query is complete.

A cursor is moved in the transaction that commits the events it covers, never before.

A cursor's time and generation are one claim. Of two hosts' claims, the later time and the newer generation together
would be a claim that neither host made, so that the one of the newer generation stands as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.store.database import Tx

# One that lies in the future was moved while the clock was wrong, and gives way.
PUT = """
INSERT INTO cursors (relay, query, complete_until, generation) VALUES (?1, ?2, min(?3, ?5), ?4)
ON CONFLICT (relay, query) DO UPDATE SET
  complete_until = iif(
    complete_until > ?5 OR excluded.generation > generation, excluded.complete_until,
    iif(excluded.generation < generation, complete_until, max(complete_until, excluded.complete_until))
  ),
  generation = max(generation, excluded.generation)
"""
OF_RELAY = "SELECT relay, query, complete_until, generation FROM cursors WHERE relay = ?"


@dataclass(frozen=True, slots=True)
class Cursor:
    """Complete for `query` up to `complete_until` (seconds), for members wanted since `generation` or before."""

    relay: int
    query: str
    complete_until: int
    generation: int


def advance(tx: Tx, cursors: Iterable[Cursor], latest: int) -> None:
    """Move cursors forward; one that is further already stays, unless it lies beyond `latest`, which cannot be.

    None is moved beyond that: what is dated later was refused as of the future, if the clock was set back before.
    """
    tx.executemany(PUT, ((each.relay, each.query, each.complete_until, each.generation, latest) for each in cursors))


def of_relay(tx: Tx, relay: int) -> list[Cursor]:
    """Return every cursor of a relay."""
    return [Cursor(*row) for row in tx.execute(OF_RELAY, (relay,))]
