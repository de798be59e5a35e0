"""The live subscriptions of one relay's connection: opened, replaced, and opened again some time after they ended."""

from typing import Final

from pipeline.crawl.sync.live.packer import SubscriptionPacker
from pipeline.crawl.sync.query import GLOBAL_QUERY, Query, Subject
from pipeline.crawl.sync.relay_lists import NOBODY, Named
from pipeline.crawl.sync.timing import MAX_RETRY_S, PROBE_EVERY_S, retry_wait
from pipeline.relay.limits import RelayLimits
from pipeline.relay.session import Session
from pipeline.relay.subscription import LiveEnded

ANSWER_S: Final = 15.0
"""By then a live subscription is answered that asks for something stored; the slowest relay seen takes 5 s."""


class LiveSubscriptions:
    """Keeps a session's live subscriptions as the queries want them. Does no I/O; times are monotonic seconds.

    Where not all of them fit, those come first who are named at the relay, by queries about them alone; queries that
    have no room then are `unserved`, even if some of what they ask for comes by others.
    """

    __slots__ = (
        "_asked",
        "_ended",
        "_failures",
        "_first",
        "_first_only",
        "_leaves_out_global",
        "_named",
        "_not_before",
        "_opened",
        "_packer",
        "_partial",
        "_queries",
        "_silent",
        "unserved",
    )  # fmt: skip

    def __init__(self, limits: RelayLimits) -> None:
        self._packer = SubscriptionPacker(limits)
        self._queries: tuple[Query, ...] = ()
        self._named: Named = NOBODY
        # Queries about those alone who are named, while they are needed; and all that are to be asked.
        self._first: tuple[Query, ...] = ()
        self._asked: tuple[Query, ...] = ()
        self.unserved: tuple[str, ...] = ()
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._opened: dict[str, float] = {}
        self._leaves_out_global = False
        # Subjects of which the relay looks at the first member of a filter only; how the keys of queries begin that
        # are subscribed to in part only, for want of room.
        self._first_only: frozenset[Subject] = frozenset()
        self._partial: tuple[str, ...] = ()
        # The queries of those that were refused, until they are asked for again.
        self._ended: dict[str, tuple[str, ...]] = {}
        # The queries of those that stayed unanswered when they were last looked at.
        self._silent: frozenset[str] = frozenset()

    def has(self, query: str) -> bool:
        """Return True if the query of this key has a place in subscriptions that bring all of it; none was refused.

        One that should have been answered by now counts as refused.
        """
        if (self._leaves_out_global and query == GLOBAL_QUERY.key) or query.startswith(self._partial):
            return False
        is_asked = self._packer.has(query) and query not in self._silent
        return is_asked and not any(query in queries for queries in self._ended.values())

    @property
    def leaves_out_global(self) -> bool:
        """Return True if nothing is subscribed to for global kinds alone."""
        return self._leaves_out_global

    @leaves_out_global.setter
    def leaves_out_global(self, leaves_out: bool) -> None:
        self._leaves_out_global = leaves_out
        # Arranged again when they are next looked at.
        self._queries = ()

    def split_unanswered(self, session: Session, mono: float) -> tuple[str, ...]:
        """Ask in smaller requests for what stayed unanswered; returns the keys of queries of which that shows only now.

        Some relays refuse in words that name nothing, and say no more. An EOSE is owed where something stored is asked
        for; this is for relays that send it to others.
        """
        asks_for_stored = session.limits.refuses_zero or session.limits.zero_is_all
        silent = [key for key in self._opened if self._is_silent(key, session, mono)] if asks_for_stored else []
        before = self._silent
        self._silent = frozenset(query for key in silent for query in self._packer.queries_of(key))
        are_split = [self._packer.split(key, by_members=True) for key in silent]
        if any(are_split):
            self._queries = ()
        return tuple(self._silent - before)

    def _is_silent(self, key: str, session: Session, mono: float) -> bool:
        is_open = session.subscriptions.live(key) is not None
        return is_open and session.live_answered_at(key) is None and mono - self._opened[key] >= ANSWER_S

    def answered_at(self, query: str, session: Session) -> float | None:
        """Return since when (monotonic) all of a query is subscribed to, by the relay's answers; None if it is not."""
        if not self.has(query):
            return None
        times = [session.live_answered_at(key) for key in self._packer.keys_of(query)]
        known = [at for at in times if at is not None]
        return max(known) if known and len(known) == len(times) else None

    def queries_of(self, key: str) -> tuple[str, ...]:
        """The keys of the queries in subscription `key`."""
        return self._packer.queries_of(key)

    def on_connected(self) -> None:
        """A new connection stands, on which nothing is open."""
        self._packer.reopen()
        self._not_before.clear()
        self._failures.clear()
        self._opened.clear()
        self._ended.clear()
        self._silent = frozenset()

    def open_due(
        self,
        queries: tuple[Query, ...],
        users: tuple[Query, ...],
        named: Named,
        session: Session,
        mono: float,
        wall: int,
    ) -> None:
        """Open, replace and close what must be for these queries, as far as its time has come and there is room.

        Where there is none for all of them, those come first whom `Named.first` has first. `wall`: Unix seconds.
        """
        self._packer.now = wall
        self._pack(queries, users, named, session.limits)
        for key, filters in self._packer.pop_changes().items():
            if filters is None:
                self._ended.pop(key, None)
                session.close_live(key, mono)
            elif self._not_before.get(key, 0.0) > mono or not session.has_room_for_live(key):
                self._packer.reopen(key)
            else:
                self._opened[key] = mono
                self._ended.pop(key, None)
                session.open_live(key, filters, mono)

    def follow(self, first_only: frozenset[Subject]) -> None:
        """Ask member by member about these subjects if there is room: the relay looks at the first one only."""
        if first_only != self._first_only:
            self._first_only = first_only
            self._queries = ()

    def _divide(self, queries: tuple[Query, ...], limits: RelayLimits) -> None:
        """See whether there is room for filters of one member each; without it such queries are polled."""
        # What does not come live may be dropped for the number of values, too.
        wanted = self._first_only | (frozenset({Subject.MENTIONS}) if limits.live_missed_at else frozenset())
        singles = wanted if wanted and self._packer.fits(queries, limits, wanted) else frozenset()
        self._partial = tuple(f"{subject}/" for subject in self._first_only - singles)
        self._packer.ask_singly(singles)

    def _pack(self, queries: tuple[Query, ...], users: tuple[Query, ...], named: Named, limits: RelayLimits) -> None:
        is_changed = queries is not self._queries or named is not self._named or not self._packer.has_shape_of(limits)
        if is_changed:
            if not self._packer.has_shape_of(limits):
                # What was refused is asked for otherwise from now on.
                self._not_before.clear()
            self._queries, self._named = queries, named
            self._divide(queries, limits)
            first = () if self._fit(queries, limits) else named.first(queries, users)
            if {query.key for query in first} != {query.key for query in self._first}:
                self._packer.clear()
            self._first = first
            self._asked = self._in_order(queries)
        if self._packer.pack(self._asked, limits) or is_changed:
            mine = {query.key for query in self._first}
            self.unserved = tuple(key for key in self._packer.left_out if key not in mine)

    def _fit(self, queries: tuple[Query, ...], limits: RelayLimits) -> bool:
        """Return True if there is room for all of `queries`; where there was, beside what is open already."""
        if self._first:
            return self._packer.fits(queries, limits)
        self._packer.pack(self._in_order(queries), limits)
        return not self._packer.left_out

    def _in_order(self, queries: tuple[Query, ...]) -> tuple[Query, ...]:
        """Return what to ask for, with what goes first where there is no room for all."""
        broad = tuple(query for query in queries if query.subject is Subject.GLOBAL)
        rest = tuple(query for query in queries if query not in broad)
        if self._leaves_out_global:
            return (*self._first, *rest)
        return (*broad, *self._first, *rest) if self._first else queries

    def on_ended(self, ended: LiveEnded, mono: float) -> tuple[str, ...]:
        """Take the end of one, to open it again later; returns the keys of the queries that it was for.

        What asks for several things is refused for one of them: they are opened again at once, each by itself.
        """
        queries = self._packer.queries_of(ended.key)
        if ended.refusal.is_lasting and self._packer.split(ended.key):
            self._queries = ()
            return queries
        lived = mono - self._opened.get(ended.key, mono)
        failures = 0 if lived >= MAX_RETRY_S else self._failures.get(ended.key, 0)
        self._failures[ended.key] = failures + 1
        self._not_before[ended.key] = mono + retry_wait(ended.refusal, failures, lasting_s=PROBE_EVERY_S)
        self._ended[ended.key] = queries
        self._packer.reopen(ended.key)
        return queries

    def due_after(self, mono: float) -> list[float]:
        """When some may be opened again that may not be yet, and when those that are open should be answered."""
        times = (*self._not_before.values(), *(at + ANSWER_S for at in self._opened.values()))
        return [at for at in times if at > mono]
