"""The fence around relays that other machines crawl, too: the right to ask one runs out by itself.

Each host of relays has one holder at a time, by a lease that another machine counts, from some moment after the holder
asked for it. Once it has run out there, the next holder asks these relays, whether this process knows of it or not: it
may have been stopped, or its line cut. So the right is counted from before the request was sent, and ends after `SAFE`
of the lease: the rest is for clocks that do not run alike, and for what is under way. Time is boot time (seconds),
which goes on while a machine sleeps. It is looked at before each step and not by a timer, since a process that stood
still wakes in the middle of one.

| state | event | next state |
|---|---|---|
| none | a grant, asked for at `t` | held for the hosts of the grant until `t + SAFE * lease_s` |
| held | a grant that was asked for later | held for the hosts of that grant, until its own deadline |
| held, over | a grant that was asked for earlier: an answer that came late | the same |
| held | some hosts are given up | held without them |
| held | the deadline | over: nothing may be asked |
| over | a grant that was asked for later, and whose deadline is to come | held |
"""

import math
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from typing import Final

SAFE: Final = 0.7


@dataclass(frozen=True, slots=True)
class AskingRight:
    """The right to ask the relays of `hosts` (host keys), from when it was asked for to its deadline. Pure."""

    hosts: Set[str] = frozenset()
    asked_at: float = -math.inf
    deadline: float = -math.inf

    def granted(self, hosts: Set[str], asked_at: float, lease_s: float) -> "AskingRight":
        """Return the right after a grant of `lease_s` that was asked for at `asked_at`."""
        if asked_at < self.asked_at:
            return self
        return AskingRight(frozenset(hosts), asked_at, asked_at + SAFE * max(0.0, lease_s))

    def without(self, hosts: Set[str]) -> "AskingRight":
        """Return the right after `hosts` were given up."""
        return replace(self, hosts=self.hosts - hosts)

    def holds(self, now: float) -> bool:
        """Return True if anything may be asked at `now`."""
        return self.asked_at <= now < self.deadline

    def permits(self, host_key: str, now: float) -> bool:
        """Return True if the relays of a host may be asked at `now`."""
        return self.holds(now) and host_key in self.hosts


class Fence:
    """The right as it is now. Any thread may ask; one thread changes it."""

    __slots__ = ("_boot_time", "right")

    def __init__(self, boot_time: Callable[[], float]) -> None:
        self._boot_time = boot_time
        self.right = AskingRight()

    @property
    def remaining_s(self) -> float:
        """Return for how long anything may be asked; 0 if nothing may."""
        right, now = self.right, self._boot_time()
        return right.deadline - now if right.holds(now) else 0.0

    def permits(self, host_key: str) -> bool:
        """Return True if the relays of a host may be asked now."""
        return self.right.permits(host_key, self._boot_time())
