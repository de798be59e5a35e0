"""The check of one form of filter by a control: an event that the relay gave before. Pure.

That an answer is whole cannot be seen from the answer. But an event that the relay gave must come back when a filter
selects it: its author, kind or mention stands last in lists of full size, the span is its second (and those beside it,
as some relays leave out a bound). If it does not, the list is shortened until it does, which shows whether the form is
at fault or the size. An empty answer proves nothing unless the event is still there.

| step | the filter names | the event comes | it does not |
|---|---|---|---|
| FULL | all values and kinds | whole; FULL with more, if wanted | EXISTS; after fewer came, FULL with less or whole |
| EXISTS | the event's id | SINGLE | the event is gone: FULL with another |
| SINGLE | its value, and its kind if the form names kinds | PAIR | holes; POINT if events of other times came |
| POINT | its value, its kind | holes, unless events of other times came | unknown |
| PAIR | two values | HALF | only the first value is searched |
| HALF | half as many kinds, then values | whole up to that size | HALF of that |

Full answers of other events prove nothing: FULL with another event. A refusal ends a check without a verdict, unless it
made the relay's limits smaller, by which the step is asked again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pipeline.crawl.sync.forms.controls import Control
from pipeline.crawl.sync.forms.filters import (
    Size,
    allowed_size,
    around,
    by_id,
    fitted,
    larger_size,
    less_than,
    narrowed,
    proven,
)
from pipeline.crawl.sync.forms.forms import Form, FormVerdict
from pipeline.crawl.sync.plan import Plan
from pipeline.nostr.filter import Filter
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.subscription import PageEnded

# So many events of its second beside a control that is missing may be all that the relay gives at once.
CROWD: Final = 5
# Events that are tried as control of one form, and times that one step is asked.
MAX_CONTROLS: Final = 3
MAX_TRIES: Final = 2


class _Step(Enum):
    FULL = auto()
    EXISTS = auto()
    SINGLE = auto()
    POINT = auto()
    PAIR = auto()
    HALF = auto()


@dataclass(frozen=True, slots=True)
class Found:
    """What an answer means for a check.

    `verdict`: None while it goes on; `owes`: what was asked with longer lists was not answered; `needs_another`: this
    control proves nothing.
    """

    limits: RelayLimits
    verdict: FormVerdict | None = None
    owes: bool = False
    needs_another: bool = False


@dataclass(slots=True)
class Check:
    """The check of one form under way.

    `wanted`: what the service would ask for; `full`: as much of it as the relay is thought to take; `size`: what is
    asked for now; `proven`: the largest that came back.
    """

    form: Form
    control: Control
    wanted: Size
    full: Size
    size: Size
    proven: Size | None = None
    requests: int = 0
    tries: int = 0
    controls: int = 1
    _step: _Step = _Step.FULL
    # The last step to more kinds was too long.
    _is_stepping_back: bool = False

    @property
    def verdict(self) -> FormVerdict:
        """What is known when it ends before its time."""
        return FormVerdict.UNKNOWN if self.proven is None else FormVerdict.WHOLE

    @property
    def is_hopeless(self) -> bool:
        """Return True if a step was refused as often as it may be."""
        return self.tries >= MAX_TRIES

    def open(self, plan: Plan, limits: RelayLimits) -> Filter:
        """Return the filter of the step that comes now, which is counted as asked."""
        self.requests += 1
        self.tries += 1
        self.size, self.full = fitted(self.size, limits), fitted(self.full, limits)
        if self._step is _Step.EXISTS:
            return by_id(self.control)
        size = Size(1, 1) if self._step is _Step.POINT else self.size
        return around(self.control, self.form, size, plan, limits)

    def begin_with(self, control: Control) -> bool:
        """Begin again with another event; returns False if enough have been tried."""
        if self.proven is not None or self.controls >= MAX_CONTROLS:
            return False
        self.control, self._step, self.size = control, _Step.FULL, self.full
        self.controls += 1
        return True

    def on_refused(self, refusal: RelayRefusal, limits: RelayLimits) -> bool:
        """Take a refusal; returns True if the same is to be asked after a pause."""
        allowed = allowed_size(self.form, limits)
        smaller = self.size.within(allowed)
        if smaller != self.size and self.proven is not None and smaller.within(self.proven) == smaller:
            # A step to more than the relay is thought to take, and asked for again it would be the same step.
            if not self._step_back():
                self.tries = MAX_TRIES
            return False
        if smaller != self.size:
            self.size, self.full, self.tries = smaller, self.full.within(allowed), 0
            return False
        if refusal is RelayRefusal.RATE_LIMITED:
            # Too many requests at once say nothing of this one.
            self.tries -= 1
            return True
        if refusal.is_lasting:
            self.tries = MAX_TRIES
        return not self.is_hopeless

    def on_answer(self, ended: PageEnded, limits: RelayLimits) -> Found:
        """Take the answer to the step."""
        self.tries = 0
        came = self.control.id in ended.ids
        if not came and self._step is not _Step.EXISTS and ended.count >= CROWD:
            return Found(limits, needs_another=True)
        return _HANDLERS[self._step](self, came, bool(ended.newer or ended.older), limits)

    # `timeless`: events of other times came than were asked for.

    def _on_full(self, came: bool, timeless: bool, limits: RelayLimits) -> Found:
        if not came and self.proven is None:
            self._step = _Step.EXISTS
            return Found(limits)
        if came:
            self.proven = self.size
            limits = proven(limits, self.form, self.size)
            larger = larger_size(self.form, self.size, self.wanted, limits)
            if larger is not None and not self._is_stepping_back:
                self.size = larger
                return Found(limits)
        elif self._step_back():
            return Found(limits)
        return Found(limits, FormVerdict.WHOLE)

    def _step_back(self) -> bool:
        """Try what lies between what came back and a step that was too long; returns whether there is anything."""
        smaller = None if self.proven is None else less_than(self.size, self.proven)
        if smaller is None or self._is_stepping_back:
            return False
        self.size, self.tries, self._is_stepping_back = smaller, 0, True
        return True

    def _on_exists(self, came: bool, timeless: bool, limits: RelayLimits) -> Found:
        if not came:
            return Found(limits, needs_another=True)
        self._step, self.size = _Step.SINGLE, self.full.single
        return Found(limits)

    def _on_single(self, came: bool, timeless: bool, limits: RelayLimits) -> Found:
        if came:
            self._step, self.size = _Step.PAIR, self.full.pair
        elif not timeless:
            return Found(limits, FormVerdict.HOLES)
        elif self.form.names_kinds:
            return Found(limits, FormVerdict.UNKNOWN)
        else:
            self._step = _Step.POINT
        return Found(limits)

    def _on_point(self, came: bool, timeless: bool, limits: RelayLimits) -> Found:
        return Found(limits, FormVerdict.HOLES if came and not timeless else FormVerdict.UNKNOWN)

    def _on_pair(self, came: bool, timeless: bool, limits: RelayLimits) -> Found:
        if not came:
            return Found(limits, FormVerdict.FIRST_VALUE)
        self._step, self.size = _Step.HALF, self.full.halved()
        return Found(limits)

    def _on_half(self, came: bool, timeless: bool, limits: RelayLimits) -> Found:
        if not came and self.size != self.size.single:
            self.size = self.size.halved()
            return Found(limits)
        return Found(narrowed(limits, self.form, self.size), FormVerdict.WHOLE, owes=True)


_HANDLERS: Final[dict[_Step, Callable[[Check, bool, bool, RelayLimits], Found]]] = {
    _Step.FULL: Check._on_full,
    _Step.EXISTS: Check._on_exists,
    _Step.SINGLE: Check._on_single,
    _Step.POINT: Check._on_point,
    _Step.PAIR: Check._on_pair,
    _Step.HALF: Check._on_half,
}
