"""How far what is had of one relay lies behind now. Pure; times are Unix seconds."""

from collections.abc import Iterable

from pipeline.crawl.sync.cursors import CursorTable
from pipeline.crawl.sync.live.subscriptions import LiveSubscriptions
from pipeline.crawl.sync.query import Query
from pipeline.crawl.sync.sync_clock import SyncClock


class Lag:
    """The lag of one relay, by its cursors and by what comes live. `crawled_since`: when its first crawl began."""

    __slots__ = ("_clock", "_crawled_since", "_cursors", "_live")

    def __init__(self, cursors: CursorTable, live: LiveSubscriptions, clock: SyncClock, crawled_since: int) -> None:
        self._cursors = cursors
        self._live = live
        self._clock = clock
        self._crawled_since = crawled_since

    def seconds(self, queries: Iterable[Query], wall: int, newest_live: int) -> int:
        """Return the age of the oldest cursor of live queries, or of the first crawl where one has none.

        A query whose gap was closed since the connection stands, and that is subscribed to, is as far as
        `newest_live`, the time of the latest event that came live.
        """
        times = [self._complete_until(query, min(newest_live, wall)) for query in queries if query.is_live]
        return max(0, wall - min(times, default=wall))

    def _complete_until(self, query: Query, newest_live: int) -> int:
        cursor = self._cursors.cursor_for(query)
        if cursor is None:
            return self._crawled_since
        is_closed = self._clock.connected_at is not None and cursor.complete_until >= self._clock.connected_at
        if is_closed and self._live.has(query.key):
            return max(cursor.complete_until, newest_live)
        return cursor.complete_until
