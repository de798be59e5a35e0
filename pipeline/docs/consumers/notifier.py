"""Notifier: one line for each registered user whom an event mentions, within an hour and once.

    python notifier.py PROJECT SUBSCRIPTION DATABASE

SUBSCRIPTION has the filter `attributes:rule_mention`. It needs the attributes alone and never reads the data. DATABASE
is an SQLite file that remembers what was notified.
"""

import logging
import sqlite3
import sys
import threading
from collections.abc import Mapping
from typing import Any

from google.cloud.pubsub_v1 import SubscriberClient

LOG = logging.getLogger("notifier")
KINDS = {"1": "a note", "6": "a repost", "7": "a reaction", "1111": "a comment", "9735": "a zap"}
FRESH = ("60", "600", "3600")
# Longer than a subscription keeps messages, which is 7 days unless it says otherwise.
REMEMBERED = "-8 days"
SCHEMA = """
CREATE TABLE IF NOT EXISTS notified (event_id TEXT PRIMARY KEY, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
DELETE FROM notified WHERE at < datetime('now', '%s');
"""


class MentionNotifier:
    """Notifies once for each event; safe in several threads."""

    def __init__(self, database: str) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(database, check_same_thread=False)
        self._database.executescript(SCHEMA % REMEMBERED)

    def on_message(self, attributes: Mapping[str, str]) -> None:
        """Notify unless this event was notified before."""
        if not is_wanted(attributes):
            LOG.info("skipped %s", attributes["event_id"])
            return
        # A crash between notification and commit notifies twice; the other order would lose one.
        with self._lock, self._database as transaction:
            inserted = transaction.execute(
                "INSERT OR IGNORE INTO notified (event_id) VALUES (?)", (attributes["event_id"],)
            )
            if inserted.rowcount:
                notify(attributes)
            else:
                LOG.info("duplicate %s", attributes["event_id"])


def is_wanted(attributes: Mapping[str, str]) -> bool:
    """Return True if the users in it should hear of the event."""
    return (
        "rule_mention" in attributes
        and attributes["kind"] in KINDS
        and attributes["late"] in FRESH
        and "retracted" not in attributes
    )


def notify(attributes: Mapping[str, str]) -> None:
    """Send the notifications; your own push service goes here."""
    for user in attributes["mentions"].split(","):
        if user != attributes["pubkey"]:
            what = KINDS[attributes["kind"]]
            LOG.info("%s: %s by %s %s", user, what, attributes["pubkey"], attributes["event_id"])


def main() -> None:
    """Consume until stopped."""
    if len(sys.argv) != 4:
        sys.exit("usage: python notifier.py PROJECT SUBSCRIPTION DATABASE")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    project, subscription, database = sys.argv[1:]
    notifier = MentionNotifier(database)

    def on_message(message: Any) -> None:
        notifier.on_message(message.attributes)
        # Only now: what raises or crashes before comes again.
        message.ack()

    with SubscriberClient() as client:
        path = client.subscription_path(project, subscription)
        client.subscribe(path, callback=on_message).result()


if __name__ == "__main__":
    main()
