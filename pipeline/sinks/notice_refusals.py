"""Which events a target relay refuses by NOTICEs, that name none. No I/O, no clock; times are monotonic seconds.

Each EVENT is to be answered by an OK that names it. Some relays refuse what they cannot read by a NOTICE alone, or drop
so what exceeds their rate. While there are as many such NOTICEs as events without an answer, each of these was refused.

| event | then |
|---|---|
| a NOTICE that refuses, while events wait | it is one more |
| an OK that refuses | it is one less: some relays send both |
| nothing waits, or the connection is lost | there is none |
| as many as events wait, and nothing came for `GRACE_S` | all of these were refused |
| an event waits for the longest time, and such a NOTICE came since it was sent | it was refused |

What was refused so is sent once more, since it may be the answer that was slow; the second time that is final.
"""

import math
from collections.abc import Collection
from typing import Final

from pipeline.nostr.message import is_rate_limit
from pipeline.nostr.notices import reason_prefix
from pipeline.relay.refusals import RelayRefusal, classify
from pipeline.sinks.base import Refused, Retry

GRACE_S: Final = 2.0
# Ids that are remembered; one that is forgotten is sent once more.
_MAX_IDS: Final = 10_000
_REFUSED: Final = Refused("notice")
_SUSPECTED: Final = Retry("notice")
_RATE_LIMITED: Final = Retry("rate-limited")


class NoticeRefusals:
    """The NOTICEs of one target relay that refuse events."""

    __slots__ = ("_count", "_is_limited", "_last_at", "_noticed_at", "_suspects")

    def __init__(self) -> None:
        self._count = 0
        # Whether one of those counted speaks of a rate; when the last came, and when the relay last said anything.
        self._is_limited = False
        self._noticed_at = -math.inf
        self._last_at = -math.inf
        # Ids that were taken for refused once.
        self._suspects: dict[bytes, None] = {}

    def on_notice(self, text: str, now: float) -> None:
        """Take a NOTICE that came while events waited."""
        is_limited = is_rate_limit(text)
        if is_limited or reason_prefix(text) or classify(text) is not RelayRefusal.ERROR:
            self._count += 1
            self._is_limited |= is_limited
            self._noticed_at = self._last_at = now

    def on_ok(self, now: float, *, accepted: bool, is_last: bool) -> None:
        """Take the OK for an event; `is_last`: no other waits."""
        self._last_at = now
        if is_last:
            self.reset()
        elif not accepted:
            self._count = max(0, self._count - 1)

    def reset(self) -> None:
        """Forget what was counted: nothing waits."""
        self._count, self._is_limited = 0, False

    def explains(self, waiting: int, now: float) -> bool:
        """Return True if so many events wait for nothing, as all of them were refused."""
        return 0 < waiting <= self._count and now - self._last_at >= GRACE_S

    def came_since(self, sent_at: float) -> bool:
        """Return True if what was sent then may have been refused since."""
        return self._count > 0 and self._noticed_at >= sent_at

    def verdicts(self, event_ids: Collection[bytes]) -> list[tuple[bytes, Refused | Retry]]:
        """Return what becomes of events that were refused."""
        found: list[tuple[bytes, Refused | Retry]] = []
        for event_id in event_ids:
            if self._is_limited:
                found.append((event_id, _RATE_LIMITED))
            elif event_id in self._suspects:
                del self._suspects[event_id]
                found.append((event_id, _REFUSED))
            else:
                self._suspects[event_id] = None
                found.append((event_id, _SUSPECTED))
        while len(self._suspects) > _MAX_IDS:
            del self._suspects[next(iter(self._suspects))]
        self._count = max(0, self._count - len(found))
        return found
