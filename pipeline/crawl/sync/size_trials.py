"""Finding out whether a filter that a relay refuses for good was only too much for it. No I/O, no clock.

Not every relay says what there was too much of. Before a refusal of a filter with long lists is believed, the filter is
asked for with less: with the shortest lists first, which shows whether size matters at all, then one list after the
other by halves, the others short.

```
state     answer    next
shortest  refused   believed: the refusal has another reason
shortest  answered  the first long list, whole
a list    answered  learned so much of it; the next list, whole; after the last one over
a list    refused   half of it; at one it is learned, as the shortest was answered
any       an error  the same again, `MAX_ERRORS` times
any       else      given up: no answer, or one about something else
```

One trial is under way at a time, with one request after the other and no page beside it, and no more than
`MAX_TRIALS_A_DAY` requests.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from pipeline.nostr.filter import Filter
from pipeline.relay.dimensions import Dimension
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.sizes import size_of
from pipeline.relay.subscription import PageEnded

MAX_TRIALS_A_DAY: Final = 20
# Answers of one trial that say nothing about it, after each of which the same is asked for again.
MAX_ERRORS: Final = 3
_DAY_S: Final = 86_400.0
# What a relay hardly ever refuses: so few events, and so short a time.
_FEW_EVENTS: Final = 10
_SHORT_S: Final = 3_600
_LEAST: Final[Mapping[Dimension, int]] = {
    Dimension.KINDS: 1,
    Dimension.AUTHORS: 1,
    Dimension.TAG_VALUES: 1,
    Dimension.IDS: 1,
    Dimension.LIMIT: _FEW_EVENTS,
    Dimension.SPAN: _SHORT_S,
}


class TrialVerdict(Enum):
    """What a trial has come to."""

    BELIEVED = "believed"
    """It is refused whatever its size."""
    LEARNED = "learned"
    """The limits say how much is allowed."""
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial found out about the sweep of this key, which was refused so."""

    sweep: str
    refusal: RelayRefusal
    verdict: TrialVerdict
    limits: RelayLimits


@dataclass(slots=True)
class _UnderWay:
    sweep: str
    refusal: RelayRefusal
    filter: Filter
    # The lists still to be tried, the next one first; `None` while the shortest of all is.
    left: list[Dimension]
    size: int | None = None
    is_open: bool = False
    errors: int = 0
    has_learned: bool = False


class SizeTrials:
    """The trials of one relay, over all its connections. Times are monotonic seconds."""

    KEY: Final = "size-trial"

    __slots__ = ("_asked", "_believed", "_trial", "_waiting")

    def __init__(self) -> None:
        self._asked: deque[float] = deque(maxlen=MAX_TRIALS_A_DAY)
        self._trial: _UnderWay | None = None
        # Sweeps that were refused during the trial, and how.
        self._waiting: dict[str, RelayRefusal] = {}
        # By what filters ask for, when a refusal of such was last believed.
        self._believed: dict[frozenset[str], float] = {}

    @property
    def is_under_way(self) -> bool:
        """Whether a refusal is being looked into."""
        return self._trial is not None

    def on_refused(self, sweep: str, page: Filter, refusal: RelayRefusal, mono: float) -> bool:
        """Return True if the refusal of `page` is to be looked into, or waits until another was."""
        long = [each for each, least in _LEAST.items() if size_of((page,), each) > least]
        if not refusal.may_be_of_size or not {*long} - {Dimension.LIMIT, Dimension.SPAN} or not self._may_ask(mono):
            return False
        if mono - self._believed.get(_form(page), -_DAY_S) < _DAY_S:
            return False
        if self._trial is None:
            self._trial = _UnderWay(sweep, refusal, page, long)
        else:
            self._waiting[sweep] = refusal
        return True

    def on_connected(self) -> None:
        """A new connection stands: what was open is asked for again."""
        if self._trial is not None:
            self._trial.is_open = False

    def open_next(self, session: Session, mono: float) -> None:
        """Ask for the next part of a trial, if one is under way. All other pages wait: a refusal may name none."""
        if self._trial is not None and not self._trial.is_open and not self._may_ask(mono):
            # What is left of it begins with the next refusal on another day.
            self._trial = None
        trial = self._trial
        session.holds_pages = trial is not None
        if trial is None or trial.is_open or session.pages or not session.has_room():
            return
        trial.is_open = True
        self._asked.append(mono)
        session.open_page(self.KEY, _part(trial), mono)

    def on_page_ended(self, ended: PageEnded, limits: RelayLimits, mono: float) -> Trial | None:
        """Take the answer; returns what the trial has come to, once it has."""
        trial = self._trial
        if trial is None:
            return None
        trial.is_open = False
        if ended.refusal is None:
            return self._on_answered(trial, limits)
        if ended.refusal in (RelayRefusal.ERROR, RelayRefusal.UNCLEAR) and trial.errors < MAX_ERRORS:
            trial.errors += 1
            return None
        if not ended.refusal.may_be_of_size or trial.size is None:
            is_believed = ended.refusal.may_be_of_size
            if is_believed:
                self._believed[_form(trial.filter)] = mono
            return self._end(TrialVerdict.BELIEVED if is_believed else TrialVerdict.GIVEN_UP, limits)
        trial.size = max(_LEAST[trial.left[0]], trial.size // 2)
        if trial.size > _LEAST[trial.left[0]]:
            return None
        return self._learn(trial, limits)

    def take_waiting(self) -> Mapping[str, RelayRefusal]:
        """Return the sweeps that were refused while another was tried, with their refusals, to be looked into next."""
        waiting, self._waiting = self._waiting, {}
        return waiting

    def _on_answered(self, trial: _UnderWay, limits: RelayLimits) -> Trial | None:
        if trial.size is None:
            trial.size = size_of((trial.filter,), trial.left[0])
            return None
        return self._learn(trial, limits)

    def _learn(self, trial: _UnderWay, limits: RelayLimits) -> Trial | None:
        """So much of a list is allowed; the next one is tried."""
        dimension, size = trial.left.pop(0), trial.size or 1
        if size < size_of((trial.filter,), dimension):
            limits = limits.narrowed(dimension, size)
            trial.has_learned = True
        trial.size = size_of((trial.filter,), trial.left[0]) if trial.left else None
        if trial.left and not trial.has_learned:
            return None
        # What is allowed of the others shows when the sweep goes on, which costs nothing more.
        if not trial.has_learned:
            # Each alone is allowed, and all together are not.
            longest = max(_LISTS, key=lambda each: size_of((trial.filter,), each))
            limits = limits.halved(longest, size_of((trial.filter,), longest))
        return self._end(TrialVerdict.LEARNED, limits)

    def _end(self, verdict: TrialVerdict, limits: RelayLimits) -> Trial:
        trial, self._trial = self._trial, None
        assert trial is not None, "only a trial that is under way ends"
        return Trial(trial.sweep, trial.refusal, verdict, limits)

    def _may_ask(self, mono: float) -> bool:
        return len(self._asked) < MAX_TRIALS_A_DAY or mono - self._asked[0] >= _DAY_S


_LISTS: Final = (Dimension.AUTHORS, Dimension.TAG_VALUES, Dimension.IDS, Dimension.KINDS)
_CUTS: Final[Mapping[Dimension, Callable[[Filter, int], Filter]]] = {
    Dimension.KINDS: lambda each, size: replace(each, kinds=frozenset(sorted(each.kinds or ())[:size])),
    Dimension.AUTHORS: lambda each, size: replace(each, authors=frozenset(sorted(each.authors or ())[:size])),
    Dimension.IDS: lambda each, size: replace(each, ids=frozenset(sorted(each.ids or ())[:size])),
    Dimension.TAG_VALUES: lambda each, size: replace(
        each, tags=tuple((name, frozenset(sorted(values)[:size])) for name, values in each.tags)
    ),
    Dimension.LIMIT: lambda each, size: replace(each, limit=size),
    Dimension.SPAN: lambda each, size: replace(each, since=(each.until or 0) - size),
}


def _form(page: Filter) -> frozenset[str]:
    """What a filter asks for, however much of it."""
    lists = {"kinds": page.kinds, "authors": page.authors, "ids": page.ids}
    return frozenset(
        {name for name, values in lists.items() if values is not None} | {f"#{name}" for name, _ in page.tags}
    )


def _part(trial: _UnderWay) -> Filter:
    """The filter of a trial with every long list short but the one that is tried."""
    part = trial.filter
    for dimension, least in _LEAST.items():
        if size_of((trial.filter,), dimension) > least:
            is_tried = trial.size is not None and dimension is trial.left[0]
            part = _CUTS[dimension](part, trial.size if is_tried and trial.size is not None else least)
    return part
