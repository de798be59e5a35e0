"""What crawling hosts say of their relays, written into home's own tables, where status and commands read it."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from pipeline.store import drops, gaps, relays, sweeps
from pipeline.store.database import Row, Tx
from pipeline.store.relay_candidates import FIRST_SEEN_HALF_LIFE_MS, NOVEL, PUT_NOVEL

ALL_GAPS = "SELECT address, form, reason, since, until, opened_at FROM gaps JOIN relays ON id = relay"
ALL_SWEEPS = "SELECT address, sweep, since, until, started, generation FROM sweeps JOIN relays ON id = relay"
CLEAR_GAPS = "DELETE FROM gaps WHERE relay = ?"
CLEAR_SWEEPS = "DELETE FROM sweeps WHERE relay = ?"
APPEND_DROP = "INSERT INTO drops (event_id, reason, relay, at, host) VALUES (?, ?, ?, ?, ?)"
_NO_RELAY: Final = 0


class SaidDrop(NamedTuple):
    """A drop as a host says it; `relay` is an address, `at` in ms."""

    event_id: bytes
    reason: str
    relay: str
    at: int


def put_gaps(tx: Tx, wanted: Mapping[str, list[tuple[Any, ...]]]) -> None:
    """Have these open gaps of these relays, by address: form, reason, since, until, opened at."""
    for relay, rows in _differing(tx, ALL_GAPS, wanted):
        tx.execute(CLEAR_GAPS, (relay,))
        tx.executemany(gaps.PUT, ((relay, *row) for row in rows))


def put_sweeps(tx: Tx, wanted: Mapping[str, list[tuple[Any, ...]]]) -> None:
    """Have these sweeps under way at these relays, by address: sweep, since, until, started, generation."""
    for relay, rows in _differing(tx, ALL_SWEEPS, wanted):
        tx.execute(CLEAR_SWEEPS, (relay,))
        tx.executemany(sweeps.PUT, ((relay, *row) for row in rows))


def put_brought(tx: Tx, brought: Iterable[tuple[str, float, int]], now: int) -> None:
    """Note how many events relays brought first, as of a time (ms).

    The larger of two counts stays: a host that takes a relay over begins at 0.
    """
    for address, novel, at in brought:
        relay = relays.find(tx, address)
        if relay is None:
            continue
        before, before_at = tx.execute(NOVEL, (relay,)).get
        if _aged(novel, min(at, now), now) > _aged(before, before_at, now):
            tx.execute(PUT_NOVEL, (novel, min(at, now), relay))


def append_drops(tx: Tx, host: str, said: Iterable[SaidDrop]) -> None:
    """Remember what a host dropped, and forget the oldest beyond the bound."""
    for each in said:
        relay = relays.find(tx, each.relay) if each.relay else None
        tx.execute(APPEND_DROP, (each.event_id, each.reason, relay or _NO_RELAY, each.at, host))
    tx.execute(drops.TRIM, (drops.MOST,))


def _differing(
    tx: Tx, statement: str, wanted: Mapping[str, list[tuple[Any, ...]]]
) -> list[tuple[int, list[tuple[Any, ...]]]]:
    before: dict[str, set[tuple[Any, ...]]] = {}
    rows: list[Row] = tx.execute(statement).fetchall()
    for address, *columns in rows:
        before.setdefault(address, set()).add(tuple(columns))
    changed = [address for address, rows in wanted.items() if set(rows) != before.get(address, set())]
    numbers = ((relays.find(tx, address), address) for address in changed)
    return [(number, wanted[address]) for number, address in numbers if number is not None]


def _aged(novel: float, at: int, now: int) -> float:
    age: float = 0.5 ** (max(0, now - at) / FIRST_SEEN_HALF_LIFE_MS)
    return novel * age
