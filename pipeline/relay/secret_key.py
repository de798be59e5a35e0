"""The key that we authenticate to relays with (NIP-42)."""

from pathlib import Path

from pipeline.errors import CannotStart
from pipeline.nostr.event import public_key
from pipeline.nostr.nip19 import InvalidEncoding, decode_nsec


def read_secret_key(path: Path | None) -> bytes | None:
    """The secret key in the file at `path`, 64 hex digits or nsec; raises `CannotStart` if it holds none."""
    if path is None:
        return None
    try:
        text = path.read_text().strip()
        secret = decode_nsec(text) if text.startswith("nsec") else bytes.fromhex(text)
        # Not every number is a key: told now, and not when a relay asks for it.
        public_key(secret)
    except (OSError, ValueError, InvalidEncoding):
        # Neither the text nor the error is shown: either may hold the key.
        raise CannotStart(f"EVENTS_SECRET_KEY_PATH: {path} holds no secret key (64 hex digits or nsec)") from None
    return secret
