"""What an audit reads, whom to ask about and what is held of them, and the outcome that metrics show."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pipeline.store import authors, events, inbox
from pipeline.store.database import Database, Row, Tx

ANY_WANTED = """
SELECT public_key, since, EXISTS (SELECT 1 FROM monitored WHERE monitored.author = wanted.author AND removed_at IS NULL)
  FROM wanted JOIN authors ON authors.id = wanted.author WHERE refs > 0 ORDER BY random() LIMIT ?
"""
ANY_USERS = """
SELECT public_key, since, 1 FROM monitored JOIN wanted USING (author) JOIN authors ON authors.id = monitored.author
 WHERE removed_at IS NULL AND refs > 0 ORDER BY random() LIMIT ?
"""
OF_KEY = """
SELECT public_key, since, EXISTS (SELECT 1 FROM monitored WHERE monitored.author = wanted.author AND removed_at IS NULL)
  FROM wanted JOIN authors ON authors.id = wanted.author WHERE authors.public_key = ? AND refs > 0
"""
LATEST = "SELECT at, had, missed, all_missed FROM audits"
COUNT_MISSED = "UPDATE audits SET all_missed = all_missed + ?"
PUT = "UPDATE audits SET at = ?, had = ?, missed = ?"
_ROWS_AT_ONCE: Final = 20_000
_AFTER_ALL: Final = b"\xff" * 33


@dataclass(frozen=True, slots=True)
class AuditSubject:
    """A wanted author since `since` (ms); `is_user`: registered, so that mentions are wanted too."""

    key: bytes
    since: int
    is_user: bool


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """The newest scheduled audit, at `at` (ms; 0: there was none), and the misses that all audits have found."""

    at: int = 0
    had: int = 0
    missed: int = 0
    all_missed: int = 0

    @property
    def recall(self) -> float | None:
        """Return the share of what relays had that was held; None if they had nothing, or there was no audit."""
        return self.had / (self.had + self.missed) if self.had + self.missed else None


def latest(tx: Tx) -> AuditOutcome:
    """Return the outcome of audits so far."""
    rows: list[Row] = tx.execute(LATEST).fetchall()
    return AuditOutcome(*rows[0])


def count_missed(tx: Tx, count: int) -> None:
    """Count events that an audit found missing."""
    tx.execute(COUNT_MISSED, (count,))


def put(tx: Tx, at: int, had: int, missed: int) -> None:
    """Record the outcome of a scheduled audit, which ended at `at` (ms)."""
    tx.execute(PUT, (at, had, missed))


def sample_wanted(tx: Tx, limit: int) -> list[AuditSubject]:
    """Return that many wanted authors at random."""
    return [_subject(row) for row in tx.execute(ANY_WANTED, (limit,))]


def sample_users(tx: Tx, limit: int) -> list[AuditSubject]:
    """Return that many registered users at random."""
    return [_subject(row) for row in tx.execute(ANY_USERS, (limit,))]


def subject(tx: Tx, key: bytes) -> AuditSubject | None:
    """Return the wanted author of this key; None if it is not one."""
    row = tx.execute(OF_KEY, (key,)).fetchone()
    return None if row is None else _subject(row)


def known(tx: Tx, found: Iterable[tuple[bytes, int]]) -> set[bytes]:
    """Return which of the events, each with its id and time (s), the service has, in whatever state: the ids."""
    return inbox.known(tx, found)


def held(
    database: Database, keys: Iterable[bytes], since: int, until: int, on_turn: Callable[[], None] = lambda: None
) -> Iterator[list[tuple[bytes, int, bytes]]]:
    """Yield author, time and id of the accepted events of `keys` dated from `since` to `until` (s), some at a time.

    Reads all ids of the span, in short transactions; `on_turn` is called between them.
    """
    with database.read() as tx:
        numbers = {number: key for key in keys if (number := authors.find(tx, key)) is not None}
    before = (until, _AFTER_ALL)
    while True:
        on_turn()
        with database.read() as tx:
            rows = events.seen_before(tx, since=since, before=before, limit=_ROWS_AT_ONCE)
        yield [(numbers[row.author], row.created_at, row.event_id) for row in rows if row.author in numbers]
        if len(rows) < _ROWS_AT_ONCE:
            return
        before = (rows[-1].created_at, rows[-1].event_id)


def _subject(row: tuple[bytes, int, int]) -> AuditSubject:
    public_key, since, is_user = row
    return AuditSubject(public_key, since, bool(is_user))
