"""The live subscriptions of one relay's connection: opened, replaced, and opened again some time after they ended."""

from collections.abc import Iterable

from pipeline.crawl.live import LiveGroups
from pipeline.crawl.plan import Query
from pipeline.crawl.waits import MAX_RETRY_S, retry_wait
from pipeline.relay.limits import Limits
from pipeline.relay.session import Session
from pipeline.relay.subscription import LiveEnded


class LiveSubscriptions:
    """Keeps a session's live subscriptions as the queries want them. Does no I/O; times are monotonic seconds."""

    __slots__ = ("_failures", "_groups", "_not_before", "_opened")

    def __init__(self, limits: Limits) -> None:
        self._groups = LiveGroups(limits)
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._opened: dict[str, float] = {}

    @property
    def left_out(self) -> tuple[str, ...]:
        """The keys of queries that there is no room for."""
        return self._groups.left_out

    def has(self, query: str) -> bool:
        """Whether the query of this key has a place in some subscription."""
        return self._groups.has(query)

    def connected(self) -> None:
        """A new connection stands, on which nothing is open."""
        self._groups.reopen()
        self._not_before.clear()
        self._failures.clear()
        self._opened.clear()

    def open_due(self, queries: Iterable[Query], session: Session, mono: float) -> None:
        """Open, replace and close what must be for these queries, as far as its time has come and there is room."""
        self._groups.arrange(queries, session.limits)
        for key, filters in self._groups.take_changed().items():
            if filters is None:
                session.close_live(key)
            elif self._not_before.get(key, 0.0) > mono or not session.has_room_for_live(key):
                self._groups.reopen(key)
            else:
                self._opened[key] = mono
                session.open_live(key, filters, mono)

    def ended(self, ended: LiveEnded, mono: float) -> tuple[str, ...]:
        """Take the end of one, to open it again later; returns the keys of the queries that it was for.

        What asks for several things is refused for one of them: they are opened again at once, each by itself.
        """
        queries = self._groups.queries_of(ended.key)
        if ended.refusal.is_lasting and self._groups.part(ended.key):
            return queries
        lived = mono - self._opened.get(ended.key, mono)
        failures = 0 if lived >= MAX_RETRY_S else self._failures.get(ended.key, 0)
        self._failures[ended.key] = failures + 1
        self._not_before[ended.key] = mono + retry_wait(ended.refusal, failures)
        self._groups.reopen(ended.key)
        return queries

    def due_after(self, mono: float) -> list[float]:
        """When some may be opened again that may not be yet."""
        return [at for at in self._not_before.values() if at > mono]
