"""What a page of stored events is: its order, how many it has at most, which of them it keeps."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Final

from pipeline.nostr.event import Event
from pipeline.nostr.kinds import CONFIDENTIAL_KINDS
from pipeline.printable import count_of
from pipeline.probe.exchange import Ask, End, FilterValue, Reply, req
from pipeline.probe.known import Known, Steps
from pipeline.probe.observation import Observation, refused, unknown
from pipeline.probe.questions.search import most_taken

FIRST_LIMIT: Final = 500
LARGE_LIMIT: Final = 5_000
# What even those give who want no scrapers.
_SMALL_LIMIT: Final = 100
# Without a limit some relays send all that they have.
MOST_WITHOUT_LIMIT: Final = 1_200
_COMMON_KINDS: Final = [0, 1, 3, 7, 10002]
# Some relays want to know whose notes are asked for.
_NO_NOTES: Final = [0, 3, 6, 7, 10002]
# Some stores find nothing for more.
_MOST_KINDS: Final = 10
# A relay may be slow to begin.
_FIRST_PATIENCE: Final = 4.0


@dataclass(frozen=True, slots=True)
class FirstPage:
    """Some hundred events to check all else with: of every kind, else of common kinds, else notes."""

    names: ClassVar = ("page.everything", "page.order")

    def ask(self, known: Known) -> Steps:
        """Ask for the newest events."""
        answer = yield req(known.new_id(), {"limit": FIRST_LIMIT}, patience=_FIRST_PATIENCE)
        found = [_of_everything(answer)]
        known.is_sample_kindless = bool(answer.events)
        for kinds, limit in ((_COMMON_KINDS, FIRST_LIMIT), (_NO_NOTES, FIRST_LIMIT), ([1], _SMALL_LIMIT)):
            if answer.events:
                break
            known.sample_kinds = tuple(kinds)
            answer = yield req(known.new_id(), {"kinds": kinds, "limit": limit})
            if answer.events and found[0].value is None:
                found = [Observation("page.everything", "matches nothing")]
        known.sample = answer.events
        known.plain_refusal = "" if answer.events else answer.words
        return [*found, _order("page.order", known.sample)]


def _of_everything(answer: Reply) -> Observation:
    name = "page.everything"
    if answer.events:
        return Observation(name, "answered", note=f"{count_of(len(answer.events), 'event')} came")
    if answer.is_answered:
        return unknown(name, "no event came")
    return refused(name, answer)


def _order(name: str, events: tuple[Event, ...]) -> Observation:
    times = [each.created_at for each in events]
    if len(set(times)) < 3:
        return unknown(name, "too few events")
    if times == sorted(times, reverse=True):
        return Observation(name, "newest first")
    return Observation(name, "oldest first" if times == sorted(times) else "none")


@dataclass(frozen=True, slots=True)
class PageLimit:
    """How large a `limit` is honoured, and what comes where more is asked for.

    Kinds are named where some may be withheld: some relays count to the limit what they then leave out.
    """

    names: ClassVar = ("limit.page",)

    def ask(self, known: Known) -> Steps:
        """Ask for many events at once, and whether there are older ones."""
        name, base = self.names[0], _nothing_withheld(known)
        if base is None:
            return [unknown(name, "no event came")]
        first = yield _page(known, base, FIRST_LIMIT)
        if not first.events:
            return (yield from _below(known, base, 1, first, FIRST_LIMIT))
        large = yield _page(known, base, LARGE_LIMIT)
        if large.complaint is not None or len(large.events) < len(first.events):
            return (yield from _below(known, base, len(first.events), large))
        if large.end is End.FLOOD or len(large.events) >= LARGE_LIMIT:
            return [Observation(name, len(large.events), is_least=True)]
        oldest = min(each.created_at for each in large.events)
        older = yield req(known.new_id(), {**base, "until": oldest - 1, "limit": 1})
        if any(each.created_at < oldest for each in older.events):
            return (yield from _capped(known, base, large))
        note = f"all {count_of(len(large.events), 'event')} came, a limit of {LARGE_LIMIT:,} is not refused"
        return [unknown(name, note)]


def _capped(known: Known, base: FilterValue, large: Reply) -> Steps:
    """Find out whether a smaller limit brings more: some relays return a quarter of their cap for more than it."""
    cap = len(large.events)
    double = yield _page(known, base, 2 * cap)
    if len(double.events) > cap:
        return (yield from _below(known, base, len(double.events), large))
    return [Observation(PageLimit.names[0], cap, how="fewer events")]


def _below(known: Known, base: FilterValue, first: int, large: Reply, top: int = LARGE_LIMIT) -> Steps:
    """Find the largest limit that is honoured where one of `top` is not: at least `first` events come."""
    name = PageLimit.names[0]
    found = yield from most_taken(
        lambda size: _page(known, base, size),
        lambda answer, size: answer.complaint is None and len(answer.events) >= min(size, first),
        top,
        refusal=large,
    )
    if found.most is None or found.refused_at is None:
        return [unknown(name, f"not even one event comes again: {large.words or large.manner}")]
    answer = found.refusal or large
    if answer.complaint is not None:
        return [Observation(name, found.most, how=answer.manner, says=answer.words)]
    note = f"a limit of {found.refused_at:,} brings {len(answer.events):,}"
    return [Observation(name, found.most, how="fewer events", note=note)]


def _page(known: Known, base: FilterValue, limit: int) -> Ask:
    return req(known.new_id(), {**base, "limit": limit})


def _nothing_withheld(known: Known) -> FilterValue | None:
    """Return a filter that selects nothing which is withheld: without kinds where the relay shows them all.

    Else by the commonest kinds that it showed, no more of them than any relay takes; None where it showed nothing.
    """
    shown = Counter(each.kind for each in known.pool.values())
    if known.is_sample_kindless and CONFIDENTIAL_KINDS & shown.keys():
        return {"since": 0}
    kinds = [kind for kind, _ in shown.most_common() if kind not in CONFIDENTIAL_KINDS]
    if not known.is_sample_kindless:
        kinds = [kind for kind in kinds if kind in known.sample_kinds]
    return {"kinds": sorted(kinds[:_MOST_KINDS])} if kinds else None


@dataclass(frozen=True, slots=True)
class Truncation:
    """Which events a limit keeps."""

    names: ClassVar = ("page.limit_keeps",)

    def ask(self, known: Known) -> Steps:
        """Ask for a few of those that came before."""
        name = self.names[0]
        times = sorted((each.created_at for each in known.sample), reverse=True)
        most = len(times) // 3
        if most < 2 or times[most - 1] == times[-most]:
            return [unknown(name, "too few events")]
        filters: FilterValue = {"limit": most}
        if not known.is_sample_kindless:
            filters = {"kinds": list(known.sample_kinds), "limit": most}
        answer = yield req(known.new_id(), filters)
        came = sorted((each.created_at for each in answer.events), reverse=True)
        if not came:
            return [refused(name, answer)]
        if len(came) > most:
            return [Observation(name, "all", note=f"a limit of {most} brings {len(came)}")]
        # While this is asked, something new may arrive.
        if came[-1] >= times[most - 1]:
            return [Observation(name, "the newest")]
        return [Observation(name, "the oldest" if came[0] <= times[-most] else "others")]


@dataclass(frozen=True, slots=True)
class NoLimit:
    """What a filter without `limit` brings."""

    names: ClassVar = ("page.no_limit",)

    def ask(self, known: Known) -> Steps:
        """Ask without a limit."""
        name = self.names[0]
        base = _nothing_withheld(known)
        if base is None:
            return [unknown(name, "no event came")]
        # What is not asked for cannot change the answer.
        bare = {name: value for name, value in base.items() if name != "since"}
        answer = yield req(known.new_id(), bare, most_events=MOST_WITHOUT_LIMIT)
        if not answer.events:
            return [refused(name, answer)]
        expected = [each.created_at for each in known.pool.values() if each.kind in base.get("kinds", [each.kind])]
        newest = max(expected)
        has_newest = any(each.created_at >= newest for each in answer.events)
        came = len(answer.events)
        if answer.end is End.FLOOD:
            return [Observation(name, came, is_least=True, note="no default limit up to here")]
        if came >= len(expected) and has_newest:
            return [Observation(name, None, note=f"all {count_of(came, 'event')} came")]
        return [Observation(name, came, note="the newest" if has_newest else "the oldest, or any")]


@dataclass(frozen=True, slots=True)
class ZeroLimit:
    """What `limit: 0` brings."""

    names: ClassVar = ("page.limit_zero",)

    def ask(self, known: Known) -> Steps:
        """Ask for nothing, about notes."""
        name = self.names[0]
        answer = yield req(known.new_id(), {"kinds": [1], "limit": 0}, most_events=100)
        if answer.end is End.SILENCE:
            return [Observation(name, "no answer", how=answer.manner, note="it may be subscribed to all the same")]
        if not answer.events and (answer.complaint is not None or answer.end is not End.EOSE):
            if known.is_refused_as_ever(answer):
                return [unknown(name, "notes are refused with any limit")]
            return [refused(name, answer)]
        old = [each for each in answer.events if each.created_at < known.now - 60]
        if old:
            return [Observation(name, "stored events", note=f"{len(answer.events)} came")]
        if not any(each.kind == 1 for each in known.pool.values()):
            return [Observation(name, "EOSE", note="no note is known that could have come")]
        return [Observation(name, "EOSE, no stored event")]
