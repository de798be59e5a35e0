"""What an event takes back: its author's earlier events, by deletion (NIP-09) or vanishing (NIP-62)."""

import re
from dataclasses import dataclass
from typing import Final

from pipeline.nostr.event import Event
from pipeline.nostr.kinds import CONTACTS, DELETION, VANISH
from pipeline.nostr.tags import first_values

ALL_RELAYS: Final = "ALL_RELAYS"
# A deletion names a handful; one that names more costs a row each.
MAX_TARGETS: Final = 1_000
_EVENT_ID: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Retraction:
    """What one event takes back of its own author's; of others' events it can take nothing.

    `event_ids`: these events. `contacts_until`: every contact list up to this time. `vanished_until`: everything up to
    this time. Times are `created_at` seconds, included; `None` for nothing.
    """

    event_ids: frozenset[bytes] = frozenset()
    contacts_until: int | None = None
    vanished_until: int | None = None


def retraction(event: Event) -> Retraction | None:
    """What `event` takes back; `None` for most events.

    A request to vanish counts only when it is made to all relays: one made to some relays says nothing about the
    copies on others, which are where we read. Deleting a deletion does nothing (NIP-09).
    """
    if event.kind == VANISH and ALL_RELAYS in first_values(event, "relay"):
        return Retraction(contacts_until=event.created_at, vanished_until=event.created_at)
    if event.kind != DELETION:
        return None
    ids = [bytes.fromhex(value) for value in first_values(event, "e") if _EVENT_ID.fullmatch(value)]
    coordinate = f"{CONTACTS}:{event.pubkey.hex()}:"
    deletes_contacts = any(value in (coordinate, coordinate[:-1]) for value in first_values(event, "a"))
    return Retraction(frozenset(ids[:MAX_TARGETS]), event.created_at if deletes_contacts else None)
