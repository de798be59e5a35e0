"""Which events are fit to be saved: the one implementation of the bounds and of the verification."""

from dataclasses import dataclass
from typing import Final

from pipeline.nostr.event import Event, InvalidEvent, verify

# `created_at` may be this far ahead of our clock.
MAX_FUTURE_S: Final = 900
FORGED: Final = "invalid-"
"""What the reasons begin with by which an event is not its author's."""


@dataclass(frozen=True, slots=True)
class EventLimits:
    """What is too large to be saved."""

    bytes: int
    tags: int


def rejection_reason(event: Event, size: int, limits: EventLimits, now_s: int) -> str | None:
    """Return why `event`, whose JSON has `size` bytes, must not be saved, a metric label; None if it may be."""
    if size > limits.bytes:
        return "too-large"
    if len(event.tags) > limits.tags:
        return "too-many-tags"
    if event.created_at > now_s + MAX_FUTURE_S:
        return "future"
    try:
        verify(event)
    except InvalidEvent as error:
        return f"{FORGED}{error.reason}"
    return None
