"""Home's copy of what crawling hosts count, exact whatever is said twice, late, or again from the beginning.

A host says a counter as it stands, with the *era* in which it began at 0: that of its database, or of its metrics
files, which a reboot may take away. In one era a count never falls, so that the larger of two is the true one; of the
eras before, the last counts are added up in `before`.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import orjson

from pipeline.store.database import Tx

TALLY: Final = "tally"
"""The name of counts by `slot`, `what` and `reason`; see `counters.StageCounters`."""
PUT = """
INSERT INTO host_counts (host, name, labels, era, before, value) VALUES (?1, ?2, ?3, ?4, 0, ?5)
ON CONFLICT (host, name, labels) DO UPDATE SET
  before = iif(era = excluded.era, before, before + value),
  value = iif(era = excluded.era, max(value, excluded.value), excluded.value),
  era = excluded.era
"""
ALL = "SELECT host, name, labels, before + value FROM host_counts ORDER BY name, host, labels"
COUNT = "SELECT count(*) FROM host_counts WHERE host = ?"
IS_KNOWN = "SELECT 1 FROM host_counts WHERE (host, name, labels) = (?, ?, ?)"
CLEAR_GAUGES = "DELETE FROM host_gauges WHERE host = ?"
PUT_GAUGE = "INSERT OR REPLACE INTO host_gauges (host, name, labels, value) VALUES (?, ?, ?, ?)"
GAUGES = "SELECT host, name, labels, value FROM host_gauges ORDER BY name, host, labels"
FORGET = ("DELETE FROM host_counts WHERE host = ?", "DELETE FROM host_gauges WHERE host = ?")


class HostCount(NamedTuple):
    """One series of one host: its name, its labels (name and value each), its value."""

    host: str
    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


def put(tx: Tx, host: str, era: str, counts: Iterable[tuple[str, tuple[tuple[str, str], ...], float]]) -> None:
    """Note counters of a host as they stand in this era."""
    tx.executemany(PUT, ((host, name, _text(labels), era, value) for name, labels, value in counts))


def put_gauges(tx: Tx, host: str, gauges: Iterable[tuple[str, tuple[tuple[str, str], ...], float]]) -> None:
    """Note all gauges of a host in place of those before."""
    tx.execute(CLEAR_GAUGES, (host,))
    tx.executemany(PUT_GAUGE, ((host, name, _text(labels), value) for name, labels, value in gauges))


def number(tx: Tx, host: str) -> int:
    """Return how many counters of a host are known."""
    return int(tx.execute(COUNT, (host,)).get)


def is_known(tx: Tx, host: str, name: str, labels: tuple[tuple[str, str], ...]) -> bool:
    """Return True if this counter of a host was noted before."""
    return tx.execute(IS_KNOWN, (host, name, _text(labels))).fetchone() is not None


def counters(tx: Tx) -> list[HostCount]:
    """Return all counters."""
    return [HostCount(host, name, _labels(labels), value) for host, name, labels, value in tx.execute(ALL)]


def gauges(tx: Tx) -> list[HostCount]:
    """Return all gauges."""
    return [HostCount(host, name, _labels(labels), value) for host, name, labels, value in tx.execute(GAUGES)]


def dropped(tx: Tx) -> dict[tuple[str, str], int]:
    """Return how many events hosts dropped, by host and reason, the largest number first."""
    found: dict[tuple[str, str], float] = {}
    for each in counters(tx):
        labels = dict(each.labels)
        if each.name == TALLY and labels.get("what") == "discarded":
            key = (each.host, labels["reason"])
            found[key] = found.get(key, 0.0) + each.value
    return {key: round(found[key]) for key in sorted(found, key=lambda key: -found[key])}


def newest_gauges(tx: Tx, name: str, label: str) -> dict[str, float]:
    """Return by the values of a label what a gauge of any host shows."""
    rows = (each for each in gauges(tx) if each.name == name)
    return {dict(each.labels).get(label, ""): each.value for each in rows}


def forget(tx: Tx, host: str) -> None:
    """Forget all of a host."""
    for statement in FORGET:
        tx.execute(statement, (host,))


def _text(labels: tuple[tuple[str, str], ...]) -> str:
    return orjson.dumps(labels).decode()


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in orjson.loads(text))
