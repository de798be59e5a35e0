"""What one relay has to make up for, since it was away or came back with another store. No I/O, no clock.

While we are away events arrive that may be dated long before: tail sweeps, which go by the events' own times, miss
them. So after every absence all that may be late is looked for again.

| owed | event | then |
|---|---|---|
| anything | a connection stands again | gift wraps and every query are owed |
| gift wraps | asked for, at most every `WRAPS_EVERY_S` | gift wraps are not owed |
| a query | a resweep of it begins, at most every `RESWEEP_EVERY_S` | it is owed until that resweep is complete |
| a query | its resweep is complete, and began after the last absence | the query is not owed |
| a query | its resweep is complete, and began before | the query is owed still, as events may have come behind it |

The start of a process is an absence of all relays; of what its predecessor owed it knows only since when. So that
these do not all sweep at once, only so many do as there are `Places`, the longest absent first. Times are Unix seconds.
"""

from typing import Final

# Gift wraps are dated up to two days back (NIP-59).
WRAPS_DATED_BACK_S: Final = 2 * 86_400
WRAPS_EVERY_S: Final = 600
# Two days back, at most once an hour: a relay that is lost every minute is not swept all the time.
RESWEEP_EVERY_S: Final = 3_600
# Tail sweeps go first, for as long as this.
TAILS_FIRST_S: Final = 60
# Relays of one process that are swept for absences at once: as many as are dialled at once, to begin their tails.
MAX_PLACES: Final = 32


class Places:
    """Which relays of a process may be swept for absences now; shared, and for one thread."""

    __slots__ = ("_held", "_most", "_waiting")

    def __init__(self, most: int = MAX_PLACES) -> None:
        self._most = most
        self._held: set[int] = set()
        # By relay, since when it was absent.
        self._waiting: dict[int, int] = {}

    def take(self, relay: int, since: int) -> bool:
        """Return True if `relay`, absent from `since` on, has a place; without one it waits, and has to ask again."""
        if relay in self._held:
            return True
        self._waiting[relay] = since
        free = self._most - len(self._held)
        if sum((other, number) < (since, relay) for number, other in self._waiting.items()) >= free:
            return False
        del self._waiting[relay]
        self._held.add(relay)
        return True

    def leave(self, relay: int) -> None:
        """Give back the place of `relay`, or let it wait no more."""
        self._held.discard(relay)
        self._waiting.pop(relay, None)


class Absences:
    """The absences of one relay that are not made up for."""

    __slots__ = ("_begun", "_places", "_relay", "_wraps_at", "_wraps_since", "back_at", "since")

    def __init__(self, relay: int, places: Places) -> None:
        self.since = 0
        """When the oldest of them began; 0 if nothing is owed."""
        self.back_at = 0
        """When the newest ended."""
        self._relay = relay
        self._places = places
        self._wraps_since = 0
        self._wraps_at = 0
        # By query, when it was last begun to be swept for late arrivals.
        self._begun: dict[str, int] = {}

    def recall(self, since: int) -> None:
        """Owe what a former process left owed: an absence that began at `since`, 0 for none."""
        self.since = since

    def on_back(self, since: int, wall: int) -> None:
        """Note that the relay is back, after an absence that began at `since`."""
        since = max(1, min(since, wall))
        self.since = min(self.since or since, since)
        self._wraps_since = min(self._wraps_since or since, since)
        self.back_at = wall

    def on_lost(self) -> None:
        """Note that it is away again."""
        self._places.leave(self._relay)

    def is_owed(self, last: int | None) -> bool:
        """Return True if a query is owed of which the last complete resweep began at `last`."""
        return self.since > 0 and (last is None or last < self.back_at)

    def wait_s(self, query: str, last: int | None, wall: int) -> int:
        """Return how many seconds it takes until a resweep of `query` may begin."""
        latest = max(self._begun.get(query, 0), last or 0)
        # A time to come was noted by a wrong clock.
        return 0 if latest > wall else max(0, latest + RESWEEP_EVERY_S - wall)

    def has_place(self) -> bool:
        """Return True if this relay's turn has come."""
        return self._places.take(self._relay, self.since)

    def on_begun(self, query: str, wall: int) -> None:
        """Note that a resweep of `query` began."""
        self._begun[query] = wall

    def pause(self) -> None:
        """Let others have the place: nothing can be begun for a while."""
        self._places.leave(self._relay)

    def settle(self) -> None:
        """Note that nothing is owed any more."""
        self.since = 0
        self._begun.clear()
        self._places.leave(self._relay)

    def take_wraps(self, wall: int) -> int | None:
        """Return from when on gift wraps are to be asked for now, if they are."""
        if not self._wraps_since or 0 <= wall - self._wraps_at < WRAPS_EVERY_S:
            return None
        since, self._wraps_since, self._wraps_at = self._wraps_since, 0, wall
        return max(0, since - WRAPS_DATED_BACK_S)

    def wraps_wait_s(self, wall: int) -> int | None:
        """Return in how many seconds gift wraps are to be asked for; `None` if they are not owed."""
        return max(0, self._wraps_at + WRAPS_EVERY_S - wall) if self._wraps_since else None
