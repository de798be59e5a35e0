"""How complete the service is for one user, the same on the command line and on the status page.

It repeats what the crawl records of itself. `event-service audit` asks the relays instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.nostr.nip19 import encode_npub
from pipeline.printable import count_of
from pipeline.process.liveness import utc
from pipeline.status.explain import TraceLine
from pipeline.status.gaps import describe_reason, form_in_words, span
from pipeline.store import coverage as store
from pipeline.store import relay_records
from pipeline.store.coverage import AuthorStanding, CoveringCursor, CoveringGap, RecentArrival
from pipeline.store.database import Tx
from pipeline.store.relay_records import RelayRecord
from pipeline.store.relay_status import RelayState

LATE_S: Final = 900
"""From this time after its own date on an event counts as late."""
LOOKED_AT: Final = 200_000
"""Of the ids of all authors so many are searched for those of one."""
_MAX_RELAYS: Final = 100_000
# Deeper than any chunk of keys that are not chosen to collide.
_MAX_BITS: Final = 64
_WHOLE: Final = "whole/"
_CONNECTED: Final = frozenset({RelayState.CONNECTED, RelayState.BACKPRESSURED})


@dataclass(frozen=True, slots=True)
class QueryCoverage:
    """How far one relay is complete (Unix seconds) for what `text` says; None if it never was."""

    text: str
    complete_until: int | None

    @property
    def until(self) -> str:
        """The same in words."""
        return "never complete" if self.complete_until is None else f"complete until {_date(self.complete_until)}"


@dataclass(frozen=True, slots=True)
class RelayCoverage:
    """One relay: its state, what the user names it for, how far each query is complete, and open gaps in words."""

    address: str
    state: str
    named: tuple[str, ...]
    queries: tuple[QueryCoverage, ...]
    gaps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Recent events of one author. All times but `seen_at` (ms) in Unix seconds.

    `events` of the author are among the newest ids of all, which go back to `since`. Of those dated after
    `counted_from`, when the author was wanted and a relay was crawled, `late` came more than `LATE_S` after their date.
    """

    events: int
    since: int | None
    newest: RecentArrival | None
    late: int
    counted: int
    counted_from: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """All that is recorded of one user; relays that the user names come first. Times in ms, `contacts_dated` in s."""

    public_key: bytes
    registered_at: int | None
    wanted_since: int
    followers: int
    """Registered users who follow this one."""
    contacts: int
    contacts_dated: int | None
    contacts_waiting: int
    """Those that are not wanted yet."""
    relays_named: int
    arrivals: Arrivals
    relays: tuple[RelayCoverage, ...]

    def lines(self) -> Iterator[TraceLine]:
        """Yield in words what is not about single relays."""
        yield TraceLine("user", f"{encode_npub(self.public_key)}, {self.public_key.hex()}")
        reasons = [] if self.registered_at is None else [f"registered {_date(self.registered_at // 1000)}"]
        if self.followers:
            reasons.append(f"followed by {self.followers:,} registered user{'' if self.followers == 1 else 's'}")
        yield TraceLine("wanted", f"since {_date(self.wanted_since // 1000)}: {', '.join(reasons)}")
        dated = self.contacts_dated
        text = "no list is known" if dated is None else f"{self.contacts:,}, by the list dated {_date(dated)}"
        waiting = f"; {self.contacts_waiting:,} are not wanted yet" if self.contacts_waiting else ""
        yield TraceLine("contacts", text + waiting)
        yield TraceLine("relays named", f"{self.relays_named:,}")
        yield from _arrival_lines(self.arrivals)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A query about the user: the keys that its cursor may have, and from which change on it covers the user."""

    subject: str
    keys: tuple[str, ...]
    generation: int


def coverage(tx: Tx, public_key: bytes, max_relays: int = _MAX_RELAYS) -> Coverage | None:
    """Return what is recorded of the user; None for an author who is not wanted."""
    standing = store.standing(tx, public_key)
    if standing is None or standing.wanted_since is None:
        return None
    named = store.named_relays(tx, standing.author)
    known = relay_records.records(tx, everything=True, limit=_MAX_RELAYS)
    shown = [each for each in known if each.relay in named or each.state in _CONNECTED]
    # Stable: those named the first, each part the best first.
    shown.sort(key=lambda each: each.relay not in named)
    asked = _asked(standing, public_key)
    contacts, dated = store.contacts(tx, standing.author)
    crawled_since = min((each.crawled_since for each in known if each.crawled_since is not None), default=0)
    return Coverage(
        public_key, standing.registered_at, standing.wanted_since, store.followers(tx, standing.author), contacts,
        dated, standing.waiting, len(named),
        _arrivals(tx, standing.author, max(standing.wanted_since, crawled_since) // 1000),
        tuple(_relay(tx, each, named.get(each.relay, set()), asked) for each in shown[:max_relays]),
    )  # fmt: skip


def _arrivals(tx: Tx, author: int, counted_from: int) -> Arrivals:
    found, since = store.recent(tx, author, LOOKED_AT)
    counted = [each for each in found if each.created_at >= counted_from]
    late = sum(each.seen_at // 1000 - each.created_at > LATE_S for each in counted)
    return Arrivals(len(found), since, found[0] if found else None, late, len(counted), counted_from)


def _arrival_lines(arrivals: Arrivals) -> Iterator[TraceLine]:
    newest = arrivals.newest
    if newest is None:
        since = "" if arrivals.since is None else f" since {_date(arrivals.since)}"
        yield TraceLine("last event", f"none{since}")
        return
    dates = f"dated {_date(newest.created_at)}, arrived {_date(newest.seen_at // 1000)}"
    yield TraceLine("last event", f"kind {newest.kind}, {dates}")
    late = f"{arrivals.late:,} of {count_of(arrivals.counted, 'event')} dated since {_date(arrivals.counted_from)}"
    yield TraceLine("late arrivals", f"{late} came over {LATE_S // 60} minutes after their date")


def _asked(standing: AuthorStanding, public_key: bytes) -> tuple[_Asked, ...]:
    bits = f"{int.from_bytes(public_key, 'big'):0256b}"
    prefixes = [bits[:length] for length in range(_MAX_BITS + 1)]
    mark = f"{standing.tier}." if standing.tier else ""
    asked = [_Asked("authors", tuple(f"authors/{mark}{each}" for each in prefixes), standing.generation)]
    if standing.registered_at is not None:
        asked += [
            _Asked(subject, tuple(f"{subject}/{each}" for each in prefixes), standing.registered_generation)
            for subject in ("mentions", "profiles")
        ]
    return tuple(asked)


def _relay(tx: Tx, record: RelayRecord, named: set[str], asked: Sequence[_Asked]) -> RelayCoverage:
    keys = [key for each in asked for key in each.keys]
    cursors = store.cursors(tx, record.relay, [_WHOLE, *keys])
    gaps = store.gaps(tx, record.relay, [_WHOLE, "*", *keys])
    return RelayCoverage(
        record.address, record.state.value, tuple(sorted(named)), tuple(_query(each, cursors) for each in asked),
        tuple(f"{_gap_span(each)}: {describe_reason(each.reason)}" for each in gaps),
    )  # fmt: skip


def _gap_span(gap: CoveringGap) -> str:
    return f"{form_in_words(gap.form)} {span(gap.since, gap.until)}"


def _query(asked: _Asked, cursors: Sequence[CoveringCursor]) -> QueryCoverage:
    """Return how far a query is complete, as the crawl goes by it: the chunk's own cursor, or that for everything."""
    # Profiles go back too far to be asked for with everything else.
    whole = () if asked.subject == "profiles" else (_WHOLE,)
    covering = [
        each for each in cursors
        if (each.query in whole or each.query in asked.keys) and each.generation >= asked.generation
    ]  # fmt: skip
    until = max((each.complete_until for each in covering), default=None)
    return QueryCoverage(form_in_words(f"{asked.subject}/"), until)


def _date(seconds: float) -> str:
    try:
        return utc(seconds)
    except (OverflowError, OSError, ValueError):
        return f"{seconds:.0f} s after 1970"
