"""What an event's tags say (NIP-01, NIP-40, NIP-70) and which of two versions counts."""

import re
from collections.abc import Iterator
from typing import Final, Protocol

from pipeline.nostr.event import MAX_CREATED_AT, Event
from pipeline.nostr.kinds import is_addressable, is_replaceable

_PUBLIC_KEY: Final = re.compile("[0-9a-f]{64}")
_TIME: Final = re.compile("[0-9]{1,19}")


class EventVersion(Protocol):
    """What decides between versions of a replaceable or addressable event."""

    @property
    def created_at(self) -> int:
        """Seconds since 1970."""

    @property
    def id(self) -> bytes:
        """32 bytes."""


def first_values(event: Event, name: str) -> Iterator[str]:
    """Return the second element, which relays index, of each tag called `name` that has one, in order."""
    return (tag[1] for tag in event.tags if len(tag) > 1 and tag[0] == name)


def public_keys(event: Event) -> set[bytes]:
    """Return the distinct well-formed keys, 32 bytes each, that `p` tags name; others are left out."""
    return {bytes.fromhex(value) for value in first_values(event, "p") if _PUBLIC_KEY.fullmatch(value)}


def identifier(event: Event) -> str:
    """Return the first `d` value, or "" without one: with kind and author an addressable event's address (NIP-01)."""
    return next(first_values(event, "d"), "")


def coordinate(event: Event) -> str | None:
    """Return the event's address as in `a` tags, `kind:pubkey:d`, of all versions; None if each event is its own."""
    if is_addressable(event.kind):
        return f"{event.kind}:{event.pubkey.hex()}:{identifier(event)}"
    return f"{event.kind}:{event.pubkey.hex()}:" if is_replaceable(event.kind) else None


def expiration(event: Event) -> int | None:
    """Return when the event expires, in seconds since 1970 (NIP-40), by its first `expiration` tag; None for never.

    A value that is no whole number below 2**63 is no expiry: a typing error must not lose the event.
    """
    value = next(first_values(event, "expiration"), "")
    if _TIME.fullmatch(value) is None or int(value) > MAX_CREATED_AT:
        return None
    return int(value)


def is_protected(event: Event) -> bool:
    """Return True if only its author may publish it to a relay (NIP-70): some tag is called `-`."""
    return any(tag and tag[0] == "-" for tag in event.tags)


def supersedes(new: EventVersion, old: EventVersion) -> bool:
    """Return True if `new` replaces `old` at the same address: later `created_at`, or at the same time lower id."""
    return (-new.created_at, new.id) < (-old.created_at, old.id)
