"""What one relay holds and does not return, by the form of the request and the span of time. No I/O, no clock.

A gap is open from the moment it is found until its span is had in the same form. Spans of one form and reason that
overlap or touch are one gap. A relay has at most `MAX_GAPS`: beyond that, the two nearest of one form become one,
which claims too much rather than too little.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Final

from pipeline.crawl.sync.paging.slices import Gap
from pipeline.crawl.sync.query import FIREHOSE_QUERY, GLOBAL_QUERY, Subject
from pipeline.crawl.sync.stats import SyncStats
from pipeline.store.gaps import GapChanges, OpenGap

MAX_GAPS: Final = 1_000
# The form of gaps that are too many to be kept by name.
MANY_FORMS: Final = "*"

_Key = tuple[str, str]
_LIVE: Final = tuple(f"{subject}/" for subject in (Subject.GLOBAL, Subject.AUTHORS, Subject.MENTIONS))


class OpenGaps:
    """The open gaps of one relay. Owned by whoever serves its connection; outlives each.

    `now`: Unix seconds, set by whoever drives the crawl.
    """

    __slots__ = ("_changed", "_gaps", "_relay", "_stats", "_written", "now")

    def __init__(self, relay: int, stats: SyncStats, gaps: Iterable[OpenGap] = ()) -> None:
        self.now = 0
        self._relay = relay
        self._stats = stats
        # By form and reason, in the order of time, none touching the next.
        self._gaps: dict[_Key, list[OpenGap]] = {}
        self._written = frozenset(gaps)
        self._changed = False
        for gap in sorted(self._written, key=lambda gap: gap.since):
            self._gaps.setdefault((gap.form, gap.reason), []).append(gap)

    def __iter__(self) -> Iterator[OpenGap]:
        for gaps in self._gaps.values():
            yield from gaps

    def __len__(self) -> int:
        return sum(map(len, self._gaps.values()))

    def open(self, form: str, since: int, until: int, reason: Gap, *, count: int = 1) -> None:
        """Note that what `form` asks for from `since` to `until` (both included) is incomplete.

        `count` goes to the counter of gaps found, which also counts a gap that is open already.
        """
        self._stats.gap_reasons[reason] += count
        self._add(form, since, until, reason, self.now)

    def close(self, form: str, since: int, until: int, *reasons: Gap) -> None:
        """Note that what `form` asks for was had from `since` to `until`; for these reasons only, if there are any."""
        for key in [key for key in self._gaps if key[0] == form and (not reasons or key[1] in reasons)]:
            left = [piece for gap in self._gaps[key] for piece in _outside(gap, since, until)]
            if left != self._gaps[key]:
                self._replace(key, left)

    def note_broad(self, *, answers: bool) -> None:
        """Note whether the relay answers filters as broad as those for global kinds."""
        if answers:
            self.close(GLOBAL_QUERY.key, 0, self.now, Gap.NO_BROAD_FILTERS)
        else:
            self.open(GLOBAL_QUERY.key, 0, self.now, Gap.NO_BROAD_FILTERS)

    def close_all(self, spans: Iterable[tuple[int, int]], until: int, *, but: str) -> None:
        """Note that all there is was had of `spans`: what was open at `until` closes, but for the form `but`."""
        spans = tuple(spans)
        for key in [key for key in self._gaps if key[0] not in (but, MANY_FORMS)]:
            left = self._gaps[key]
            for low, high in spans:
                left = [
                    piece for gap in left for piece in (_outside(gap, low, high) if gap.opened_at <= until else [gap])
                ]
            if left != self._gaps[key]:
                self._replace(key, left)

    def settle(
        self, form: str, spans: Iterable[tuple[int, int]], found: Iterable[tuple[Gap, int, int]], *reasons: Gap
    ) -> None:
        """Note that `spans` of what `form` asks for were gone through: only what was `found` of `reasons` stays."""
        before = [gap for gap in self if gap.form == form]
        for since, until in spans:
            self.close(form, since, until, *reasons)
        for reason, since, until in found:
            was = [gap for gap in before if gap.reason == reason and gap.since <= until and since <= gap.until]
            self._add(form, since, until, reason, min((gap.opened_at for gap in was), default=self.now))

    def follow(self, forms: Collection[str]) -> None:
        """Give gaps of chunks that are no longer asked for to those that took their place, if there are any.

        `forms`: the keys of all queries that are asked for now.
        """
        subjects = tuple(f"{subject}/" for subject in Subject)
        for key in [key for key in self._gaps if key[0].startswith(subjects) and key[0] not in forms]:
            gaps = self._gaps[key]
            self._replace(key, [])
            for heir in [form for form in forms if _inherits(form, key[0])]:
                for gap in gaps:
                    self._add(heir, gap.since, gap.until, gap.reason, gap.opened_at)

    def take_changes(self) -> GapChanges:
        """Return what differs from what was taken before, to be committed with or after the events beside it."""
        if not self._changed:
            return GapChanges()
        now, before, self._changed = frozenset(self), self._written, False
        self._written = now
        return GapChanges(tuple(before - now), tuple(now - before))

    def _add(self, form: str, since: int, until: int, reason: str, opened_at: int) -> None:
        low, high = max(since, 0), max(since, until, 0)
        key = (form, str(reason))
        gaps = self._gaps.get(key, [])
        if any(gap.since <= low and high <= gap.until for gap in gaps):
            return
        near = [gap for gap in gaps if gap.since <= high + 1 and low <= gap.until + 1]
        for gap in near:
            low, high, opened_at = min(low, gap.since), max(high, gap.until), min(opened_at, gap.opened_at)
        apart = [gap for gap in gaps if gap not in near]
        merged = OpenGap(self._relay, form, key[1], low, high, opened_at)
        self._replace(key, sorted((*apart, merged), key=lambda gap: gap.since))
        while len(self) > MAX_GAPS:
            self._merge_nearest()

    def _replace(self, key: _Key, gaps: list[OpenGap]) -> None:
        self._changed = True
        if gaps:
            self._gaps[key] = gaps
            return
        self._gaps.pop(key, None)
        # The many are asked for as often as the few that still have names: none of them is open any more.
        if {form for form, reason in self._gaps if reason == key[1]} == {MANY_FORMS}:
            del self._gaps[MANY_FORMS, key[1]]

    def _merge_nearest(self) -> None:
        pairs = [pair for gaps in self._gaps.values() for pair in pairwise(gaps)]
        if pairs:
            earlier, later = min(pairs, key=lambda pair: pair[1].since - pair[0].until)
            self._add(earlier.form, earlier.since, later.until, earlier.reason, earlier.opened_at)
            return
        oldest = min((gap for gap in self if gap.form != MANY_FORMS), key=lambda gap: gap.opened_at)
        self._add(MANY_FORMS, oldest.since, oldest.until, oldest.reason, oldest.opened_at)
        self._replace((oldest.form, oldest.reason), [])


def _inherits(form: str, gone: str) -> bool:
    """Return True if what `gone` asked for is asked for by `form`, or by that too."""
    is_whole = gone == FIREHOSE_QUERY.key and form.startswith(_LIVE)
    return is_whole or form.startswith(gone) or gone.startswith(form)


def _outside(gap: OpenGap, since: int, until: int) -> list[OpenGap]:
    """Return what is left of a gap once a span of it was had."""
    if until < gap.since or gap.until < since:
        return [gap]
    pieces = ((gap.since, since - 1), (until + 1, gap.until))
    return [replace(gap, since=low, until=high) for low, high in pieces if low <= high]
