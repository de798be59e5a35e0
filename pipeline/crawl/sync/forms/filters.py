"""How large the lists of a filter are by which a form is checked, and the filters themselves. Pure."""

from dataclasses import dataclass, replace
from typing import Final

from pipeline.crawl.sync.asked_kinds import ALL_KINDS, HIDDEN_KINDS
from pipeline.crawl.sync.forms.controls import Control
from pipeline.crawl.sync.forms.forms import Form, Reach
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.query import Subject
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GLOBAL_KINDS, TEXT_NOTE
from pipeline.relay.dimensions import Dimension, Source
from pipeline.relay.limits import MOST_KINDS, RelayLimits

# How many times more kinds are tried once a control came back among some: most relays take them all.
KINDS_STEP: Final = 8
# By what a form selects beside kinds.
DIMENSIONS: Final = {Subject.AUTHORS: Dimension.AUTHORS, Subject.MENTIONS: Dimension.TAG_VALUES}


@dataclass(frozen=True, slots=True)
class Size:
    """The lengths of a filter's lists, 0 for a list that it does not have."""

    values: int
    kinds: int

    @property
    def single(self) -> "Size":
        """One value, and one kind where kinds are named."""
        return Size(min(self.values, 1), min(self.kinds, 1))

    @property
    def pair(self) -> "Size":
        """Two values, and one kind where kinds are named."""
        return Size(min(self.values, 2), min(self.kinds, 1))

    def within(self, most: "Size") -> "Size":
        """Return the size cut to `most`."""
        return Size(min(self.values, most.values), min(self.kinds, most.kinds))

    def halved(self) -> "Size":
        """Return the next smaller size: fewer kinds, and once there is one, fewer values."""
        if self.kinds > 1:
            return replace(self, kinds=self.kinds // 2)
        return replace(self, values=max(1, self.values // 2))


def wanted_size(form: Form, plan: Plan, limits: RelayLimits, *, single: bool) -> Size:
    """Return the size that the service would ask for if the relay took any; `single`: with one value."""
    values = 0
    if form.subject in DIMENSIONS:
        members = max((len(query.members) for query in plan.queries if query.subject is form.subject), default=0)
        values = 1 if single else min(max(members, 2), limits.members_that_fit)
    return Size(values, len(_kinds(form, limits)) if form.names_kinds else 0)


def allowed_size(form: Form, limits: RelayLimits) -> Size:
    """Return the largest size that the relay is thought to take."""
    dimension = DIMENSIONS.get(form.subject)
    return Size(0 if dimension is None else limits.of(dimension), limits.max_kinds)


def fitted(size: Size, limits: RelayLimits) -> Size:
    """Return the size cut to what the relay takes in one frame."""
    kinds = min(size.kinds, replace(limits, max_kinds=MOST_KINDS).kinds_that_fit)
    return Size(min(size.values, limits.members_beside(kinds)), kinds)


def larger_size(form: Form, size: Size, wanted: Size, limits: RelayLimits) -> Size | None:
    """Return what to try when `size` came back; `None` for nothing: no more is wanted, or the relay names its limit."""
    if form.reach is not Reach.LOW:
        return None
    if size.kinds < wanted.kinds and limits.raised(Dimension.KINDS) != limits:
        return replace(size, kinds=min(KINDS_STEP * size.kinds, wanted.kinds))
    dimension = DIMENSIONS.get(form.subject)
    known = None if dimension is None else limits.bound(dimension)
    if size.values < wanted.values and known is not None and known.source is Source.CONTROL and not form.names_kinds:
        return replace(size, values=min(2 * size.values, wanted.values))
    return None


def less_than(size: Size, known: Size) -> Size | None:
    """Return what to try when a step from `known` to `size` was too long; `None` if there is nothing between."""
    kinds = 2 * known.kinds
    return replace(size, kinds=kinds) if known.kinds and kinds < size.kinds else None


def proven(limits: RelayLimits, form: Form, size: Size) -> RelayLimits:
    """Return the limits of a relay that gave a control among lists of this size."""
    limits = _raised(limits, Dimension.KINDS, size.kinds)
    dimension = DIMENSIONS.get(form.subject)
    return limits if dimension is None else _raised(limits, dimension, size.values)


def narrowed(limits: RelayLimits, form: Form, size: Size) -> RelayLimits:
    """Return the limits of a relay that gives a control among lists of this size, and not of twice that."""
    dimension = DIMENSIONS.get(form.subject)
    if form.names_kinds:
        limits = limits.narrowed(Dimension.KINDS, size.kinds, Source.CONTROL)
    return limits if dimension is None else limits.narrowed(dimension, size.values, Source.CONTROL)


def avoids_notes(form: Form, limits: RelayLimits) -> bool:
    """Return True if the relay refuses filters of this form that select kind 1."""
    return limits.notes_by_author and form.subject is not Subject.AUTHORS


def by_id(control: Control) -> Filter:
    """Return the filter for the control itself."""
    return Filter(ids=frozenset({control.id}), limit=1)


def around(control: Control, form: Form, size: Size, plan: Plan, limits: RelayLimits) -> Filter:
    """Return the filter of this form and size that selects the control, and little else."""
    kinds = [kind for kind in _kinds(form, limits) if kind != control.kind][: size.kinds - 1] if size.kinds else []
    named = {control.author, bytes.fromhex(control.mention or "")}
    others = [
        key for query in plan.queries if query.subject is form.subject for key in query.members.keys if key not in named
    ][: max(size.values, 1) - 1]
    mention = () if control.mention is None else (control.mention,)
    values = frozenset((*(key.hex() for key in others), *mention))
    return Filter(
        authors=frozenset((*others, control.author)) if form.subject is Subject.AUTHORS else None,
        kinds=frozenset((*kinds, control.kind)) if size.kinds else None,
        tags=(("p", values),) if form.subject is Subject.MENTIONS else (),
        since=max(0, control.created_at - 1),
        until=control.created_at + 1,
        limit=limits.page_limit,
        last=(control.author.hex(), control.kind, *mention),
    )


def _kinds(form: Form, limits: RelayLimits) -> list[int]:
    """Return the kinds that filters of a form name, less those that a relay does not show to everyone."""
    if form.subject is Subject.GLOBAL:
        return sorted(GLOBAL_KINDS)
    left_out = HIDDEN_KINDS | ({TEXT_NOTE} if avoids_notes(form, limits) else set())
    return sorted(ALL_KINDS - left_out - set(limits.refused_kinds))


def _raised(limits: RelayLimits, dimension: Dimension, size: int) -> RelayLimits:
    while limits.of(dimension) < size and (wider := limits.raised(dimension)) != limits:
        limits = wider
    return limits
