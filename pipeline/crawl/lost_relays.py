"""Which relays are tried again within seconds of their loss, so that a restart of theirs costs little. Pure.

| state | event | next state |
|---|---|---|
| steady | loss of a connection that was productive and lasted `HEALTHY_S`, but not for forged events | lost |
| lost | a dial without an HTTP answer, or with 502 or 504 from a proxy | lost: the next follows in seconds |
| lost | a dial that this machine could not make, or may not | lost: the next follows by the common schedule |
| lost | a connection; any other HTTP answer; a permanent error; an hour | steady |

Steady relays follow the common schedule (`reconnect.py`). When most relays are lost at once, our own network is at
fault, more likely than all of theirs: only probes are tried then, until one of them answers. Times are monotonic
seconds.
"""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pipeline.crawl.reconnect import HEALTHY_S, ConnectionResult

FAST_S: Final = 300.0
"""For so long from the loss the intervals are the short ones."""
FORGOTTEN_S: Final = 3600.0
_SOON_S: Final = (1.0, 2.6)
_LATER_S: Final = (10.0, 20.0)
# After a dial that waited for seconds: a relay that comes back between two dials is noticed as soon.
_AT_ONCE_AGAIN_S: Final = (0.05, 0.4)
# Losses within so long of each other are at once; a broken line shows itself to all pings within about as long.
_AT_ONCE_S: Final = 120.0
# Fewer relays say nothing about the line.
_LEAST_CROWD: Final = 4
# A proxy answers for a relay that is not up yet.
_PROXY_STATUS: Final = frozenset({502, 504})


@dataclass(slots=True)
class _Lost:
    at: float
    tries: int = 0


class LostRelays:
    """The lost relays of one crawler process, by number."""

    __slots__ = ("_answered_at", "_lost", "_rng")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lost: dict[int, _Lost] = {}
        self._answered_at = -math.inf

    def __contains__(self, relay: int) -> bool:
        return relay in self._lost

    def on_ending(self, relay: int, ending: ConnectionResult, now: float) -> float | None:
        """Take the end of a connection or dial.

        Returns the seconds until the next dial where it follows soon, None where the common schedule decides.
        """
        if ending.answered or ending.status is not None:
            self._answered_at = now
        if _is_loss(ending):
            self._lost[relay] = _Lost(now)
        lost = self._lost.get(relay)
        if lost is None or ((ending.is_local_fault or ending.is_crowded) and not ending.connected):
            return None
        if not self._stays_lost(lost, ending, now):
            del self._lost[relay]
            return None
        lost.tries += not ending.connected
        if not self.is_fast(relay, now):
            return self._rng.uniform(*_LATER_S)
        return self._rng.uniform(*(_AT_ONCE_AGAIN_S if ending.timed_out else _SOON_S))

    def on_connected(self, now: float) -> None:
        """Some relay was reached: the line works."""
        self._answered_at = now

    def forget(self, relay: int) -> None:
        """It is crawled no more."""
        self._lost.pop(relay, None)

    def tries(self, relay: int) -> int:
        """Return how often it was dialled since its loss."""
        return self._lost[relay].tries

    def is_fast(self, relay: int, now: float) -> bool:
        """Return True if `relay` was lost so short a time ago that its dials are not to wait for long."""
        lost = self._lost.get(relay)
        return lost is not None and now - lost.at < FAST_S

    def is_line_down(self, connected: int, now: float) -> bool:
        """Return True if most relays were lost at once and none answered since; `connected` are left."""
        recent = [lost.at for lost in self._lost.values() if now - lost.at < _AT_ONCE_S]
        if len(recent) < _LEAST_CROWD or len(recent) <= connected:
            return False
        return self._answered_at < max(recent)

    def probes(self, due: Iterable[tuple[int, bool]]) -> set[int]:
        """Return which of these relays, the best first, are tried while the line is down; True: it is the operator's.

        Where the operator named none of them, the best stands for all.
        """
        lost = [(relay, is_operators) for relay, is_operators in due if relay in self._lost]
        return {relay for relay, is_operators in lost if is_operators} or {relay for relay, _ in lost[:1]}

    def _stays_lost(self, lost: _Lost, ending: ConnectionResult, now: float) -> bool:
        if ending.connected:
            return lost.at == now
        is_silent = ending.status is None or ending.status in _PROXY_STATUS
        return is_silent and not ending.permanent and now - lost.at < FORGOTTEN_S


def _is_loss(ending: ConnectionResult) -> bool:
    """Return True if a connection ended that is worth a quick return."""
    is_cut_off = ending.by_request or ending.is_forging
    return ending.connected and ending.lifetime_s >= HEALTHY_S and ending.was_productive and not is_cut_off
