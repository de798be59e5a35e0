"""Cloud Function: counts how often each registered user is mentioned, each event once.

    gcloud functions deploy count-mentions --gen2 --runtime python312 --source function \
      --entry-point on_event --trigger-topic nostr-events --retry

Such a trigger gets every message. To pay for mentions alone, make a push subscription to the function's address with
the filter `attributes:rule_mention`.

Many instances run at once and each event may come more than once: the document that remembers its id is made in the
transaction that counts it. Give the collection `seen` a TTL policy on the field `expires_at`.
"""

import base64
import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import functions_framework
from google.cloud import firestore

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
LOG = logging.getLogger("function")
# Longer than a subscription keeps messages, which is 7 days unless it says otherwise.
REMEMBERED = timedelta(days=8)


@cache
def database() -> Any:
    """Return the client, made at the first event and kept while the instance lives."""
    return firestore.Client()


@functions_framework.cloud_event
def on_event(cloud_event: Any) -> None:
    """Count one event; what raises is delivered again."""
    message = cloud_event.data["message"]
    attributes = message.get("attributes", {})
    event = json.loads(base64.b64decode(message["data"]))
    if "rule_mention" not in attributes:
        LOG.info("skipped %s", event["id"])
        return
    # `mentions` has the registered users only; the `p` tags of the event also have strangers.
    users = [user for user in attributes["mentions"].split(",") if user != event["pubkey"]]
    is_new = count(database().transaction(), event["id"], users)
    LOG.info("%s %s", "counted" if is_new else "duplicate", event["id"])


@firestore.transactional
def count(transaction: Any, event_id: str, users: Sequence[str]) -> bool:
    """Count an event for `users`; return False if it was counted before."""
    seen = database().collection("seen").document(event_id)
    if seen.get(transaction=transaction).exists:
        return False
    transaction.create(seen, {"expires_at": datetime.now(UTC) + REMEMBERED})
    for user in users:
        document = database().collection("mentions").document(user)
        transaction.set(document, {"count": firestore.Increment(1)}, merge=True)
    return True
