"""In which order relays deserve to be dialled: by what they brought, how well they answer, and who names them. Pure."""

import math
from collections.abc import Iterable
from typing import Final

from pipeline.crawl.crowding import has_to_wait, is_proven
from pipeline.store.relay_candidates import FIRST_SEEN_HALF_LIFE_MS, RelayCandidate
from pipeline.store.relay_pruning import MAX_MENTIONS

_HOUR_MS: Final = 3_600_000
# A monitor's word (NIP-66) is worth something for this long.
_SEEN_UP_MS: Final = 2 * 24 * _HOUR_MS
# One doubling of novel events is worth 1.
_NAMED_BY_USER: Final = 4.0
_ALL_MENTIONS: Final = 2.5
_SEEN_UP: Final = 1.0
_NEVER_UP: Final = 4.0
# Each failure in a row costs this, up to so many: a dead relay falls behind those that nobody tried.
_FAILURE: Final = 0.5
_MOST_FAILURES: Final = 24
# A connection is worth more than what strangers say of a relay that was never tried, and less than what a user says.
_CONNECTED: Final = 3.0
# A relay that restarts, or is lost with our line, has its place for so long.
_KEPT_FOR_MS: Final = 6 * _HOUR_MS


def ranked(candidates: Iterable[RelayCandidate], now: int) -> list[RelayCandidate]:
    """Return `candidates`, the best first, at `now` (ms).

    Those that the operator named come first, then incumbents, then others by `score`, the oldest first. Those that
    have to wait for their next dial come last: names that lead to one machine would keep places without being dialled.
    """
    return sorted(
        candidates,
        key=lambda each: (
            not each.by_operator, not is_incumbent(each, now), has_to_wait(each, now), -score(each, now), each.relay,
        ),
    )  # fmt: skip


def is_incumbent(candidate: RelayCandidate, now: int) -> bool:
    """Return True if a relay is connected and proven; no other takes its place."""
    is_there = candidate.is_connected or (candidate.connected_ms > 0 and now - candidate.state_since < _KEPT_FOR_MS)
    return is_there and is_proven(candidate, now)


def score(candidate: RelayCandidate, now: int) -> float:
    """What a relay is worth: about the binary logarithm of the novel events that it brought lately, give and take."""
    worth = math.log2(1 + candidate.novel * 0.5 ** (max(0, now - candidate.novel_at) / FIRST_SEEN_HALF_LIFE_MS))
    worth += _NAMED_BY_USER * candidate.named_by_user
    worth += _ALL_MENTIONS * min(candidate.namers, MAX_MENTIONS) / MAX_MENTIONS
    worth += _SEEN_UP * (0 <= now - candidate.seen_up_at < _SEEN_UP_MS)
    worth += _CONNECTED * candidate.is_connected
    watched = candidate.connected_ms + candidate.disconnected_ms
    if watched >= _HOUR_MS:
        worth -= _NEVER_UP * candidate.disconnected_ms / watched
    return worth - _FAILURE * min(candidate.failures, _MOST_FAILURES)
