"""Times and ids of the events of one audit, in a temporary database of SQLite's own, which is gone with the process.

An audit of many authors over months meets millions of events, at each of its relays. What it keeps of them in memory is
the page cache of this database, `_CACHE_KIB`; the rest is in a file of the folder for temporary files, which
`SQLITE_TMPDIR` names.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import apsw

from pipeline.store.database import Row

_TEMPORARY: Final = ""
_CACHE_KIB: Final = 32 << 10
_TABLES: Final = """
CREATE TABLE ours (author BLOB, created_at INTEGER, event_id BLOB, PRIMARY KEY (author, created_at, event_id))
WITHOUT ROWID;
CREATE TABLE returned (event_id BLOB PRIMARY KEY, created_at INTEGER, rule TEXT) WITHOUT ROWID;
CREATE TABLE returned_by (relay INTEGER, event_id BLOB, PRIMARY KEY (relay, event_id)) WITHOUT ROWID;
"""
_PUT_OURS: Final = "INSERT OR IGNORE INTO ours (author, created_at, event_id) VALUES (?, ?, ?)"
_OURS: Final = "SELECT created_at, event_id FROM ours WHERE author = ?"
# The rule of the first answer stands.
_PUT_RETURNED: Final = "INSERT OR IGNORE INTO returned (event_id, created_at, rule) VALUES (?, ?, ?)"
_PUT_RETURNED_BY: Final = "INSERT OR IGNORE INTO returned_by (relay, event_id) VALUES (?, ?)"
_RETURNED: Final = "SELECT created_at, rule FROM returned"
_COUNT_BY_RELAY: Final = "SELECT relay, count(*) FROM returned_by GROUP BY relay"


class AuditIds:
    """What is held of the audited authors, and what of it relays returned; safe in several threads."""

    __slots__ = ("_connection", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = apsw.Connection(_TEMPORARY)
        self._connection.pragma("cache_size", -_CACHE_KIB)
        # Nothing of it outlives a crash.
        self._connection.pragma("journal_mode", "off")
        self._connection.pragma("synchronous", "off")
        self._connection.execute(_TABLES)

    def put_ours(self, items: Iterable[tuple[bytes, int, bytes]]) -> None:
        """Add author, time and id of events that are held."""
        with self._lock, self._connection:
            self._connection.executemany(_PUT_OURS, items)

    def ours(self, authors: Iterable[bytes]) -> dict[bytes, list[tuple[int, bytes]]]:
        """Return time and id of what is held of some authors; those without any are absent."""
        found: dict[bytes, list[tuple[int, bytes]]] = {}
        with self._lock:
            for author in authors:
                rows: list[Row] = self._connection.execute(_OURS, (author,)).fetchall()
                if rows:
                    found[author] = [(created_at, event_id) for created_at, event_id in rows]
        return found

    def put_returned(self, relay: int, rule: str, items: Sequence[tuple[int, bytes]]) -> None:
        """Add time and id of events that are held and that a relay returned, as asked for by `rule`."""
        with self._lock, self._connection:
            self._connection.executemany(_PUT_RETURNED, ((event_id, at, rule) for at, event_id in items))
            self._connection.executemany(_PUT_RETURNED_BY, ((relay, event_id) for _, event_id in items))

    def returned(self) -> Iterator[tuple[int, str]]:
        """Yield time and rule of each event that any relay returned; nothing may be added in between."""
        with self._lock:
            rows: Iterator[Row] = iter(self._connection.execute(_RETURNED))
            yield from rows

    def count_by_relay(self) -> dict[int, int]:
        """Return how many events each relay returned."""
        with self._lock:
            rows: list[Row] = self._connection.execute(_COUNT_BY_RELAY).fetchall()
            return dict(rows)
