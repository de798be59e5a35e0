"""Finds out by control which forms of filters a relay answers with holes. No I/O, no clock.

That an answer is whole cannot be seen from the answer. But an event that the relay gave before must come back when a
filter selects it: its author, kind or mention stands last in lists of full size, the span is its second (and those
beside it, as some relays leave out a bound). If it does not, the list is shortened until it does, which shows whether
the form is at fault or the size. An empty answer proves nothing unless the event is still there.

| step | the filter names | the event comes | it does not |
|---|---|---|---|
| FULL | all values and kinds | whole; FULL with twice as many, if more are wanted | EXISTS; whole if fewer came |
| EXISTS | the event's id | SINGLE | the event is gone: FULL with another |
| SINGLE | its value, and its kind if the form names kinds | PAIR | holes; POINT if events of other times came |
| POINT | its value, its kind | holes, unless events of other times came | unknown |
| PAIR | two values | HALF | only the first value is searched |
| HALF | half as many kinds, then values | whole up to that size | HALF of that |

Full answers of other events prove nothing: FULL with another event. A refusal ends a check without a verdict, unless it
made the relay's limits smaller, by which the step is asked again. Silence ends the audit for an hour.

Before all that, each kind of messages is asked for alone: a relay that leaves them out of other answers without a word
then demands AUTH (NIP-42). They are withheld if that is not enough, or nothing comes even then.

`wall` is Unix seconds, `mono` monotonic seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pipeline.crawl.controls import Control, Controls, search
from pipeline.crawl.form_filters import (
    DIMENSIONS,
    Size,
    allowed_size,
    around,
    avoids_notes,
    by_id,
    fitted,
    larger_size,
    narrowed,
    proven,
    wanted_size,
)
from pipeline.crawl.forms import FORMS, Form, FormKnowledge, Reach, Verdict, withheld_name
from pipeline.crawl.plan import HIDDEN_KINDS, Plan, Subject
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.relay.limits import Limits
from pipeline.relay.refusals import Refusal
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded

# Requests for controls a relay and day.
MAX_REQUESTS: Final = 30
# So many events of its second beside a control that is missing may be all that the relay gives at once.
CROWD: Final = 5
# Events that are tried as control of one form, and times that one step is asked.
MAX_CONTROLS: Final = 3
MAX_TRIES: Final = 2
_WITHHELD: Final = frozenset({Refusal.AUTH_REQUIRED, Refusal.RESTRICTED, Refusal.FORBIDDEN, Refusal.KIND_REFUSED})
# What was refused is asked again after this (seconds), and what was not answered at all: it keeps others waiting.
_PAUSE_S: Final = 5.0
_SILENT_PAUSE_S: Final = 3_600.0


class _Step(Enum):
    FULL = auto()
    EXISTS = auto()
    SINGLE = auto()
    POINT = auto()
    PAIR = auto()
    HALF = auto()


@dataclass(slots=True)
class _Check:
    """The check of one form under way.

    `wanted`: what the service would ask for; `full`: as much of it as the relay is thought to take; `size`: what is
    asked for now; `proven`: the largest that came back.
    """

    form: Form
    control: Control
    wanted: Size
    full: Size
    size: Size
    step: _Step = _Step.FULL
    proven: Size | None = None
    requests: int = 0
    tries: int = 0
    controls: int = 1

    @property
    def verdict(self) -> Verdict:
        """What is known when it ends before its time."""
        return Verdict.UNKNOWN if self.proven is None else Verdict.WHOLE

    def page(self, plan: Plan, limits: Limits) -> Filter:
        """Return the filter of the step that comes now."""
        if self.step is _Step.EXISTS:
            return by_id(self.control)
        size = Size(1, 1) if self.step is _Step.POINT else self.size
        return around(self.control, self.form, size, plan, limits)


@dataclass(frozen=True, slots=True)
class _Search:
    """A request for events to serve as controls."""

    reach: Reach

    @property
    def name(self) -> str:
        """The name under which it is stored that it was made."""
        return f"search/{self.reach}"


@dataclass(frozen=True, slots=True)
class _Showing:
    """A request for one kind of messages alone."""

    kind: int

    @property
    def name(self) -> str:
        """The name under which its result is stored."""
        return withheld_name(self.kind)


@dataclass(frozen=True, slots=True)
class _Answer:
    came: bool
    timeless: bool
    """Events of other times came than were asked for."""
    limits: Limits
    wall: int


@dataclass(frozen=True, slots=True)
class Audited:
    """What an answer means for the crawl: the relay's limits, and what was not answered and is owed again."""

    limits: Limits
    owed: tuple[Subject, ...] = ()


class FormAudit:
    """The checks of one relay's forms, over all its connections: one request at a time."""

    KEY: Final = "form-control"

    __slots__ = (
        "_controls", "_is_open", "_not_before", "_shown", "_task", "knowledge", "precedes_mentions", "wants_events",
    )  # fmt: skip

    def __init__(self, knowledge: FormKnowledge) -> None:
        self.knowledge = knowledge
        self.precedes_mentions = False
        """Whether what mentions users should be asked for when the checks of that are over."""
        self.wants_events = True
        """Whether events are of use that the relay gives for other reasons."""
        self._controls = Controls()
        self._task: _Check | _Search | _Showing | None = None
        # Kinds of messages that were asked for on this connection.
        self._shown: set[int] = set()
        self._is_open = False
        self._not_before = 0.0

    @property
    def is_searching(self) -> bool:
        """Return True if events are on their way that were asked for to serve as controls."""
        return self._is_open and isinstance(self._task, _Search)

    def note_event(self, event: Event) -> None:
        """Take note of an event that the relay gave."""
        self._controls.note(event)

    def on_connected(self) -> None:
        """Take note that a new connection stands, on which nothing was asked."""
        self._is_open = False
        self._not_before = 0.0
        self._shown.clear()

    def open_next(self, plan: Plan, session: Session, mono: float, wall: int) -> None:
        """Ask for the next control, if one is due and there is room."""
        if self._is_open:
            return
        if isinstance(self._task, _Check):
            self._bound(self._task, wall)
        if self._task is None:
            self._task = self._next_task(plan, session.limits, wall)
        task = self._task
        is_silent = mono < self._not_before - _PAUSE_S
        self.precedes_mentions = task is not None and not is_silent and not self._has_judged_mentions(task)
        if task is None or mono < self._not_before or not session.has_room_for_page():
            return
        self._is_open = True
        if not isinstance(task, _Check):
            page = search(task.reach) if isinstance(task, _Search) else _alone(task.kind, plan)
            session.open_page(self.KEY, page, mono)
            return
        task.requests += 1
        task.tries += 1
        task.size, task.full = fitted(task.size, session.limits), fitted(task.full, session.limits)
        watched = frozenset({task.control.id})
        session.open_page(self.KEY, task.page(plan, session.limits), mono, watched=watched)

    def due_times(self) -> list[float]:
        """Return when (monotonic) a step that was put off is asked again."""
        return [self._not_before] if self._task is not None and not self._is_open else []

    def on_page_ended(self, ended: PageEnded, limits: Limits, mono: float, wall: int) -> Audited:
        """Take the answer to the last request."""
        task, self._is_open = self._task, False
        if ended.refusal is Refusal.TIMEOUT:
            self._task, self._not_before = None, mono + _SILENT_PAUSE_S
            return Audited(limits)
        if isinstance(task, _Showing):
            return self._on_shown(task, ended, limits, wall)
        if isinstance(task, _Search):
            self.knowledge.note(task.name, Verdict.UNKNOWN, wall, 1)
            self._task = None
        elif task is not None and ended.refusal is not None:
            self._on_refused(task, ended.refusal, limits, mono, wall)
        elif task is not None:
            task.tries = 0
            came = task.control.id in ended.ids
            if not came and task.step is not _Step.EXISTS and ended.count >= CROWD:
                return self._with_another(task, limits, wall)
            answer = _Answer(came, bool(ended.newer or ended.older), limits, wall)
            return _HANDLERS[task.step](self, task, answer)
        return Audited(limits)

    # What to ask.

    def _bound(self, check: _Check, wall: int) -> None:
        """End a check that was not answered again and again, or that takes more requests than are left for today."""
        spent = self.knowledge.requests(wall) + check.requests
        if check.tries >= MAX_TRIES or (check.requests and spent >= MAX_REQUESTS):
            self._end(check, check.verdict, wall)

    def _next_task(self, plan: Plan, limits: Limits, wall: int) -> _Check | _Search | _Showing | None:
        """Return the most important check that is due, or the search for events that it lacks."""
        self.wants_events = False
        for kind in sorted(HIDDEN_KINDS - self._shown):
            if self.knowledge.is_due(withheld_name(kind), wall) or self.knowledge.shows_after_auth(kind):
                return _Showing(kind)
        if self.knowledge.requests(wall) >= MAX_REQUESTS:
            return None
        for form in FORMS:
            if not self.knowledge.is_due(form.name, wall) or not self._is_asked(form, plan, limits):
                continue
            control = self._controls.best(form, without_notes=avoids_notes(form, limits))
            if control is not None:
                wanted = wanted_size(form, plan, limits, single=self.knowledge.finds_first_only(form.subject))
                full = wanted.within(allowed_size(form, limits))
                return _Check(form, control, wanted, full, full)
            self.wants_events = True
            lacking = _Search(Reach.HIGH if form.reach is Reach.HIGH else Reach.LOW)
            if self.knowledge.is_due(lacking.name, wall):
                return lacking
        return None

    def _is_asked(self, form: Form, plan: Plan, limits: Limits) -> bool:
        """Return True if the service uses filters of this form with the relay."""
        if form.subject in DIMENSIONS and not form.names_kinds:
            is_refused = limits.refuses_kindless or limits.withholds or avoids_notes(form, limits)
            is_left = self.knowledge.has_holes(form.subject) and self.knowledge.verdict(form) is not Verdict.HOLES
            if is_refused or is_left:
                return False
        return form.subject is Subject.GLOBAL or any(query.subject is form.subject for query in plan.queries)

    def _has_judged_mentions(self, task: _Check | _Search | _Showing) -> bool:
        if isinstance(task, _Showing):
            return False
        known = self.knowledge
        if known.verdict(FORMS[0]) is not None and known.is_audited(Subject.MENTIONS):
            # What must be asked for by kinds waits until it is known how many a filter may name.
            by_kinds = Form(Subject.MENTIONS, True, Reach.LOW)
            return not known.has_holes(Subject.MENTIONS) or known.verdict(by_kinds) is not None
        return isinstance(task, _Check) and task.form.subject is not Subject.MENTIONS

    # What the answer means.

    def _on_refused(self, check: _Check, refusal: Refusal, limits: Limits, mono: float, wall: int) -> None:
        allowed = allowed_size(check.form, limits)
        smaller = check.size.within(allowed)
        if smaller != check.size:
            check.size, check.full, check.tries = smaller, check.full.within(allowed), 0
        elif refusal.is_lasting or (refusal is not Refusal.RATE_LIMITED and check.tries >= MAX_TRIES):
            self._end(check, check.verdict, wall)
        else:
            # Too many requests at once say nothing of this one.
            check.tries -= refusal is Refusal.RATE_LIMITED
            self._not_before = mono + _PAUSE_S

    def _on_shown(self, task: _Showing, ended: PageEnded, limits: Limits, wall: int) -> Audited:
        self._task = None
        self._shown.add(task.kind)
        before = self.knowledge.shows_after_auth(task.kind)
        if ended.refusal in _WITHHELD or (ended.is_after_auth and not ended.count and ended.refusal is None):
            verdict = Verdict.WITHHELD
        elif ended.refusal is not None:
            verdict = Verdict.UNKNOWN
        else:
            verdict = Verdict.AUTH if ended.is_after_auth else Verdict.WHOLE
        # That it is asked for on each connection is not a check.
        self.knowledge.note(task.name, verdict, wall, 0 if before else 1)
        owes = verdict is Verdict.AUTH and not before
        return Audited(limits, (Subject.MENTIONS, Subject.AUTHORS) if owes else ())

    def _on_full(self, check: _Check, answer: _Answer) -> Audited:
        if not answer.came and check.proven is None:
            check.step = _Step.EXISTS
            return Audited(answer.limits)
        limits = answer.limits
        if answer.came:
            check.proven = check.size
            limits = proven(limits, check.form, check.size)
            larger = larger_size(check.form, check.size, check.wanted, limits)
            if larger is not None:
                check.size = larger
                return Audited(limits)
        return self._end_with(check, Verdict.WHOLE, limits, answer.wall)

    def _on_exists(self, check: _Check, answer: _Answer) -> Audited:
        if not answer.came:
            return self._with_another(check, answer.limits, answer.wall)
        check.step, check.size = _Step.SINGLE, check.full.single
        return Audited(answer.limits)

    def _on_single(self, check: _Check, answer: _Answer) -> Audited:
        if answer.came:
            check.step, check.size = _Step.PAIR, check.full.pair
        elif not answer.timeless:
            return self._end_with(check, Verdict.HOLES, answer.limits, answer.wall)
        elif check.form.names_kinds:
            return self._end_with(check, Verdict.UNKNOWN, answer.limits, answer.wall)
        else:
            check.step = _Step.POINT
        return Audited(answer.limits)

    def _on_point(self, check: _Check, answer: _Answer) -> Audited:
        is_exact = answer.came and not answer.timeless
        return self._end_with(check, Verdict.HOLES if is_exact else Verdict.UNKNOWN, answer.limits, answer.wall)

    def _on_pair(self, check: _Check, answer: _Answer) -> Audited:
        if not answer.came:
            return self._end_with(check, Verdict.FIRST_VALUE, answer.limits, answer.wall)
        check.step, check.size = _Step.HALF, check.full.halved()
        return Audited(answer.limits)

    def _on_half(self, check: _Check, answer: _Answer) -> Audited:
        if not answer.came and check.size != check.size.single:
            check.size = check.size.halved()
            return Audited(answer.limits)
        limits = narrowed(answer.limits, check.form, check.size)
        return self._end_with(check, Verdict.WHOLE, limits, answer.wall, owes=True)

    def _with_another(self, check: _Check, limits: Limits, wall: int) -> Audited:
        """Begin again with another event, if there is one."""
        self._controls.spend(check.control)
        control = self._controls.best(check.form, without_notes=avoids_notes(check.form, limits))
        if control is None or check.proven is not None or check.controls >= MAX_CONTROLS:
            return self._end_with(check, check.verdict, limits, wall)
        check.control, check.step, check.size = control, _Step.FULL, check.full
        check.controls += 1
        return Audited(limits)

    def _end_with(self, check: _Check, verdict: Verdict, limits: Limits, wall: int, *, owes: bool = False) -> Audited:
        form, known = check.form, self.knowledge
        if verdict is Verdict.HOLES:
            # What names kinds already, or selects by nothing else, can be asked for in no other form.
            owes = not known.has_holes(form.subject) and form.subject in DIMENSIONS and not form.names_kinds
        elif verdict is Verdict.FIRST_VALUE:
            owes = not known.finds_first_only(form.subject)
        self._end(check, verdict, wall)
        return Audited(limits, (form.subject,) if owes else ())

    def _end(self, check: _Check, verdict: Verdict, wall: int) -> None:
        self.knowledge.note(check.form.name, verdict, wall, check.requests)
        self._task = None


def _alone(kind: int, plan: Plan) -> Filter:
    """Return the filter for one kind of messages, to one user if there is any: some relays demand a name."""
    users = (member for query in plan.queries if query.subject is Subject.MENTIONS for member in query.members)
    user = next((member.public_key.hex() for member in users), None)
    return Filter(kinds=frozenset({kind}), tags=() if user is None else (("p", frozenset({user})),), limit=1)


_HANDLERS: Final[dict[_Step, Callable[[FormAudit, _Check, _Answer], Audited]]] = {
    _Step.FULL: FormAudit._on_full,
    _Step.EXISTS: FormAudit._on_exists,
    _Step.SINGLE: FormAudit._on_single,
    _Step.POINT: FormAudit._on_point,
    _Step.PAIR: FormAudit._on_pair,
    _Step.HALF: FormAudit._on_half,
}
