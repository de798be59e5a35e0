"""Moderation feed: what registered users write and what is reported about them, without what was deleted.

    python moderation.py PROJECT SUBSCRIPTION DATABASE
    sqlite3 DATABASE 'SELECT * FROM feed'

SUBSCRIPTION has the filter `attributes:rule_user OR attributes.kind = "1984"`. Messages come in any order and more than
once: every write may be repeated, and a deletion that comes before its event is remembered.
"""

import json
import logging
import sqlite3
import sys
import threading
from collections.abc import Mapping
from typing import Any

from google.cloud.pubsub_v1 import SubscriberClient

LOG = logging.getLogger("moderation")
NOTE, DELETION, REPORT = 1, 5, 1984
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
  id TEXT PRIMARY KEY, kind INTEGER NOT NULL, author TEXT NOT NULL, created_at INTEGER NOT NULL,
  content TEXT NOT NULL, about TEXT NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS deletions (event_id TEXT, author TEXT, PRIMARY KEY (event_id, author));
-- Only its author deletes an event.
CREATE VIEW IF NOT EXISTS feed AS
  SELECT * FROM events
   WHERE NOT EXISTS (SELECT 1 FROM deletions WHERE event_id = events.id AND deletions.author = events.author)
   ORDER BY created_at DESC, id;
"""


class ModerationFeed:
    """The feed in one SQLite file; safe in several threads."""

    def __init__(self, database: str) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(database, check_same_thread=False)
        self._database.executescript(SCHEMA)

    def on_message(self, data: bytes, attributes: Mapping[str, str]) -> str:
        """Store what the message says; return what became of it."""
        event: dict[str, Any] = json.loads(data)
        if "retracted" in attributes or not ("rule_user" in attributes or event["kind"] == REPORT):
            return "skipped"
        with self._lock, self._database as transaction:
            if event["kind"] in (NOTE, REPORT):
                statement = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?)"
                return "stored" if transaction.execute(statement, row(event)).rowcount else "duplicate"
            if event["kind"] == DELETION:
                deleted = [(value, event["pubkey"]) for value in values(event, "e")]
                transaction.executemany("INSERT OR IGNORE INTO deletions VALUES (?, ?)", deleted)
                return "deleted"
        return "skipped"


def row(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return the row of an event; a report (NIP-56) says about whom it is, and why."""
    people = [tag for tag in event["tags"] if len(tag) > 1 and tag[0] == "p"] if event["kind"] == REPORT else []
    about = people[0][1] if people else ""
    reason = people[0][2] if people and len(people[0]) > 2 else ""
    return event["id"], event["kind"], event["pubkey"], event["created_at"], event["content"], about, reason


def values(event: dict[str, Any], name: str) -> list[str]:
    """Return the values of the tags called `name`; a stranger wrote them, so that anything may be missing."""
    return [tag[1] for tag in event["tags"] if len(tag) > 1 and tag[0] == name]


def main() -> None:
    """Consume until stopped."""
    if len(sys.argv) != 4:
        sys.exit("usage: python moderation.py PROJECT SUBSCRIPTION DATABASE")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    project, subscription, database = sys.argv[1:]
    feed = ModerationFeed(database)

    def on_message(message: Any) -> None:
        LOG.info("%s %s", feed.on_message(message.data, message.attributes), message.attributes["event_id"])
        # Only now: what raises or crashes before comes again.
        message.ack()

    with SubscriberClient() as client:
        path = client.subscription_path(project, subscription)
        client.subscribe(path, callback=on_message).result()


if __name__ == "__main__":
    main()
