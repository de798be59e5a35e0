"""Registration events: a user asks this service to replicate what concerns him (kind 6666)."""

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from pipeline.errors import EventServiceError
from pipeline.nostr import json_text
from pipeline.nostr.address import InvalidAddress, RelayAddress, parse_address
from pipeline.nostr.event import Event
from pipeline.nostr.kinds import DELETION, REGISTRATION, VANISH
from pipeline.nostr.tags import first_values

ALL_RELAYS: Final = "ALL_RELAYS"
MAX_AHEAD_S: Final = 900
"""How far ahead of our clock a registration may be dated, as relays allow (NIP-22)."""
_MAX_RELAY_TAGS: Final = 1_000
_EVENT_ID: Final = re.compile("[0-9a-f]{64}")
_WEBSOCKET: Final = re.compile(r"\s*wss?://", re.IGNORECASE)


class InvalidRegistration(EventServiceError):
    """An event that is no registration; the message may be shown to its author."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A user's public key, 32 bytes, and the distinct relays he named, in his order."""

    public_key: bytes
    relays: tuple[RelayAddress, ...]


@dataclass(frozen=True, slots=True)
class Departure:
    """A user's wish to be registered no longer: by deletion (NIP-09) of the event, or by vanishing (NIP-62)."""

    public_key: bytes
    created_at: int
    event_ids: frozenset[bytes] = frozenset()
    names_kind: bool = False
    """Deletes events of kind 6666; this counts where no id is known."""
    vanishes: bool = False


def parse_departure(event: Event, public_url: RelayAddress | None) -> Departure | None:
    """Return what a verified event takes back of registrations; None if it takes back none.

    `public_url`: the address by which users know this service.
    """
    if event.kind == VANISH:
        relays = tuple(islice(first_values(event, "relay"), _MAX_RELAY_TAGS))
        is_ours = ALL_RELAYS in relays or (public_url is not None and any(_is(url, public_url) for url in relays))
        return Departure(event.pubkey, event.created_at, vanishes=True) if is_ours else None
    if event.kind != DELETION:
        return None
    ids = frozenset(bytes.fromhex(value) for value in first_values(event, "e") if _EVENT_ID.fullmatch(value))
    names_kind = str(REGISTRATION) in first_values(event, "k")
    return Departure(event.pubkey, event.created_at, ids, names_kind) if ids or names_kind else None


def _is(text: str, address: RelayAddress) -> bool:
    try:
        return parse_address(text).url == address.url
    except InvalidAddress:
        return False


def parse_registration(event: Event) -> Registration:
    """Read a registration out of a verified event. Raises `InvalidRegistration`.

    The content is `{"relays":[{"address":"wss://…"}]}`. The list may be empty, null or absent. One address that is no
    address of a websocket refuses the whole; a private address does not.
    """
    if event.kind != REGISTRATION:
        raise InvalidRegistration(f"a registration is of kind {REGISTRATION}")
    try:
        content = json_text.decode(event.content.encode())
    except (UnicodeEncodeError, json_text.NotJson):
        raise InvalidRegistration("the content is no JSON text") from None
    relays = content.get("relays") if type(content) is dict else ()
    if relays is None:
        relays = []
    if type(relays) is not list:
        raise InvalidRegistration('the content is not of the form {"relays":[{"address":"wss://…"}]}')
    return Registration(event.pubkey, tuple(dict.fromkeys(map(_address, relays))))


def _address(item: Any) -> RelayAddress:
    text = item.get("address") if type(item) is dict else None
    if type(text) is not str:
        raise InvalidRegistration('a relay is not of the form {"address":"wss://…"}')
    if _WEBSOCKET.match(text) is None:  # parse_address would read https:// as wss://
        raise InvalidRegistration("a relay address does not begin with ws:// or wss://")
    try:
        return parse_address(text)
    except InvalidAddress as error:
        raise InvalidRegistration(f"a relay address cannot be used: {error}") from None
