"""Registration events: a user asks this service to replicate what concerns him (kind 6666)."""

import re
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import EventServiceError
from pipeline.nostr import json_text
from pipeline.nostr.address import InvalidAddress, RelayAddress, parse_address
from pipeline.nostr.event import Event
from pipeline.nostr.kinds import REGISTRATION

_WEBSOCKET: Final = re.compile(r"\s*wss?://", re.IGNORECASE)


class InvalidRegistration(EventServiceError):
    """An event that is no registration; the message may be shown to its author."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A user's public key, 32 bytes, and the distinct relays he named, in his order."""

    public_key: bytes
    relays: tuple[RelayAddress, ...]


def parse_registration(event: Event) -> Registration:
    """Read a registration out of a verified event; raises `InvalidRegistration`.

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
