"""Bounds on the cost of parsing a frame, judged by its bytes before it is parsed. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# A character of one byte may be written as an escape of six.
_ESCAPE_BYTES: Final = 6
# Around the event: the label, a subscription id of any usual length, white space.
_ENVELOPE_BYTES: Final = 4096
# Arrays of an EVENT frame that are not tags: the frame, the list of tags, some of unknown members.
_OTHER_ARRAYS: Final = 16
# Values for each tag that is allowed, together; most tags have two to four.
_VALUES_PER_TAG: Final = 16
# Looked at together, so that a frame that holds too much is not looked at to its end.
_CHUNK_BYTES: Final = 1 << 17


class Excess(StrEnum):
    """What there is too much of; a closed set, fit for a metric label."""

    BYTES = "too-large"
    TAGS = "too-many-tags"


@dataclass(frozen=True, slots=True)
class FrameBounds:
    """The largest event that is saved, in bytes and tags."""

    event_bytes: int
    event_tags: int

    def excess(self, raw: bytes) -> Excess | None:
        """Return what makes it impossible that `raw` is a frame whose event may be saved, None if nothing does."""
        if len(raw) > _ESCAPE_BYTES * self.event_bytes + _ENVELOPE_BYTES:
            return Excess.BYTES
        arrays, values = self.event_tags + _OTHER_ARRAYS, self.event_tags * _VALUES_PER_TAG
        # Most frames are too short to hold that many; in most others there are too few even with those in texts.
        if len(raw) <= arrays or (raw.count(b"[") <= arrays and raw.count(b",") <= values):
            return None
        return Excess.TAGS if _holds_more(raw, arrays, values) else None


def _holds_more(raw: bytes, arrays: int, values: int) -> bool:
    """Return True if there are more arrays or commas outside of texts."""
    bare = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    is_text = False
    for first in range(0, len(bare), _CHUNK_BYTES):
        parts = bare[first : first + _CHUNK_BYTES].split(b'"')
        outside = b"".join(parts[is_text::2])
        is_text ^= len(parts) % 2 == 0
        arrays -= outside.count(b"[")
        values -= outside.count(b",")
        if arrays < 0 or values < 0:
            return True
    return False
