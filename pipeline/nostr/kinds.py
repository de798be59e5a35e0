"""Kinds of events that this service treats specially, and the classes of kinds (NIP-01)."""

from typing import Final

METADATA: Final = 0
TEXT_NOTE: Final = 1
RECOMMENDED_RELAY: Final = 2
CONTACTS: Final = 3
ENCRYPTED_DIRECT_MESSAGE: Final = 4
DELETION: Final = 5
REPOST: Final = 6
REACTION: Final = 7
GENERIC_REPOST: Final = 16
VANISH: Final = 62
GIFT_WRAP: Final = 1059
REPORT: Final = 1984
REGISTRATION: Final = 6666
RELAY_LIST: Final = 10002
BLOCKED_RELAYS: Final = 10006
SEARCH_RELAYS: Final = 10007
SIMPLE_GROUPS: Final = 10009
RELAY_FEEDS: Final = 10012
DIRECT_MESSAGE_RELAYS: Final = 10050
AUTH: Final = 22242
RELAY_SET: Final = 30002
RELAY_DISCOVERY: Final = 30166
FIRST_ADDRESSABLE: Final = 30_000

CONFIDENTIAL_KINDS: Final = frozenset({ENCRYPTED_DIRECT_MESSAGE, GIFT_WRAP})
"""Messages that relays may show to those only whom they concern."""
GLOBAL_KINDS: Final = frozenset({METADATA, RECOMMENDED_RELAY, CONTACTS, RELAY_LIST})
"""Kinds that are relevant from every author."""


def is_replaceable(kind: int) -> bool:
    """Return True if only an author's newest event of this kind counts."""
    return kind in (METADATA, CONTACTS) or 10_000 <= kind < 20_000


def is_ephemeral(kind: int) -> bool:
    """Return True if relays pass the event on without storing it."""
    return 20_000 <= kind < 30_000


def is_addressable(kind: int) -> bool:
    """Return True if only an author's newest event of this kind and `d` tag counts."""
    return FIRST_ADDRESSABLE <= kind < 40_000


def is_regular(kind: int) -> bool:
    """Return True if every event of this kind counts, whatever else its author wrote."""
    return not (is_replaceable(kind) or is_ephemeral(kind) or is_addressable(kind))
