"""The work that an event proves by its id (NIP-13)."""

import re
from typing import Final

from pipeline.nostr.event import Event

_BITS: Final = re.compile("[0-9]{1,3}")


def proven_bits(event: Event) -> int:
    """Return the bits of work that `event` proves: leading zeros of its id, no more than its nonce tag commits to.

    Without the commitment an author could make many ids cheaply and wait for a lucky one; 0 then.
    """
    targets = [tag[2] for tag in event.tags if len(tag) > 2 and tag[0] == "nonce"]
    if not targets or _BITS.fullmatch(targets[0]) is None:
        return 0
    zeros = 8 * len(event.id) - int.from_bytes(event.id).bit_length()
    return min(zeros, int(targets[0]))
