"""Which events the target relay is to be given, and why not the others (NIP-40, NIP-70, what that relay takes)."""

from typing import Final

from pipeline.nostr.event import Event
from pipeline.nostr.kinds import CONTACTS, METADATA, RELAY_LIST
from pipeline.nostr.tags import expiration, is_protected

FORWARDED_KINDS: Final = frozenset({METADATA, CONTACTS, RELAY_LIST})
MAX_BYTES: Final = 196_608
MAX_TAGS: Final = 3_000


def reason_to_ignore(event: Event, size: int, now_s: int) -> str | None:
    """Why `event`, of `size` bytes, is not sent to the target relay; `None` if it is. A metric label."""
    if event.kind not in FORWARDED_KINDS:
        return "kind"
    if is_protected(event):
        return "protected"
    expires = expiration(event)
    if expires is not None and expires <= now_s:
        return "expired"
    if size > MAX_BYTES:
        return "too-large"
    return "too-many-tags" if len(event.tags) > MAX_TAGS else None
