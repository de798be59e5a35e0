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

_Rows = list[tuple[Any, ...]]


class SaidNovelty(NamedTuple):
    """How many events a relay brought first, aged as of `at` (ms)."""

    address: str
    novel: float
    at: int


class SaidDrop(NamedTuple):
    """A drop as a host says it; `relay` is an address, `at` in ms."""

    event_id: bytes
    reason: str
    relay: str
    at: int


def differing_gaps(tx: Tx, wanted: Mapping[str, _Rows]) -> list[tuple[str, _Rows]]:
    """Return the relays, by address, whose open gaps are others: form, reason, since, until, opened at."""
    return _differing(tx, ALL_GAPS, wanted)


def differing_sweeps(tx: Tx, wanted: Mapping[str, _Rows]) -> list[tuple[str, _Rows]]:
    """Return the relays, by address, whose sweeps are others: sweep, since, until, started, generation."""
    return _differing(tx, ALL_SWEEPS, wanted)


def put_gaps(tx: Tx, wanted: Iterable[tuple[str, _Rows]]) -> None:
    """Have these open gaps of these relays, and no others."""
    _replace(tx, CLEAR_GAPS, gaps.PUT, wanted)


def put_sweeps(tx: Tx, wanted: Iterable[tuple[str, _Rows]]) -> None:
    """Have these sweeps under way at these relays, and no others."""
    _replace(tx, CLEAR_SWEEPS, sweeps.PUT, wanted)


def greater_brought(tx: Tx, brought: Iterable[SaidNovelty], now: int) -> list[SaidNovelty]:
    """Return how many events relays brought first, of those relays of which fewer are noted.

    The larger of two counts stays: a host that takes a relay over begins at 0.
    """
    found = []
    for each in brought:
        relay = relays.find(tx, each.address)
        if relay is None:
            continue
        before, before_at = tx.execute(NOVEL, (relay,)).get
        if _aged(each.novel, min(each.at, now), now) > _aged(before, before_at, now):
            found.append(each)
    return found


def put_brought(tx: Tx, brought: Iterable[SaidNovelty], now: int) -> None:
    """Note how many events relays brought first, none of them later than `now` (ms)."""
    for address, novel, at in brought:
        if (relay := relays.find(tx, address)) is not None:
            tx.execute(PUT_NOVEL, (novel, min(at, now), relay))


def append_drops(tx: Tx, host: str, said: Iterable[SaidDrop]) -> None:
    """Remember what a host dropped, and forget the oldest beyond the bound."""
    for each in said:
        relay = relays.find(tx, each.relay) if each.relay else None
        tx.execute(APPEND_DROP, (each.event_id, each.reason, relay or _NO_RELAY, each.at, host))
    tx.execute(drops.TRIM, (drops.MOST,))


def _differing(tx: Tx, statement: str, wanted: Mapping[str, _Rows]) -> list[tuple[str, _Rows]]:
    before: dict[str, set[tuple[Any, ...]]] = {}
    rows: list[Row] = tx.execute(statement).fetchall()
    for address, *columns in rows:
        before.setdefault(address, set()).add(tuple(columns))
    return [(address, rows) for address, rows in wanted.items() if set(rows) != before.get(address, set())]


def _replace(tx: Tx, clear: str, put: str, wanted: Iterable[tuple[str, _Rows]]) -> None:
    for address, rows in wanted:
        if (relay := relays.find(tx, address)) is not None:
            tx.execute(clear, (relay,))
            tx.executemany(put, ((relay, *row) for row in rows))


def _aged(novel: float, at: int, now: int) -> float:
    age: float = 0.5 ** (max(0, now - at) / FIRST_SEEN_HALF_LIFE_MS)
    return novel * age
