"""In which order relays deserve to be dialled: by what they brought, how well they answer, and who names them. Pure."""

import math
from collections.abc import Iterable
from typing import Final

from pipeline.store.relay_pruning import MAX_NAMERS
from pipeline.store.relays import NOVEL_HALF_LIFE_MS, RelayCandidate

_HOUR_MS: Final = 3_600_000
# A monitor's word (NIP-66) is worth something for this long.
_SEEN_UP_MS: Final = 2 * 24 * _HOUR_MS
# One doubling of novel events is worth 1.
_NAMED_BY_USER: Final = 4.0
_ALL_NAMERS: Final = 4.0
_SEEN_UP: Final = 1.0
_NEVER_UP: Final = 4.0
# Each failure in a row costs this, up to so many: a dead relay falls behind those that nobody tried.
_FAILURE: Final = 0.5
_MOST_FAILURES: Final = 24
# Less than this difference exchanges nothing: a connection is worth more than a slightly better record.
_CONNECTED: Final = 0.5


def ranked(candidates: Iterable[RelayCandidate], now: int) -> list[RelayCandidate]:
    """`candidates`, the best first, at `now` (ms): those that the operator named, then by `score`, then the oldest."""
    return sorted(candidates, key=lambda each: (not each.by_operator, -score(each, now), each.relay))


def score(candidate: RelayCandidate, now: int) -> float:
    """What a relay is worth: about the binary logarithm of the novel events that it brought lately, give and take."""
    worth = math.log2(1 + candidate.novel * 0.5 ** (max(0, now - candidate.novel_at) / NOVEL_HALF_LIFE_MS))
    worth += _NAMED_BY_USER * candidate.named_by_user
    worth += _ALL_NAMERS * min(candidate.namers, MAX_NAMERS) / MAX_NAMERS
    worth += _SEEN_UP * (0 <= now - candidate.seen_up_at < _SEEN_UP_MS)
    worth += _CONNECTED * candidate.is_connected
    watched = candidate.connected_ms + candidate.disconnected_ms
    if watched >= _HOUR_MS:
        worth -= _NEVER_UP * candidate.disconnected_ms / watched
    return worth - _FAILURE * min(candidate.failures, _MOST_FAILURES)
