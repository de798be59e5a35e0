"""Which relays are dialled now, of those whose time has come. Pure; times are monotonic seconds."""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from pipeline.crawl.lost_relays import LostRelays
from pipeline.process.rate import TokenBucket

# Name look-ups and handshakes under way at once; more would only fight for the same line.
MAX_DIALS: Final = 32
# The part of them that may be of relays that were just lost.
MAX_FAST_DIALS: Final = MAX_DIALS // 2


@dataclass(frozen=True, slots=True)
class DialBounds:
    """How many dials may be begun, however many are due. `fast`: of relays that were just lost; `common`: of others."""

    common: TokenBucket
    fast: TokenBucket


@dataclass(frozen=True, slots=True)
class DueRelay:
    """A relay that is due since `at`; `rank`: its place among those that are crawled, 0 for the best."""

    relay: int
    at: float
    rank: int
    is_operators: bool


class DialQueue:
    """Puts due relays in order, and lets as many pass as the bounds allow. For one thread."""

    __slots__ = ("_bounds", "_lost")

    def __init__(self, bounds: DialBounds, lost: LostRelays) -> None:
        self._bounds = bounds
        self._lost = lost

    def take(self, due: Iterable[DueRelay], dialling: AbstractSet[int], connected: int, now: float) -> Iterator[int]:
        """Yield the relays to dial now, each to be in `dialling` before the next is asked for.

        `connected`: how many relays are.
        """
        due = list(due)
        for each in self._lost_in_order(due, connected, now):
            under_way = sum(relay in self._lost for relay in dialling)
            if len(dialling) >= MAX_DIALS or under_way >= MAX_FAST_DIALS or not self._bounds.fast.take(now):
                break
            yield each.relay
        for each in sorted(due, key=lambda each: each.at):
            if each.relay not in self._lost:
                if len(dialling) >= MAX_DIALS or not self._bounds.common.take(now):
                    return
                yield each.relay

    def _lost_in_order(self, due: Sequence[DueRelay], connected: int, now: float) -> list[DueRelay]:
        """Those that were just lost, each in its turn, of one turn the best first."""
        lost = sorted((each for each in due if each.relay in self._lost), key=lambda each: each.rank)
        if self._lost.is_line_down(connected, now):
            probes = self._lost.probes((each.relay, each.is_operators) for each in lost)
            lost = [each for each in lost if each.relay in probes]
        return sorted(lost, key=lambda each: self._lost.tries(each.relay))
