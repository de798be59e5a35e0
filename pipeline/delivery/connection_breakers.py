"""Messages that broke the connection while they were with the sink alone, and what that teaches of its largest. Pure.

A relay may reset the connection over a message that is too large for it, and say nothing. It is sent alone twice, and
refused if a smaller one was delivered between and none as large ever was. From then on those that are as large are not
sent. Times are monotonic seconds.
"""

from dataclasses import dataclass
from typing import Final

LEARNED_FOR_S: Final = 86_400.0
"""After this time a message as large is tried again: the relay may have changed."""
# More break a connection only where something else than their size is wrong.
_MAX_BREAKERS: Final = 256


@dataclass(slots=True)
class _Breaker:
    size: int
    was_passed: bool = False
    """A smaller message was delivered since."""


class Breakers:
    """What one sink's connections broke over; sizes are bytes of payloads."""

    __slots__ = ("_breakers", "_largest", "_learned_at", "_too_large")

    def __init__(self) -> None:
        self._breakers: dict[bytes, _Breaker] = {}
        self._largest = 0  # that was delivered
        self._too_large: int | None = None
        self._learned_at = 0.0

    def __contains__(self, event_id: bytes) -> bool:
        return event_id in self._breakers

    def on_delivered(self, event_id: bytes, size: int) -> None:
        """The sink took a message."""
        self._breakers.pop(event_id, None)
        self._largest = max(self._largest, size)
        if self._too_large is not None and size >= self._too_large:
            self._too_large = None
        for each in self._breakers.values():
            each.was_passed = each.was_passed or size < each.size

    def on_broken(self, event_id: bytes, size: int, now: float) -> bool:
        """Return the connection broke while this message was under way alone; return True if that is for its size."""
        known = self._breakers.get(event_id)
        if known is None:
            if len(self._breakers) >= _MAX_BREAKERS:
                del self._breakers[next(iter(self._breakers))]
            self._breakers[event_id] = _Breaker(size)
            return False
        if not known.was_passed or size <= self._largest:
            return False
        del self._breakers[event_id]
        self._too_large, self._learned_at = size, now
        return True

    def is_too_large(self, size: int, now: float) -> bool:
        """Return True if the sink would break over a message of this size, as far as is known."""
        return self._too_large is not None and size >= self._too_large and now - self._learned_at < LEARNED_FOR_S
