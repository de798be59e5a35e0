"""The Go service's database, read from a private copy (`private_copy.py`), whichever version of its schema wrote it.

The copy is brought to the newest schema first: what an old one lacks is empty. Values are what another program
left there, so that every text is read as bytes and every number may be anything; the caller judges them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from pipeline.go_import.private_copy import SourceUnusable
from pipeline.store.database import Row
from pipeline.store.database_file import APPLICATION_ID, TABLES

# Rows read at once; that service saved events of up to a megabyte.
_PAGE: Final = 200

COLUMNS = "SELECT name FROM pragma_table_info('events')"
ADD_PROCESSED_AT = "ALTER TABLE events ADD COLUMN processed_at INTEGER"
TABLES_OF_LATER_VERSIONS = (
    "CREATE TABLE IF NOT EXISTS relays (id INTEGER PRIMARY KEY, address TEXT)",
    "CREATE TABLE IF NOT EXISTS public_keys (id INTEGER PRIMARY KEY, public_key TEXT)",
    "CREATE TABLE IF NOT EXISTS contacts_events (follower_id INTEGER PRIMARY KEY, event_id INTEGER)",
    "CREATE TABLE IF NOT EXISTS contacts_followees (follower_id INTEGER, followee_id INTEGER)",
    """
    CREATE TABLE IF NOT EXISTS public_keys_to_monitor (
      id INTEGER PRIMARY KEY, public_key TEXT, created_at INTEGER, updated_at INTEGER
    )
    """,
    "CREATE TABLE IF NOT EXISTS pubsub (topic TEXT, uuid TEXT PRIMARY KEY, payload BLOB, created_at INTEGER)",
)
# That service writes an event and its message in one transaction, marks the event after it has delivered it, and
# deletes the message after that. So a message whose event bears no mark is all that is left to do, and an event without
# one is done: in files without marks, too, and where marks were introduced after it had been delivered.
WAITING_MESSAGES = (
    "CREATE TABLE import_waiting (message INTEGER PRIMARY KEY, event_id TEXT, saved_at)",
    """
    INSERT INTO import_waiting
    SELECT rowid, CASE WHEN json_valid(text) THEN json_extract(text, '$.eventID') END, created_at
      FROM (SELECT rowid, CAST(payload AS TEXT) AS text, created_at FROM pubsub WHERE topic = 'event_saved')
    """,
    "CREATE INDEX import_waiting_event ON import_waiting (event_id)",
    """
    CREATE INDEX import_followees ON contacts_followees (follower_id, followee_id)
    """,
    "CREATE TABLE import_followers (follower INTEGER PRIMARY KEY)",
    """
    INSERT INTO import_followers
    SELECT follower_id FROM contacts_followees WHERE typeof(follower_id) = 'integer' UNION
    SELECT follower_id FROM contacts_events WHERE typeof(follower_id) = 'integer'
    """,
)
IS_DONE = """
(processed_at IS NOT NULL OR NOT EXISTS (SELECT 1 FROM import_waiting WHERE import_waiting.event_id = events.event_id))
"""
DONE = f"""
SELECT id, CAST(event_id AS BLOB), CAST(payload AS BLOB), processed_at
  FROM events WHERE id > ? AND {IS_DONE} ORDER BY id LIMIT ?
"""  # noqa: S608  (the condition is the constant above)
COUNT_DONE = f"SELECT count(*) FROM events WHERE {IS_DONE}"  # noqa: S608  (as above)
RELAYS = "SELECT rowid, CAST(address AS BLOB) FROM relays WHERE rowid > ? ORDER BY rowid LIMIT ?"
COUNT_RELAYS = "SELECT count(*) FROM relays"
USERS = """
SELECT rowid, CAST(public_key AS BLOB), created_at, updated_at
  FROM public_keys_to_monitor WHERE rowid > ? ORDER BY rowid LIMIT ?
"""
COUNT_USERS = "SELECT count(*) FROM public_keys_to_monitor"
CONTACT_LISTS = """
SELECT follower, CAST(public_key AS BLOB), CAST(payload AS BLOB)
  FROM import_followers
  LEFT JOIN public_keys ON public_keys.id = follower
  LEFT JOIN contacts_events ON contacts_events.follower_id = follower
  LEFT JOIN events ON events.id = contacts_events.event_id
 WHERE follower > ? ORDER BY follower LIMIT ?
"""
COUNT_CONTACT_LISTS = "SELECT count(*) FROM import_followers"
FOLLOWEES = """
SELECT CAST(public_key AS BLOB)
  FROM contacts_followees LEFT JOIN public_keys ON public_keys.id = followee_id WHERE follower_id = ?
"""
WAITING = """
SELECT message, CAST(import_waiting.event_id AS BLOB), events.id IS NOT NULL, CAST(payload AS BLOB), saved_at
  FROM import_waiting LEFT JOIN events ON events.event_id = import_waiting.event_id
 WHERE message > ? AND processed_at IS NULL ORDER BY message LIMIT ?
"""
COUNT_WAITING = """
SELECT count(*) FROM import_waiting LEFT JOIN events ON events.event_id = import_waiting.event_id
 WHERE processed_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class GoCounts:
    """How many rows of each kind there are."""

    done: int
    relays: int
    contact_lists: int
    users: int
    waiting: int


@dataclass(frozen=True, slots=True)
class GoDone:
    """An event that was delivered; `processed_at` in seconds, `None` in files without it."""

    event_id: bytes | None
    payload: bytes | None
    processed_at: object


@dataclass(frozen=True, slots=True)
class GoUser:
    """A registered user; times in seconds."""

    public_key: bytes | None
    created_at: object
    updated_at: object


@dataclass(frozen=True, slots=True)
class GoContactList:
    """Followees of a follower, as hex keys (`None`: a dangling reference), and the event that is said to list them."""

    follower: bytes | None
    followees: tuple[bytes | None, ...]
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class GoWaiting:
    """A message that asks to deliver an event; `payload` is the event's, if the row `exists`, `saved_at` in seconds."""

    event_id: bytes | None
    exists: bool
    payload: bytes | None
    saved_at: object


class GoDatabase:
    """The copy, opened; it is changed at will. Owned by one thread."""

    def __init__(self, copy: Path) -> None:
        """Open and prepare a copy. Raises `SourceUnusable` if it is no database of the Go service."""
        try:
            self._connection = apsw.Connection(str(copy))
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        except apsw.Error as error:
            raise SourceUnusable(f"the database cannot be read: {error}") from error

    def _prepare(self) -> None:
        execute = self._connection.execute
        self._connection.pragma("journal_mode", "off")
        self._connection.pragma("synchronous", "off")
        tables = {name for (name,) in execute(TABLES)}
        if self._connection.pragma("application_id") == APPLICATION_ID:
            raise SourceUnusable("it is a database of this service already")
        columns = {name for (name,) in execute(COLUMNS)} if "events" in tables else set()
        if not {"id", "event_id", "payload"} <= columns:
            raise SourceUnusable("it is no database of the Go service")
        if "processed_at" not in columns:
            execute(ADD_PROCESSED_AT)
        for statement in (*TABLES_OF_LATER_VERSIONS, *WAITING_MESSAGES):
            execute(statement)

    def counts(self) -> GoCounts:
        """Return what there is to import."""
        statements = (COUNT_DONE, COUNT_RELAYS, COUNT_CONTACT_LISTS, COUNT_USERS, COUNT_WAITING)
        return GoCounts(*(int(self._connection.execute(statement).get) for statement in statements))

    def done(self) -> Iterator[GoDone]:
        """Yield events that were delivered."""
        return (GoDone(*row) for _, *row in self._pages(DONE))

    def relays(self) -> Iterator[bytes | None]:
        """Addresses of relays."""
        return (address for _, address in self._pages(RELAYS))

    def users(self) -> Iterator[GoUser]:
        """Registered users."""
        return (GoUser(*row) for _, *row in self._pages(USERS))

    def contact_lists(self) -> Iterator[GoContactList]:
        """Everybody who has a contact list."""
        for number, follower, payload in self._pages(CONTACT_LISTS):
            rows = self._rows(FOLLOWEES, (number,))
            yield GoContactList(follower, tuple(key for (key,) in rows), payload)

    def waiting(self) -> Iterator[GoWaiting]:
        """Yield events that were not delivered yet, in the order in which they were saved."""
        for _, event_id, exists, payload, saved_at in self._pages(WAITING):
            yield GoWaiting(event_id, bool(exists), payload, saved_at)

    def _pages(self, statement: str) -> Iterator[Row]:
        """Yield the rows of a statement that takes a number to go on after and a limit."""
        after = -(1 << 63)
        while True:
            rows = self._rows(statement, (after, _PAGE))
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def _rows(self, statement: str, bindings: tuple[int, ...]) -> list[Row]:
        try:
            return self._connection.execute(statement, bindings).fetchall()
        except apsw.Error as error:
            raise SourceUnusable(f"the database cannot be read: {error}") from error

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._connection.close()

    def __enter__(self) -> "GoDatabase":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
