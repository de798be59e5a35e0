"""What a relay allows: from its NIP-11 document, from its refusals and silences, remembered over restarts. Pure.

Every quantity (`Dimension`) has a limit of its own, which no other quantity is held to. A limit is narrowed by what the
relay says or does, to the number that it names or else by half; it is widened again by one trial, to the double, after
`Bound.widen_after` seconds, which doubles each time that the trial fails. Limits are never widened beyond `MOST`.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

import orjson

from pipeline.relay.advertised import AdvertisedLimits
from pipeline.relay.dimensions import (
    DOUBT_SILENCE_AFTER_S,
    LISTS,
    MAX_WIDEN_AFTER_S,
    NEVER_TRIED,
    WIDEN_AFTER_S,
    Bound,
    Dimension,
    Source,
)

# Defaults that every relay in wide use accepts.
MAX_PAGES: Final = 3
MAX_FILTERS: Final = 10
MAX_MEMBERS: Final = 250
PAGE_LIMIT: Final = 500
# Some stores answer a filter with more kinds as if they had nothing: it is raised only by control.
FIRST_KINDS: Final = 10
# More kinds than any list of ours names.
MOST_KINDS: Final = 320
# Longer than Nostr is old.
MAX_SPAN_S: Final = 1 << 31
# strfry resets the connection above 131,072 bytes.
MAX_FRAME_BYTES: Final = 120_000
INFORMATION_AGE_S: Final = 86_400
# A request that hardly any relay refuses for its size alone, and one that none does.
LEAST_FRAME_BYTES: Final = 4_000
LEAST_SEEN_BYTES: Final = 1_000
# Subscriptions left free for whoever shares our address, where there are many: one in so many, so many at most.
_SPARE_ONE_IN: Final = 4
_MOST_SPARED: Final = 2
# What a filter takes in a request, at most: its own JSON with its share of the frame, each key and each kind.
BYTES_PER_FILTER: Final = 200
BYTES_PER_MEMBER: Final = 67
BYTES_PER_KIND: Final = 6
# Kinds refused by name that are remembered.
_MAX_REFUSED_KINDS: Final = 256


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How a relay may be asked; the first fields are those of `Dimension`.

    `bounds`: how those of them were learned that differ from the default; `refused_kinds`: kinds that it refused by
    name. `until_exclusive`, `since_exclusive`: its `until` or `since` leaves out its own second;
    `needs_kinds`: it gives nothing to filters that name no kinds; `refuses_kindless`: it refuses those, and says so;
    `notes_by_author`: it refuses filters that ask for notes, or for all kinds, without naming authors; `adds_requests`:
    a REQ under an open id adds to it; `zero_is_all`:
    it takes `limit: 0` for no limit; `refuses_zero`: it refuses `limit: 0`; `ends_at_limit`: it sends nothing live to a
    subscription whose stored events reach its `limit`; `withholds`: it refuses filters that select
    messages which it does not show us, among other kinds; `gives_shown`: when it closes a page for their sake it has
    given all else of it; `demands_auth`: it says or showed that it wants NIP-42 of
    readers; `reconciles`: it was seen to compare sets rightly (NIP-77); `informed_at`: when its NIP-11 document was
    last asked for; `whole_refused_at`: when it last refused a filter for everything; `negentropy_failed_at`: when it
    last turned out not to compare sets; `live_missed_at`: when its live subscriptions turned out to leave out events
    (all in Unix seconds, 0 for never).
    """

    max_subscriptions: int = 18
    max_pages: int = MAX_PAGES
    max_filters: int = MAX_FILTERS
    max_kinds: int = FIRST_KINDS
    max_authors: int = MAX_MEMBERS
    max_ids: int = MAX_MEMBERS
    max_tag_values: int = MAX_MEMBERS
    max_tag_filters: int = 3
    page_limit: int = PAGE_LIMIT
    max_span: int = MAX_SPAN_S
    max_frame_bytes: int = MAX_FRAME_BYTES
    max_id_length: int = 64
    bounds: tuple[Bound, ...] = ()
    refused_kinds: tuple[int, ...] = ()
    until_exclusive: bool = False
    since_exclusive: bool = False
    needs_kinds: bool = False
    refuses_kindless: bool = False
    notes_by_author: bool = False
    zero_is_all: bool = False
    adds_requests: bool = False
    refuses_zero: bool = False
    ends_at_limit: bool = False
    withholds: bool = False
    gives_shown: bool = False
    demands_auth: bool = False
    informed_at: int = 0
    reconciles: bool = False
    whole_refused_at: int = 0
    negentropy_failed_at: int = 0
    live_missed_at: int = 0

    def of(self, dimension: Dimension) -> int:
        """Return the limit of one dimension."""
        value = getattr(self, dimension.value)
        assert isinstance(value, int), "every dimension is a field with a number"
        return value

    def bound(self, dimension: Dimension) -> Bound | None:
        """Return how the limit of one dimension was learned; `None` where it is the default."""
        return next((each for each in self.bounds if each.dimension is dimension), None)

    @property
    def members_that_fit(self) -> int:
        """How many keys one filter may name for its frame to be taken, beside as many kinds as are allowed."""
        return self.members_beside(self.kinds_that_fit)

    def members_beside(self, kinds: int) -> int:
        """How many keys one filter may name beside so many kinds for its frame to be taken."""
        return max(1, (self.max_frame_bytes - BYTES_PER_FILTER - BYTES_PER_KIND * kinds) // BYTES_PER_MEMBER)

    @property
    def kinds_that_fit(self) -> int:
        """How many kinds one filter may name for its frame to be taken, beside one key at least."""
        room = self.max_frame_bytes - BYTES_PER_FILTER - BYTES_PER_MEMBER
        return max(1, min(self.max_kinds, room // BYTES_PER_KIND))

    @property
    def live_kinds(self) -> int:
        """How many kinds a filter of a live subscription may name.

        No stored event is searched for it, so that only what the relay says bounds it, and not a failed control.
        """
        known = self.bound(Dimension.KINDS)
        return MOST_KINDS if known is None or known.source is Source.CONTROL else self.max_kinds

    def takes_less_than(self, before: "RelayLimits") -> bool:
        """Whether what was cut for `before` may be refused now."""
        return self.refused_kinds != before.refused_kinds or any(
            self.of(each) < before.of(each) for each in (*LISTS, Dimension.LIMIT, Dimension.SPAN, Dimension.FRAME_BYTES)
        )

    @property
    def live_filters(self) -> int:
        """How many filters a live subscription may have: one where it left out events, as of all but the first."""
        return 1 if self.live_missed_at else self.max_filters

    def without_trust_in_live(self, now: int) -> "RelayLimits":
        """After live subscriptions left out events: ask in the next of the forms of `LiveTrust`."""
        if not (self.refuses_zero or self.zero_is_all):
            return replace(self, refuses_zero=True)
        return replace(self, live_missed_at=now, ends_at_limit=self.live_missed_at > 0)

    # Narrowing.

    def narrowed(self, dimension: Dimension, to: int, source: Source = Source.REFUSAL) -> "RelayLimits":
        """Return these limits with one dimension held to `to`, at least 1; unchanged where it is no more already."""
        to = max(1, to)
        if to >= self.of(dimension) and not (dimension is Dimension.KINDS and self._is_first_refusal(to, source)):
            return self
        known = self.bound(dimension)
        first = DOUBT_SILENCE_AFTER_S if source is Source.SILENCE else WIDEN_AFTER_S
        if known is None or known.source is not source:
            learned = Bound(dimension, source, 0, 0, first)
        else:
            learned = replace(known, narrowed_at=0)
        return self._with(learned, to)

    def halved(self, dimension: Dimension, asked: int, source: Source = Source.REFUSAL) -> "RelayLimits":
        """Return these limits with one dimension held to half of what was `asked` for."""
        return self.narrowed(dimension, min(self.of(dimension), asked // 2), source)

    def fewer_subscriptions(self, open_now: int, source: Source = Source.REFUSAL) -> "RelayLimits":
        """After a refusal for too many subscriptions while `open_now` were open, the refused one among them."""
        return self.subscriptions_up_to(max(1, open_now - 1), source)

    def subscriptions_up_to(self, most: int, source: Source = Source.REFUSAL) -> "RelayLimits":
        """Return these limits with at most so many subscriptions, one of which is kept for live events."""
        narrower = self.narrowed(Dimension.SUBSCRIPTIONS, most, source)
        return narrower.narrowed(Dimension.PAGES, narrower.max_subscriptions - 1, source)

    def fewer_pages(self) -> "RelayLimits":
        """After a refusal for asking too much at once."""
        return self.narrowed(Dimension.PAGES, self.max_pages - 1)

    def below(self, request_bytes: int, answered: int = 0) -> "RelayLimits":
        """After the connection was lost over a request of so many bytes, which was not answered.

        `answered`: the largest that ever was. Only where smaller ones were is size likely to be the matter, so that
        requests are made as small as it takes.
        """
        least = max(answered, LEAST_SEEN_BYTES) if 0 < answered < request_bytes else LEAST_FRAME_BYTES
        return self.narrowed(Dimension.FRAME_BYTES, max(least, request_bytes // 2), Source.LOSS)

    def without_kind(self, kind: int) -> "RelayLimits":
        """Return these limits with one more kind that the relay refuses to be asked for."""
        known = {*self.refused_kinds, kind}
        return self if len(known) > _MAX_REFUSED_KINDS else replace(self, refused_kinds=tuple(sorted(known)))

    # Widening.

    def raised(self, dimension: Dimension) -> "RelayLimits":
        """Return these limits with the double of one dimension, as a control event came back with as much as allowed.

        Unchanged where the relay itself says how much it takes.
        """
        known = self.bound(dimension)
        to = min(2 * self.of(dimension), MOST[dimension])
        if (known is not None and known.source is not Source.CONTROL) or to <= self.of(dimension):
            return self
        return self._with(Bound(dimension, Source.CONTROL), to)

    def relaxed(self, now: int) -> "RelayLimits":
        """Return what to try at a look at the NIP-11 document: a step more where refusals are long past.

        What the document says is to be taken into account anew, and forms and kinds that were refused are tried again.
        """
        kept = tuple(each for each in self.bounds if each.source is not Source.DOCUMENT)
        unbound = {each.dimension for each in kept}
        fresh: dict[str, Any] = {each.value: _DEFAULT.of(each) for each in Dimension if each not in unbound}
        anew = replace(
            self, **fresh, bounds=kept, refuses_kindless=False, notes_by_author=False, refuses_zero=False,
            ends_at_limit=False, withholds=False, gives_shown=False, refused_kinds=(), live_missed_at=0,
        )  # fmt: skip
        return anew._tried(now, frozenset(Source))

    def doubted(self, now: int) -> "RelayLimits":
        """Return what to try of that which only silence taught, some minutes after it did."""
        return self._tried(now, frozenset({Source.SILENCE}))

    def dated(self, before: "RelayLimits", now: int) -> "RelayLimits":
        """Return these limits with the time noted for what was narrowed until `now`, since they were as `before`."""
        if all(each.narrowed_at for each in self.bounds):
            return self
        return replace(self, bounds=tuple(_dated(each, before.bound(each.dimension), now) for each in self.bounds))

    # The NIP-11 document.

    def as_of(self, now: int) -> "RelayLimits":
        """These limits without times beyond `now`, which a clock that was ahead noted."""
        late: dict[str, Any] = {name: now for name in _TIMES if getattr(self, name) > now}
        if any(max(each.narrowed_at, each.widened_at) > now for each in self.bounds):
            late["bounds"] = tuple(
                replace(each, narrowed_at=min(each.narrowed_at, now), widened_at=min(each.widened_at, now))
                for each in self.bounds
            )
        return replace(self, **late) if late else self

    def with_nip11_fetched_at(self, now: int) -> "RelayLimits":
        """As of a look at the NIP-11 document, whether it was to be had or not."""
        return replace(self, informed_at=now)

    def is_stale(self, now: int) -> bool:
        """Whether the NIP-11 document should be looked at again."""
        return now - self.informed_at >= INFORMATION_AGE_S

    def with_advertised(self, said: AdvertisedLimits) -> "RelayLimits":
        """Return these limits narrowed to what a NIP-11 document says.

        Documents are often wrong, so they widen nothing, but for the bytes of a frame after a loss that only seemed to
        be over its size.
        """
        limits = self
        known = limits.bound(Dimension.FRAME_BYTES)
        if said.max_message_length and known is not None and said.max_message_length > limits.max_frame_bytes:
            limits = limits._without(Dimension.FRAME_BYTES)
        for dimension, number in (
            (Dimension.FILTERS, said.max_filters),
            (Dimension.LIMIT, said.max_limit),
            (Dimension.FRAME_BYTES, said.max_message_length),
            (Dimension.ID_LENGTH, said.max_subid_length),
            (Dimension.AUTHORS, said.max_authors),
            (Dimension.IDS, said.max_ids),
            (Dimension.KINDS, said.max_kinds),
            (Dimension.TAG_VALUES, said.max_tag_values),
        ):
            if number:
                limits = limits.narrowed(dimension, number, Source.DOCUMENT)
        if said.max_subscriptions:
            spared = min(_MOST_SPARED, said.max_subscriptions // _SPARE_ONE_IN)
            limits = limits.subscriptions_up_to(said.max_subscriptions - spared, Source.DOCUMENT)
        return replace(limits, demands_auth=said.auth_required)

    # The relay's row.

    def to_json(self) -> str:
        """For the relay's row."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> "RelayLimits":
        """Read what `to_json` wrote; whatever is missing or out of range is as if nothing had been learned."""
        try:
            stored = orjson.loads(text)
        except orjson.JSONDecodeError:
            return cls()
        if not isinstance(stored, dict):
            return cls()
        default = cls()
        known: dict[str, Any] = {field.name: stored.get(field.name) for field in fields(cls)}
        kept: dict[str, Any] = {
            name: value
            for name, value in known.items()
            if type(value) is type(getattr(default, name)) and (isinstance(value, bool) or value >= 1)
        }
        kept["bounds"] = _bounds(stored.get("bounds"))
        kept["refused_kinds"] = _kinds(stored.get("refused_kinds"))
        return replace(default, **kept)

    def _is_first_refusal(self, to: int, source: Source) -> bool:
        """Whether the relay names for the first time how many kinds it takes, which may be more than are asked for."""
        known = self.bound(Dimension.KINDS)
        return source is not Source.CONTROL and (known is None or known.source is Source.CONTROL) and to < MOST_KINDS

    def _tried(self, now: int, sources: frozenset[Source]) -> "RelayLimits":
        limits = self
        for each in self.bounds:
            is_due = now - max(each.narrowed_at, each.widened_at) >= each.widen_after and each.narrowed_at > 0
            to = min(2 * self.of(each.dimension), MOST[each.dimension])
            if not is_due or each.source not in sources or each.dimension in NEVER_TRIED:
                continue
            if each.source is not Source.CONTROL and to > self.of(each.dimension):
                limits = limits._with(replace(each, widened_at=now), to)
        return limits

    def _with(self, bound: Bound, value: int) -> "RelayLimits":
        others = [each for each in self.bounds if each.dimension is not bound.dimension]
        bounds = tuple(sorted((*others, bound), key=lambda each: each.dimension))
        changed: dict[str, Any] = {bound.dimension.value: value}
        return replace(self, bounds=bounds, **changed)

    def _without(self, dimension: Dimension) -> "RelayLimits":
        others = tuple(each for each in self.bounds if each.dimension is not dimension)
        changed: dict[str, Any] = {dimension.value: _DEFAULT.of(dimension)}
        return replace(self, bounds=others, **changed)


_TIMES = ("informed_at", "whole_refused_at", "negentropy_failed_at", "live_missed_at")
_DEFAULT = RelayLimits()
MOST: Final = {each: MOST_KINDS if each is Dimension.KINDS else _DEFAULT.of(each) for each in Dimension}


def _dated(bound: Bound, before: Bound | None, now: int) -> Bound:
    if bound.narrowed_at:
        return bound
    in_vain = before is not None and before.widened_at > before.narrowed_at > 0
    patience = min(bound.widen_after * 2, MAX_WIDEN_AFTER_S) if in_vain else bound.widen_after
    return replace(bound, narrowed_at=now, widen_after=patience)


def _bounds(value: object) -> tuple[Bound, ...]:
    read = [Bound.from_value(each) for each in value] if isinstance(value, list) else []
    by_dimension = {each.dimension: each for each in read if each is not None}
    return tuple(by_dimension[each] for each in sorted(by_dimension))


def _kinds(value: object) -> tuple[int, ...]:
    return tuple(sorted({each for each in value if type(each) is int})) if isinstance(value, list) else ()
