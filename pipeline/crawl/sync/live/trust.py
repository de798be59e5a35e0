"""What follows when the live subscriptions of one relay do not bring what they should. Pure.

A relay may answer a live request and then send nothing, serve its first filter only, skip events for slow readers, or
end a subscription without a word once the stored events reach its `limit`.
What should have come live, as sweeps show (`check.py`), is a *miss* if it did not.

| state | event | next state |
|---|---|---|
| trusted | `MISSES`, asked with `limit: 0` | suspect: asked with `limit: 1`, polled |
| trusted or suspect | `MISSES`, asked with `limit: 1` | distrusted, in its limits: one filter each, polled |
| distrusted | `MISSES` | the same, asked with a large `limit` and `since`, which few stored events match |
| suspect | `SUSPECT_S` without a miss | trusted |
| distrusted | a day later | trusted |

Times of events are Unix seconds, those of the relay's answers too.
"""

from typing import Final

from pipeline.relay.limits import RelayLimits

MAX_IDS: Final = 4_096
"""What came live is remembered by so many ids; what may have been forgotten is not judged."""
MISSES: Final = 2
"""One event may have reached the relay by another way, as from a copy of its store."""
SUSPECT_S: Final = 600


class LiveTrust:
    """What came live from one relay, and what should have."""

    __slots__ = ("_forgotten", "_ids", "_missed", "_missed_at")

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        # Of what is dated until then some ids may be forgotten.
        self._forgotten = 0
        # What was missed since anything was last done about it, and when that was last.
        self._missed: set[bytes] = set()
        self._missed_at = 0

    def on_connected(self) -> None:
        """Forget what belongs to a former connection."""
        self._ids.clear()
        self._missed.clear()
        self._forgotten = 0

    def on_live(self, event_id: bytes, created_at: int, wall: int) -> None:
        """An event came live."""
        self._ids.pop(event_id, None)
        self._ids[event_id] = max(created_at, wall)
        if len(self._ids) > MAX_IDS:
            oldest = next(iter(self._ids))
            self._forgotten = max(self._forgotten, self._ids.pop(oldest))

    def came(self, event_id: bytes) -> bool:
        """Return True if an event came live, as far as that is remembered."""
        return event_id in self._ids

    def remembers(self, created_at: int) -> bool:
        """Return True if all that is dated so and came live is remembered."""
        return created_at > self._forgotten

    def on_missed(self, event_id: bytes, wall: int) -> None:
        """A live subscription should have brought this event."""
        self._missed.add(event_id)
        self._missed_at = wall

    def is_suspect(self, wall: int) -> bool:
        """Return True if something was missed a short time ago."""
        return self._missed_at > 0 and wall - self._missed_at < SUSPECT_S

    def judged(self, limits: RelayLimits, wall: int) -> RelayLimits:
        """Return how to ask from now on, by what was missed since the last call that changed it."""
        if len(self._missed) < MISSES:
            return limits
        self._missed.clear()
        return limits.without_trust_in_live(wall)
