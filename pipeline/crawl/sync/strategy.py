"""How one relay is asked: *by query*, chunk by chunk, or *whole*, by one filter for everything.

By query costs nothing while nothing happens, and as many requests as there are chunks. Whole costs every event that the
relay has, wanted or not, and one request, however many authors are wanted. So by query is taken while its chunks fit
the live subscriptions of a relay; where they do not, whole is, unless the relay refuses it or has so much that chunks
which take turns are cheaper all the same. No I/O, no clock: `wall` is Unix seconds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.crawl.sync.members import Members
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.planner import MAX_MEMBERS
from pipeline.crawl.sync.query import Query, Subject, tier_mark
from pipeline.crawl.sync.relay_lists import Named
from pipeline.relay.limits import BYTES_PER_FILTER, BYTES_PER_MEMBER, RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.settings.choices import CrawlMode

# A relay that refused, or had too much, is asked whole again after this (seconds).
RETRY_WHOLE_S: Final = 86_400
# So few queries may take turns on the smallest relay.
FEW_QUERIES: Final = 8
# Shares of a relay's room up to which chunks are said to fit: above the first they do not, below the second again.
_FULL: Final = 0.9
_ROOMY: Final = 0.7
# What an event takes on the line, and how often chunks are asked for (seconds).
BYTES_PER_EVENT: Final = 1_000
_ROUND_S: Final = 300
# Whole may cost so many times what chunks would: a request costs the relay more than its bytes.
_COSTLY: Final = 4.0
# Events a second of a relay that is asked whole because it leaves out mentions otherwise.
MOST_RATE: Final = 20.0
# Seconds of a relay's past that must have been seen before its cost is judged.
_JUDGED_SPAN_S: Final = 3_600
# The newest sweep counts this much.
_NEWEST: Final = 0.3
# More chunks of a look-back than these are put together where half as many would do: refused ones wait side by side.
_MAX_CHUNKS: Final = 8
# Failures in a row that stand for a refusal.
MAX_FAILURES: Final = 3
_REFUSED_AT_ONCE: Final = frozenset(
    {
        RelayRefusal.RESTRICTED,
        RelayRefusal.UNSUPPORTED,
        RelayRefusal.SEARCH_ONLY,
        RelayRefusal.TOO_LARGE,
        RelayRefusal.TOO_MANY_FILTERS,
    }
)
_REFUSED_IN_THE_END: Final = frozenset({RelayRefusal.ERROR, RelayRefusal.UNCLEAR, RelayRefusal.TIMEOUT})


@dataclass(slots=True)
class FetchStrategy:
    """The choice for one relay, over all its connections. `rate`: events that it has for each second of its past."""

    mode: CrawlMode = CrawlMode.AUTO
    is_firehose: bool = False
    rate: float | None = None
    needs_firehose: bool = False
    """By query it leaves out what mentions users, with kinds named and without."""
    _seen_s: float = 0.0
    _failures: int = 0
    _refused: bool = False
    _costly_until: int = 0

    def decide(self, plan: Plan, limits: RelayLimits, wall: int) -> bool:
        """Choose anew, as `plan` and `limits` are now; returns whether that changed anything."""
        before = self.is_firehose
        self.is_firehose = self._prefers_firehose(plan, limits, wall)
        if before != self.is_firehose:
            self._failures = 0
        return before != self.is_firehose

    @property
    def name(self) -> str:
        """How the relay is asked, for its row."""
        return CrawlMode.WHOLE.value if self.is_firehose else CrawlMode.QUERY.value

    def pop_refusal(self) -> bool:
        """Whether the relay refused to be asked whole; told once."""
        refused, self._refused = self._refused, False
        return refused

    def on_failed(self, refusal: RelayRefusal) -> None:
        """Note how a request for everything ended."""
        self._failures += refusal in _REFUSED_IN_THE_END
        self._refused = self._refused or refusal in _REFUSED_AT_ONCE or self._failures >= MAX_FAILURES

    def on_answered(self) -> None:
        """Note that a request for everything brought events."""
        self._failures = 0

    def disable_firehose(self) -> None:
        """Note that the relay gives nothing when it is asked for everything, or not all there is."""
        self._refused = True

    def record_rate(self, events: int, span: int) -> None:
        """Note that a sweep for everything brought so many events for so many seconds."""
        rate = events / max(span, 1)
        self.rate = rate if self.rate is None else (1 - _NEWEST) * self.rate + _NEWEST * rate
        self._seen_s += span

    def resweeps_firehose(self, plan: Plan, span: int, page: int) -> bool:
        """Whether so many seconds are fetched again with fewer pages (of `page` events) whole than by query."""
        return self.is_firehose and self.rate is not None and self.rate * span / page <= 2 * len(plan.live)

    def _prefers_firehose(self, plan: Plan, limits: RelayLimits, wall: int) -> bool:
        if self.mode is not CrawlMode.AUTO:
            return self.mode is CrawlMode.WHOLE
        refused = limits.whole_refused_at and wall - limits.whole_refused_at < RETRY_WHOLE_S
        is_narrow = limits.needs_kinds or limits.refuses_kindless or limits.notes_by_author or limits.withholds
        is_few = len(plan.live) <= FEW_QUERIES and not self.needs_firehose
        if refused or is_narrow or is_few or wall < self._costly_until:
            return False
        if self.is_firehose and self._is_costly(plan):
            self._costly_until = wall + RETRY_WHOLE_S
            self.rate, self._seen_s = None, 0.0
            return False
        return self.needs_firehose or room_taken(plan, limits) > (_ROOMY if self.is_firehose else _FULL)

    def _is_costly(self, plan: Plan) -> bool:
        if self.rate is None or self._seen_s < _JUDGED_SPAN_S:
            return False
        if self.needs_firehose:
            return self.rate > MOST_RATE
        return self.rate * BYTES_PER_EVENT > _COSTLY * plan.members * BYTES_PER_MEMBER / _ROUND_S


def room_taken(plan: Plan, limits: RelayLimits) -> float:
    """The share of a relay's live subscriptions that `plan` takes by query; above 1 it does not fit."""
    most = min(limits.max_authors, limits.max_tag_values, limits.members_that_fit)
    filters = len(plan.live) * math.ceil(MAX_MEMBERS / most)
    size = plan.members * BYTES_PER_MEMBER + filters * BYTES_PER_FILTER
    groups = max(filters / limits.max_filters, size / limits.max_frame_bytes)
    # One subscription is kept for pages.
    return groups / (limits.max_subscriptions - 1) if limits.max_subscriptions > 1 else math.inf


@dataclass(slots=True)
class NewAuthorLookback:
    """Those who became wanted since the cursor for everything, looked back for by query, all chunks together.

    Once every chunk is complete the cursor covers all authors up to `generation`. Later wanted authors are in chunks
    beside those that are left, which may be refused for long.
    """

    generation: int
    chunks: dict[str, Query] = field(default_factory=dict)
    _named: int = 0
    """How many chunks there have been; a name is not used again."""

    @classmethod
    def since(cls, plan: Plan, generation: int, named: Named) -> "NewAuthorLookback":
        """Everybody in `plan` who became wanted after `generation`, first those who are `named` at the relay."""
        lookback = cls(generation)
        lookback.follow(plan, named)
        return lookback

    def follow(self, plan: Plan, named: Named) -> None:
        """Add those in `plan` who became wanted since it was last followed."""
        if plan.generation <= self.generation:
            return
        mentioned = [
            query.members.after(self.generation)
            for query in plan.live
            if query.subject is Subject.MENTIONS and query.generation > self.generation
        ]
        self._add(Subject.MENTIONS, 0, mentioned, named)
        # Those of each tier by themselves, as what is new by earlier ones comes before later ones.
        for tier, authors in sorted(plan.newer_authors(self.generation).items()):
            self._add(Subject.AUTHORS, tier, authors, named)
        self.generation = plan.generation

    def _add(self, subject: Subject, tier: int, newer: Sequence[Members], named: Named) -> None:
        """Add chunks for those who became wanted, first for those who are `named` at the relay."""
        split = [part.split(named.keys_of(subject, part)) for part in newer if part]
        if not split:
            return
        parts = [*(here for here, _ in split), *(elsewhere for _, elsewhere in split)]
        old = [chunk for chunk in self.chunks.values() if chunk.subject is subject and chunk.tier == tier]
        left = sum(len(chunk.members) for chunk in old)
        if len(old) > _MAX_CHUNKS and 2 * left < MAX_MEMBERS * len(old):
            for chunk in old:
                del self.chunks[chunk.key]
                parts.append(chunk.members)
        for members in _cut(parts):
            # No query of the plan has a plus in its name: what is known of one says nothing about the other.
            chunk = Query(subject, f"{tier_mark(tier)}+{self._named}", members)
            self.chunks[chunk.key] = chunk
            self._named += 1

    def done(self, key: str) -> bool:
        """Note that the chunk `key` is had; returns whether it was the last."""
        self.chunks.pop(key, None)
        return not self.chunks


def _cut(parts: Sequence[Members]) -> Iterator[Members]:
    """Yield chunks that are full but for the last of the remains, which come first; the full ones share bytes."""
    whole = [len(part) - len(part) % MAX_MEMBERS for part in parts]
    remains = [part[size:] for part, size in zip(parts, whole, strict=True) if len(part) > size]
    joined = remains[0] if len(remains) == 1 else Members(b"".join(part.records for part in remains))
    for part, size in ((joined, len(joined)), *zip(parts, whole, strict=True)):
        for first in range(0, size, MAX_MEMBERS):
            yield part[first : min(size, first + MAX_MEMBERS)]
