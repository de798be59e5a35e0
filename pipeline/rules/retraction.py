"""What an event retracts: its author's earlier events, by deletion (NIP-09) or request to vanish (NIP-62)."""

import re
from dataclasses import dataclass
from typing import Final

from pipeline.nostr.event import Event
from pipeline.nostr.kinds import CONTACTS, DELETION, RELAY_LIST, VANISH, is_addressable, is_replaceable
from pipeline.nostr.tags import first_values

ALL_RELAYS: Final = "ALL_RELAYS"
# A deletion names a handful; one that names more costs a row each.
MAX_TARGETS: Final = 1_000
_EVENT_ID: Final = re.compile("[0-9a-f]{64}")
# The last colon is often left out where there is no `d` tag.
_COORDINATE: Final = re.compile("(0|[1-9][0-9]{0,4}):([0-9a-f]{64})(?::(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Retraction:
    """The events of its own author that one event retracts; it retracts none of others.

    `event_ids`: these events. `coordinates`: every version at these addresses (`tags.coordinate`) up to the event's own
    time. `contacts_until`, `relay_list_until`: every contact list and relay list up to this time. `vanished_until`:
    everything up to this time. Times are `created_at` seconds, included; `None` for nothing.
    """

    event_ids: frozenset[bytes] = frozenset()
    coordinates: frozenset[str] = frozenset()
    contacts_until: int | None = None
    relay_list_until: int | None = None
    vanished_until: int | None = None


def retraction(event: Event) -> Retraction | None:
    """Return what `event` retracts; `None` for most events.

    A request to vanish counts only when it is made to all relays: one made to some relays says nothing about the
    copies on others, which are where we read. Deleting a deletion does nothing (NIP-09).
    """
    if event.kind == VANISH and ALL_RELAYS in first_values(event, "relay"):
        at = event.created_at
        return Retraction(contacts_until=at, relay_list_until=at, vanished_until=at)
    if event.kind != DELETION:
        return None
    ids = [bytes.fromhex(value) for value in first_values(event, "e") if _EVENT_ID.fullmatch(value)]
    named = (_coordinate(value, event.pubkey.hex()) for value in first_values(event, "a"))
    coordinates = [value for value in named if value is not None]
    deletes_contacts, deletes_relays = (
        f"{kind}:{event.pubkey.hex()}:" in coordinates for kind in (CONTACTS, RELAY_LIST)
    )
    return Retraction(
        frozenset(ids[:MAX_TARGETS]),
        frozenset(coordinates[:MAX_TARGETS]),
        event.created_at if deletes_contacts else None,
        event.created_at if deletes_relays else None,
    )


def _coordinate(text: str, author: str) -> str | None:
    """Return `text` in the form of `tags.coordinate`; None unless it is an address of `author`."""
    match = _COORDINATE.fullmatch(text)
    if match is None or match[2] != author:
        return None
    kind = int(match[1])
    if is_replaceable(kind):
        return f"{kind}:{author}:"
    return f"{kind}:{author}:{match[3] or ''}" if is_addressable(kind) else None
