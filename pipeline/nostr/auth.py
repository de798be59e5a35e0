"""Authentication of a client to a relay (NIP-42)."""

from pipeline.nostr.event import Event, sign
from pipeline.nostr.kinds import AUTH


def auth_event(secret: bytes, relay_url: str, challenge: str, created_at: int) -> Event:
    """The event that answers `challenge`; `relay_url` is the address that was dialled, `created_at` now in seconds."""
    tags = [["relay", relay_url], ["challenge", challenge]]
    return sign(secret, created_at=created_at, kind=AUTH, tags=tags, content="")
