"""Which events are sent to the target relay, and why others are skipped (NIP-40, NIP-70, that relay's policy)."""

from typing import Final

from pipeline.nostr.event import Event
from pipeline.nostr.kinds import CONTACTS, METADATA, RELAY_LIST
from pipeline.nostr.tags import expiration, is_protected

FORWARDED_KINDS: Final = frozenset({METADATA, CONTACTS, RELAY_LIST})
MAX_BYTES: Final = 196_608
MAX_TAGS: Final = 3_000


def skip_reason(event: Event, size: int, now_s: int) -> str | None:
    """Return why `event`, of `size` bytes, is not sent to the target relay, as a metric label; `None` if it is."""
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
