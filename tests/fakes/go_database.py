"""Databases as the Go service leaves them, in each version of its schema, filled by the steps that service takes."""

import json
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Self

import apsw

from tests.factories.events import Author, SignedEvent

Raw = str | bytes | None
"""What ends up in a payload column."""


class GoSchema(Enum):
    """The versions of the schema; `OLDEST` has neither `processed_at` nor `pubsub`."""

    NEWEST = "newest"
    UNMARKED = "unmarked"
    OLDEST = "oldest"


_TABLES = """
CREATE TABLE migrations_state (name TEXT PRIMARY KEY, state TEXT);
CREATE TABLE migrations_status (name TEXT PRIMARY KEY, status TEXT);
CREATE TABLE events (id INTEGER PRIMARY KEY, event_id TEXT UNIQUE, payload BLOB);
CREATE TABLE relays (id INTEGER PRIMARY KEY, address TEXT UNIQUE);
CREATE TABLE events_to_relays (event_id INT, relay_id INT, PRIMARY KEY (event_id, relay_id));
CREATE TABLE public_keys (id INTEGER PRIMARY KEY, public_key TEXT UNIQUE);
CREATE TABLE contacts_events (follower_id INTEGER PRIMARY KEY, event_id INTEGER UNIQUE);
CREATE TABLE contacts_followees (
  follower_id INTEGER, followee_id INTEGER, PRIMARY KEY (follower_id, followee_id)
);
CREATE TABLE public_keys_to_monitor (
  id INTEGER PRIMARY KEY, public_key TEXT UNIQUE, created_at INTEGER, updated_at INTEGER
);
"""
_PUBSUB = """
CREATE TABLE pubsub (
  topic TEXT NOT NULL, uuid VARCHAR(36) NOT NULL PRIMARY KEY, payload BLOB, created_at INTEGER NOT NULL,
  nack_count INTEGER NOT NULL, backoff_until INTEGER
);
"""


class GoDatabase:
    """One such file, open for writing. `wal`: with a write-ahead log, else with a rollback journal."""

    def __init__(self, path: Path, schema: GoSchema = GoSchema.NEWEST, *, wal: bool = True, fast: bool = True) -> None:
        self.path = path
        self.schema = schema
        self._messages = 0
        is_new = not path.exists()
        self.connection = apsw.Connection(str(path))
        self.connection.set_busy_timeout(30_000)
        self.connection.pragma("journal_mode", "wal" if wal else "delete")
        if fast:
            self.connection.pragma("synchronous", "off")
        if is_new:
            with self.connection:
                self.connection.execute(_TABLES)
                if schema is not GoSchema.OLDEST:
                    self.connection.execute(_PUBSUB)
                if schema is GoSchema.NEWEST:
                    self.connection.execute("ALTER TABLE events ADD COLUMN processed_at INTEGER")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def leave_log(self) -> None:
        """Close as a killed process does: the log stays beside the database, nothing of it moved."""
        self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.connection.close()

    def save(self, event: SignedEvent, *, at: int = 0, spoiled: tuple[Raw] | None = None) -> int:
        """Save an event with its message in one transaction; returns the row's number. `spoiled`: another payload."""
        with self.connection:
            number = self._event(event.id, event.raw if spoiled is None else spoiled[0])
            self.message(json.dumps({"eventID": event.id}), at=at or event.created_at, uuid=_uuid(event))
        return number

    def message(self, payload: Raw, *, at: int, topic: str = "event_saved", uuid: str | None = None) -> None:
        """A message as it stands."""
        if self.schema is not GoSchema.OLDEST:
            self._messages += 1
            data = payload.encode() if isinstance(payload, str) else payload
            self.connection.execute(
                "INSERT INTO pubsub VALUES (?, ?, ?, ?, 0, NULL)", (topic, uuid or f"number {self._messages}", data, at)
            )

    def finish(self, event: SignedEvent, *, at: int, relays: Iterable[str] = ()) -> None:
        """What happens once a saved event has been handed on."""
        with self.connection:
            for address in relays:
                self.relay(address)
            if event.kind == 3:
                self.contacts(
                    event.pubkey,
                    [tag[1] for tag in event.tags if len(tag) > 1 and tag[0] == "p"],
                    self.number_of(event),
                )
            if self.schema is GoSchema.NEWEST:
                self.connection.execute("UPDATE events SET processed_at = ? WHERE event_id = ?", (at, event.id))
            if self.schema is not GoSchema.OLDEST:
                self.connection.execute("DELETE FROM pubsub WHERE uuid = ?", (_uuid(event),))

    def done(self, event: SignedEvent, *, at: int = 0) -> None:
        """An event that was saved and handed on."""
        self.save(event)
        self.finish(event, at=at or event.created_at)

    def number_of(self, event: SignedEvent) -> int:
        return int(self.connection.execute("SELECT id FROM events WHERE event_id = ?", (event.id,)).get)

    def contacts(self, follower: str, followees: Iterable[str], event: int | None) -> None:
        """Whom somebody follows, with the number of the event row that is said to say so."""
        number = self.key(follower)
        if event is not None:
            self.connection.execute("DELETE FROM contacts_events WHERE follower_id = ?", (number,))
            self.connection.execute("INSERT INTO contacts_events VALUES (?, ?)", (number, event))
        self.connection.execute("DELETE FROM contacts_followees WHERE follower_id = ?", (number,))
        for followee in followees:
            self.connection.execute("INSERT INTO contacts_followees VALUES (?, ?)", (number, self.key(followee)))

    def key(self, public_key: str | bytes) -> int:
        """The number of a public key."""
        self.connection.execute("INSERT OR IGNORE INTO public_keys (public_key) VALUES (?)", (public_key,))
        return int(self.connection.execute("SELECT id FROM public_keys WHERE public_key = ?", (public_key,)).get)

    def relay(self, address: str | bytes | None) -> None:
        self.connection.execute("INSERT OR IGNORE INTO relays (address) VALUES (?)", (address,))

    def register(self, user: Author | str, created_at: object, updated_at: object) -> None:
        key = user.pubkey if isinstance(user, Author) else user
        self.connection.execute(
            "INSERT INTO public_keys_to_monitor (public_key, created_at, updated_at) VALUES (?, ?, ?)",
            (key, created_at, updated_at),
        )

    def forget(self, event: SignedEvent) -> None:
        """What that service's cleanup does: the row goes, references to it stay."""
        self.connection.execute("DELETE FROM events WHERE event_id = ?", (event.id,))

    def _event(self, event_id: str, payload: Raw) -> int:
        data = payload.encode() if isinstance(payload, str) else payload
        self.connection.execute("INSERT INTO events (event_id, payload) VALUES (?, ?)", (event_id, data))
        return self.connection.last_insert_rowid()


def _uuid(event: SignedEvent) -> str:
    return event.id[:36]
