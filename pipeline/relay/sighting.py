"""What can be told of an EVENT message that was skipped, from its two ends. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from pipeline.relay.frames import SkippedMessage

_SUBSCRIPTION: Final = re.compile(rb'\s*\[\s*"EVENT"\s*,\s*"([^"\\]{1,256})"\s*,')
# A quote inside of a text follows a backslash; a number may be cut off by the end of what was kept.
_CREATED_AT: Final = re.compile(rb'(?<!\\)"created_at"\s*:\s*(\d{1,12})\s*[,}]')
_ID: Final = re.compile(rb'(?<!\\)"id"\s*:\s*"([0-9a-f]{64})"')


@dataclass(frozen=True, slots=True)
class Sighting:
    """An event that was not read; each member is None where it did not stand in what was kept."""

    subscription: str | None
    event_id: bytes | None
    created_at: int | None


def sighting(message: SkippedMessage) -> Sighting | None:
    """Return what `message` shows of its event; None if it begins as something else than an EVENT."""
    begins = _SUBSCRIPTION.match(message.head)
    if begins is None and message.head:
        return None
    # Keys come in any order, and the content, which makes it long, may stand before or behind them.
    ends = (message.head, message.tail)
    identifier = next(filter(None, map(_ID.search, ends)), None)
    created_at = next(filter(None, map(_CREATED_AT.search, ends)), None)
    return Sighting(
        None if begins is None else begins[1].decode("utf-8", "replace"),
        None if identifier is None else bytes.fromhex(identifier[1].decode()),
        None if created_at is None else int(created_at[1]),
    )
