"""Authentication of a client to a relay (NIP-42)."""

from pipeline.nostr.address import RelayAddress
from pipeline.nostr.event import Event, sign
from pipeline.nostr.kinds import AUTH


def auth_event(secret: bytes, relay_url: str, challenge: str, created_at: int) -> Event:
    """Return the event that answers `challenge`; `relay_url` is the relay's address, `created_at` now in seconds."""
    tags = [["relay", relay_url], ["challenge", challenge]]
    return sign(secret, created_at=created_at, kind=AUTH, tags=tags, content="")


def addresses_for_auth(address: RelayAddress) -> tuple[str, ...]:
    """Return what the relay at `address` may call itself, the likeliest first.

    Strict relays compare as text. It is the address as written that was dialled; where that is refused, what people
    add to a bare host or leave out is tried.
    """
    slash = () if address.path else (f"{address.url}/",)
    return tuple(dict.fromkeys((address.spelling, address.url, *slash)))
