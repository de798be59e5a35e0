"""How one live subscription takes the place of another, and what comes under ids that are closed. Pure.

A REQ under an open id replaces the subscription (NIP-01); at some relays it adds to it, so that each event comes once
for every REQ that was sent. Events that come twice under an id that was replaced show it. There the successor gets an
id of its own:

| state of the old one | event | next state |
|---|---|---|
| open | its successor is asked for | retiring: both bring events, so that none falls between |
| retiring | the successor's EOSE, or `OVERLAP_S` | closed |
| retiring | the successor is asked for again under another id, or gets a successor itself | retiring, for that one |
| retiring | the successor is refused, and this is the newest of those that it follows | open |
| retiring | the successor is refused, and this is not the newest | closed |

Times are monotonic seconds.
"""

from typing import Final

OVERLAP_S: Final = 5.0
"""A successor without an EOSE for so long counts as open: some relays send none where no stored events are wanted."""
LATE_S: Final = 10.0
"""What a relay had on its way when it was told to close an id has arrived by then."""
# Copies of an event follow each other at once.
_RECENT_IDS: Final = 64
# Pages that are closed in many minutes; only ids that are closed for long matter, and the oldest are forgotten.
_MAX_CLOSED: Final = 512


class RecentIds:
    """The newest ids that came under one subscription."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: dict[bytes, None] = {}

    def is_copy(self, event_id: bytes) -> bool:
        """Note an id; returns True if it came a moment ago."""
        if event_id in self._ids:
            return True
        self._ids[event_id] = None
        if len(self._ids) > _RECENT_IDS:
            del self._ids[next(iter(self._ids))]
        return False


class Succession:
    """The subscriptions of one connection that are retiring."""

    __slots__ = ("_retiring",)

    def __init__(self) -> None:
        # By the id of the old one: its successor's, and when it is closed at the latest.
        self._retiring: dict[str, tuple[str, float]] = {}

    def __contains__(self, old: str) -> bool:
        return old in self._retiring

    def retire(self, old: str, successor: str, now: float) -> None:
        """Keep `old` until `successor` is open; what `old` itself followed waits for `successor` too."""
        self.replace(old, successor)
        self._retiring[old] = (successor, now + OVERLAP_S)

    def replace(self, successor: str, again: str) -> None:
        """`successor` is asked for as `again` from now on."""
        self._retiring = {
            old: (again if name == successor else name, until) for old, (name, until) in self._retiring.items()
        }

    def on_open(self, subscription: str) -> list[str]:
        """The relay answered `subscription`; returns the old ones whose place it took, to be closed."""
        return [old for old, (successor, _) in self._retiring.items() if successor == subscription]

    def on_closed(self, old: str) -> None:
        """`old` is over."""
        self._retiring.pop(old, None)

    def on_refused(self, subscription: str) -> list[str]:
        """`subscription` is over: the newest that it follows stays open. Returns the others, to be closed."""
        followed = self.on_open(subscription)
        if followed:
            del self._retiring[followed.pop()]
        return followed

    def overdue(self, now: float) -> list[str]:
        """Return the old ones that have waited long enough."""
        return [old for old, (_, until) in self._retiring.items() if until <= now]

    @property
    def deadline(self) -> float | None:
        """When some will be overdue; None while none retires."""
        return min((until for _, until in self._retiring.values()), default=None)


class ClosedIds:
    """The ids that were closed on one connection, the newest of them."""

    __slots__ = ("_closed_at",)

    def __init__(self) -> None:
        self._closed_at: dict[str, float] = {}

    def on_closed(self, subscription: str, now: float) -> None:
        """We closed this id."""
        self._closed_at.pop(subscription, None)
        self._closed_at[subscription] = now
        if len(self._closed_at) > _MAX_CLOSED:
            del self._closed_at[next(iter(self._closed_at))]

    def is_late(self, subscription: str, now: float) -> bool:
        """Return True if an event under this id comes long after it was closed."""
        closed_at = self._closed_at.get(subscription)
        return closed_at is not None and now - closed_at > LATE_S
