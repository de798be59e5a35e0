"""Fetching everything between two times from a relay that returns at most so many events, newest first.

`Window` decides which page to ask for next and when everything has been had (relays cap pages silently, so a page
that is not full proves nothing). It steps down by the oldest event seen and asks for that second again, since others
may share it; that second is also the proof that the relay's `until` includes its own second: some relays exclude it,
and are then asked for one second more. It does no I/O and knows no clock.
"""

from dataclasses import dataclass

from pipeline.crawl.plan import MAX_MEMBERS, Query
from pipeline.nostr.filter import Filter

# Asking for more than a relay's cap makes some return far less; this many every relay seen accepts.
PAGE_LIMIT = 500


@dataclass(frozen=True, slots=True)
class PageResult:
    """What a page brought up to its EOSE: events that match it, valid or not, and their oldest and newest second."""

    count: int
    oldest: int | None = None
    newest: int | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a window still to be fetched: some members, maybe some of the kinds, from `low` to `high` (seconds)."""

    query: Query
    kinds: frozenset[int] | None
    low: int
    high: int

    def halves(self) -> tuple["Slice", ...]:
        """The slice cut by kinds, else by members; empty when it cannot be cut any further."""
        kinds = sorted(self.kinds if self.kinds is not None else self.query.kinds or ())
        if len(kinds) > 1:
            return tuple(Slice(self.query, frozenset({kind}), self.low, self.high) for kind in kinds)
        members = self.query.members
        if len(members) > 1:
            middle = len(members) // 2
            return tuple(
                Slice(self.query.of_members(part), self.kinds, self.low, self.high)
                for part in (members[:middle], members[middle:])
            )
        return ()


class Window:
    """Pages through one query from `since` to `until`, both included."""

    __slots__ = ("_exclusive", "_largest", "_sentinel", "_slices", "dense_seconds", "gaps", "limit", "pages")

    def __init__(
        self, query: Query, since: int, until: int, *,
        limit: int = PAGE_LIMIT, exclusive: bool = False, max_members: int = MAX_MEMBERS,
    ) -> None:  # fmt: skip
        self.limit = limit
        self.pages = 0
        self.dense_seconds = 0
        self.gaps = 0
        since = max(since, 0)
        parts = query.parts(max_members) if until >= since else []
        self._slices = [Slice(part, None, since, until) for part in parts]
        self._exclusive = exclusive
        self._largest = 0
        self._sentinel = False

    @property
    def is_done(self) -> bool:
        """Whether every page has been had."""
        return not self._slices

    @property
    def excludes_until(self) -> bool:
        """Whether this relay was seen to leave out the second named by `until`."""
        return self._exclusive

    def page(self) -> Filter:
        """The filter of the page to ask for now; the same until its result is told. Not for a window that is done."""
        part = self._slices[-1]
        until = part.high + 1 if self._exclusive else part.high
        return part.query.filter(kinds=part.kinds, since=part.low, until=until, limit=self.limit)

    def take(self, result: PageResult) -> None:
        """Note that the page asked for came to its EOSE."""
        self.pages += 1
        part = self._slices.pop()
        if self._sentinel and not self._exclusive and result.newest != part.high:
            # The second asked for again must hold the event that named it.
            self._exclusive = True
            self._slices.append(part)
            return
        if result.count == 0 or result.oldest is None:
            self._sentinel = False
        elif result.oldest > part.high:
            # Only the extra second came back, full: this relay does not exclude it after all.
            self._exclusive = False
            self._slices.append(part)
        elif result.oldest < part.high:
            self._step_down(part, max(result.oldest, part.low))
        else:
            self._leave_second(part, result.count)
        self._largest = max(self._largest, result.count)

    def _step_down(self, part: Slice, high: int) -> None:
        self._slices.append(Slice(part.query, part.kinds, part.low, high))
        self._sentinel = True

    def _leave_second(self, part: Slice, count: int) -> None:
        """All of the page lay in its newest second: step past it, unless the cap may have hidden others there."""
        self._sentinel = False
        if part.low < part.high:
            self._slices.append(Slice(part.query, part.kinds, part.low, part.high - 1))
        if count > 1 and count >= min(self._largest or count, self.limit):
            second = Slice(part.query, part.kinds, part.high, part.high)
            parts = second.halves()
            self.dense_seconds += part.low < part.high
            self.gaps += not parts
            self._slices.extend(parts)
