"""What one relay's events may cost us, over all of its connections: failed verifications and strangers' bytes. Pure.

*Forgeries.* What is wanted and new is verified, so a relay that invents events has us verify as fast as it can send.
`FORGERIES` bounds the failures, beside one for every `GENUINE_PER_FORGERY` genuine events: an archive from before its
relay verified may hold thousands of forged ones, and a relay that pages through them is honest. Beyond it the relay is
cut off, and dialled again once there is a budget again. Events whose very form is wrong count as forged.

*Bytes of strangers.* Global kinds are taken from any author, so one relay can fill the disk with them. Their bytes
have a budget of `BURST_S` seconds of a rate that the operator sets:

| state | event | next state |
|---|---|---|
| free | more than the burst | paced: one page for global kinds at a time, once the last is paid off |
| paced | as much that came live or was not asked for at all | flooding: not subscribed to for global kinds either |
| paced, flooding | the burst is there again, after `PACED_S` at least | free |

Nothing is read while more than `GRACE_S` is owed. Nothing is dropped: what is not read yet stays with the relay.
`note` is called by the intake's thread, all else by the reactor's. Times are monotonic seconds.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.process.rate import OverdraftBucket, Rate

FORGERIES: Final = Rate(burst=5_000, per_minute=60)
"""A sixth of a second of CPU at once, and 3 s a day."""
GENUINE_PER_FORGERY: Final = 10
# So many seconds of the rate may come at once: a relay that was away for a while has as much to give.
BURST_S: Final = 64
GRACE_S: Final = 32
# What one page for global kinds should bring at most while they are paced.
PAGE_S: Final = 8
PACED_S: Final = 600.0
# The longest time without a look at what a slowed relay sends, as its pings wait for an answer.
MAX_PAUSE_S: Final = 20.0
# How much the newest batch counts for the usual size of an event.
_NEWEST: Final = 0.2


@dataclass(slots=True)
class Verified:
    """What the verification of some events of one relay found.

    `stranger_events`: genuine ones of global kinds by authors whom no registered user follows.
    """

    genuine: int = 0
    forged: int = 0
    stranger_events: int = 0
    stranger_bytes: int = 0


class RelayCosts:
    """The budgets of one relay. `byte_rate`: bytes of strangers a second; 0: no bound."""

    __slots__ = (
        "_byte_rate", "_bytes", "_flooding_since", "_forgeries", "_lock", "_mean_bytes", "_paced_since", "_rate",
        "_unasked",
    )  # fmt: skip

    def __init__(self, byte_rate: Callable[[], int], now: float) -> None:
        self._byte_rate = byte_rate
        self._rate = byte_rate()
        self._bytes = OverdraftBucket(_rate_of(self._rate), now)
        self._unasked = OverdraftBucket(_rate_of(self._rate), now)
        self._forgeries = OverdraftBucket(FORGERIES, now)
        self._paced_since: float | None = None
        self._flooding_since: float | None = None
        # Of one event of a stranger; the newest count most.
        self._mean_bytes = 0.0
        self._lock = threading.Lock()

    def note(self, verified: Verified, now: float) -> bool:
        """Take what the intake found; return True if the connection must do something about it."""
        with self._lock:
            forgeries = self._forgeries.spend(verified.forged - verified.genuine / GENUINE_PER_FORGERY, now)
            return (verified.forged > 0 and forgeries < 0) or (
                verified.stranger_events > 0 and self._spend_bytes(verified, now)
            )

    def note_unasked(self, size: int, now: float) -> bool:
        """Note an event of a global kind that no page asked for; return True if that is a flood from now on."""
        with self._lock:
            return self._unasked.spend(size, now) < 0 and self._begin_flood(now)

    def is_forging(self, now: float) -> bool:
        """Return True if the budget for forgeries is spent."""
        with self._lock:
            return self._forgeries.left(now) < 0

    def paced_since(self, now: float) -> float | None:
        """Return since when strangers' events are paced; None if they are not."""
        with self._lock:
            since = self._paced_since
            if since is not None and now - since >= PACED_S and self._left(now) >= self._rate * BURST_S:
                self._paced_since = self._flooding_since = None
            return self._paced_since

    def flooding_since(self, now: float) -> float | None:
        """Return since when more came than was asked for, so that nothing should be subscribed to; None if not."""
        return None if self.paced_since(now) is None else self._flooding_since

    def next_page_at(self, now: float) -> float:
        """Return when a page for strangers' events may be asked for: at once, or when what they took is paid off."""
        with self._lock:
            if self._paced_since is None or not self._rate:
                return now
            return now + max(0.0, -self._left(now)) / self._rate

    def events_within(self, seconds: float) -> int | None:
        """Return how many strangers' events of the usual size the rate allows in that time; None for any number."""
        with self._lock:
            return round(seconds * self._rate / self._mean_bytes) if self._rate and self._mean_bytes else None

    def pause_s(self, now: float) -> float:
        """Return for how long nothing should be read from the relay now."""
        with self._lock:
            if self._paced_since is None or not self._rate:
                return 0.0
            return min(MAX_PAUSE_S, max(0.0, -self._left(now) / self._rate - GRACE_S))

    def _spend_bytes(self, verified: Verified, now: float) -> bool:
        mean = verified.stranger_bytes / verified.stranger_events
        self._mean_bytes += _NEWEST * (mean - self._mean_bytes) if self._mean_bytes else mean
        rate = self._byte_rate()
        if rate != self._rate:
            self._rate = rate
            self._bytes.set_rate(_rate_of(rate), now)
            self._unasked.set_rate(_rate_of(rate), now)
        if not rate:
            self._paced_since = self._flooding_since = None
            return False
        left = self._bytes.spend(verified.stranger_bytes, now)
        if left < 0 and self._paced_since is None:
            self._paced_since = now
            if self._unasked.left(now) < 0:
                self._begin_flood(now)
            return True
        return self._paced_since is not None and left < -rate * GRACE_S

    def _begin_flood(self, now: float) -> bool:
        if self._paced_since is None or self._flooding_since is not None:
            return False
        self._flooding_since = now
        return True

    def _left(self, now: float) -> float:
        return self._bytes.left(now)


def _rate_of(bytes_per_s: int) -> Rate:
    return Rate(bytes_per_s * BURST_S, bytes_per_s * 60)
