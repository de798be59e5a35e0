"""Finds out by control which forms of filters a relay answers with holes. No I/O, no clock.

The checks of one relay's forms come one after another, the most important first, in a few requests a day: which form is
due, an event to check it with, a search for such events where the relay gave none by itself. How one check goes is told
in `check.py`.

A search asks for controls by kinds alone. A relay that gave something of these kinds by author, and now gives nothing,
does not answer filters as broad as that.

Before all that, each kind of messages is asked for alone: a relay that leaves them out of other answers without a word
then demands AUTH (NIP-42). They are withheld if that is not enough, or nothing comes even then. Silence ends the audit
for an hour. But where a relay twice begins to answer a form without kinds and does not come to an end, as some stores
search for ever, that form has holes: each such request keeps the relay busy.

`wall` is Unix seconds, `mono` monotonic seconds.
"""

from dataclasses import dataclass
from typing import Final

from pipeline.crawl.sync.asked_kinds import HIDDEN_KINDS
from pipeline.crawl.sync.forms.check import Check, Found
from pipeline.crawl.sync.forms.controls import Controls, search
from pipeline.crawl.sync.forms.filters import DIMENSIONS, allowed_size, avoids_notes, wanted_size
from pipeline.crawl.sync.forms.forms import BROAD, FORMS, Form, FormKnowledge, FormVerdict, Reach, withheld_name
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.query import Subject
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded

# Requests for controls a relay and day.
MAX_REQUESTS: Final = 30
_WITHHELD: Final = frozenset(
    {RelayRefusal.AUTH_REQUIRED, RelayRefusal.RESTRICTED, RelayRefusal.FORBIDDEN, RelayRefusal.KIND_REFUSED}
)
# What was refused is asked again after this (seconds), and what was not answered at all: it keeps others waiting.
_PAUSE_S: Final = 5.0
_SILENT_PAUSE_S: Final = 3_600.0
# When nothing can be checked, the events that come are looked through for controls this often, not each by itself.
_LOOK_EVERY_S: Final = 5.0


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
class Audited:
    """What an answer means for the crawl: the relay's limits, and what was not answered and is owed again."""

    limits: RelayLimits
    owed: tuple[Subject, ...] = ()
    answers_broad: bool | None = None
    """Whether a filter that names kinds alone is answered, if that was found out."""


class FormAudit:
    """The checks of one relay's forms, over all its connections: one request at a time."""

    KEY: Final = "form-control"

    __slots__ = (
        "_controls", "_has_skipped", "_is_open", "_look_at", "_looked_for", "_not_before", "_shown", "_task",
        "knowledge", "precedes_mentions", "wants_events",
    )  # fmt: skip

    def __init__(self, knowledge: FormKnowledge) -> None:
        self.knowledge = knowledge
        self.precedes_mentions = False
        """Whether what mentions users should be asked for when the checks of that are over."""
        self.wants_events = True
        """Whether events are of use that the relay gives for other reasons."""
        self._controls = Controls()
        self._task: Check | _Search | _Showing | None = None
        # Kinds of messages that were asked for on this connection.
        self._shown: set[int] = set()
        self._is_open = False
        self._not_before = 0.0
        # When and for what to look for a task after a look that found none, and whether one was left out since. Which
        # plan it was is told by its identity: a relay that is lost keeps no old plan, which may name a million.
        self._look_at = 0.0
        self._looked_for = (0, 0)
        self._has_skipped = False

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
        self._not_before = self._look_at = 0.0
        self._shown.clear()

    def open_next(self, plan: Plan, session: Session, mono: float, wall: int) -> None:
        """Ask for the next control, if one is due and there is room."""
        if self._is_open:
            return
        if isinstance(self._task, Check):
            self._bound(self._task, wall)
        if self._task is None:
            self._look(plan, session.limits, mono, wall)
        task = self._task
        is_silent = mono < self._not_before - _PAUSE_S
        self.precedes_mentions = task is not None and not is_silent and not self._has_judged_mentions(task)
        if task is None or mono < self._not_before or not session.has_room_for_page():
            return
        self._is_open = True
        if not isinstance(task, Check):
            page = search(task.reach) if isinstance(task, _Search) else _alone(task.kind, plan)
            session.open_page(self.KEY, page, mono)
            return
        watched = frozenset({task.control.id})
        session.open_page(self.KEY, task.open(plan, session.limits), mono, watched=watched)

    def due_times(self) -> list[float]:
        """Return when (monotonic) a step that was put off is asked again."""
        if self._task is None:
            return [self._look_at] if self._has_skipped else []
        return [] if self._is_open else [self._not_before]

    def on_page_ended(self, ended: PageEnded, limits: RelayLimits, mono: float, wall: int) -> Audited:
        """Take the answer to the last request."""
        task, self._is_open = self._task, False
        if ended.refusal is RelayRefusal.TIMEOUT and isinstance(task, Check) and _breaks_off(task.form, ended):
            return self._on_broken_off(task, limits, mono, wall)
        if ended.refusal is RelayRefusal.TIMEOUT:
            self._task, self._not_before = None, mono + _SILENT_PAUSE_S
            return Audited(limits)
        if isinstance(task, _Showing):
            return self._on_shown(task, ended, limits, wall)
        if isinstance(task, _Search):
            return self._on_searched(task, ended, limits, wall)
        if task is not None and ended.refusal is not None:
            self._on_refused(task, ended.refusal, limits, mono, wall)
        elif task is not None:
            return self._on_found(task, task.on_answer(ended, limits), wall)
        return Audited(limits)

    # What to ask.

    def _bound(self, check: Check, wall: int) -> None:
        """End a check that takes more requests than are left for today, or that is not answered."""
        if check.is_hopeless or (check.requests and self.knowledge.requests(wall) + check.requests >= MAX_REQUESTS):
            self._end(check, check.verdict, wall)

    def _look(self, plan: Plan, limits: RelayLimits, mono: float, wall: int) -> None:
        """Look for a task, unless a look at the same plan and limits found none a moment ago."""
        look_for = (id(plan), id(limits))
        self._has_skipped = look_for == self._looked_for and mono < self._look_at
        if not self._has_skipped:
            self._task = self._next_task(plan, limits, wall)
            self._look_at = mono + _LOOK_EVERY_S if self._task is None else 0.0
            self._looked_for = look_for

    def _next_task(self, plan: Plan, limits: RelayLimits, wall: int) -> Check | _Search | _Showing | None:
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
                return Check(form, control, wanted, full, full)
            self.wants_events = True
            lacking = _Search(Reach.HIGH if form.reach is Reach.HIGH else Reach.LOW)
            if self.knowledge.is_due(lacking.name, wall):
                return lacking
        return None

    def _is_asked(self, form: Form, plan: Plan, limits: RelayLimits) -> bool:
        """Return True if the service uses filters of this form with the relay."""
        if form.subject in DIMENSIONS and not form.names_kinds:
            is_withheld = limits.withholds and not limits.gives_shown
            is_refused = limits.refuses_kindless or is_withheld or avoids_notes(form, limits)
            is_left = self.knowledge.has_holes(form.subject) and self.knowledge.verdict(form) is not FormVerdict.HOLES
            if is_refused or is_left:
                return False
        return form.subject is Subject.GLOBAL or form.subject in plan.subjects

    def _has_judged_mentions(self, task: Check | _Search | _Showing) -> bool:
        if isinstance(task, _Showing):
            return False
        known = self.knowledge
        if known.verdict(FORMS[0]) is not None and known.is_audited(Subject.MENTIONS):
            # What must be asked for by kinds waits until it is known how many a filter may name.
            by_kinds = Form(Subject.MENTIONS, True, Reach.LOW)
            return not known.has_holes(Subject.MENTIONS) or known.verdict(by_kinds) is not None
        return isinstance(task, Check) and task.form.subject is not Subject.MENTIONS

    # What the answer means.

    def _on_refused(self, check: Check, refusal: RelayRefusal, limits: RelayLimits, mono: float, wall: int) -> None:
        if check.on_refused(refusal, limits):
            self._not_before = mono + _PAUSE_S
        elif check.is_hopeless:
            self._end(check, check.verdict, wall)

    def _on_broken_off(self, check: Check, limits: RelayLimits, mono: float, wall: int) -> Audited:
        """Ask once more for what was begun and not ended; if that happens again, another form is the better one."""
        if check.is_hopeless:
            return self._on_found(check, Found(limits, FormVerdict.HOLES), wall)
        self._not_before = mono + _PAUSE_S
        return Audited(limits)

    def _on_shown(self, task: _Showing, ended: PageEnded, limits: RelayLimits, wall: int) -> Audited:
        self._task = None
        self._shown.add(task.kind)
        before = self.knowledge.shows_after_auth(task.kind)
        if ended.refusal in _WITHHELD or (ended.is_after_auth and not ended.count and ended.refusal is None):
            verdict = FormVerdict.WITHHELD
        elif ended.refusal is not None:
            verdict = FormVerdict.UNKNOWN
        else:
            verdict = FormVerdict.AUTH if ended.is_after_auth else FormVerdict.WHOLE
        # That it is asked for on each connection is not a check.
        self.knowledge.note(task.name, verdict, wall, 0 if before else 1)
        owes = verdict is FormVerdict.AUTH and not before
        return Audited(limits, (Subject.MENTIONS, Subject.AUTHORS) if owes else ())

    def _on_searched(self, task: _Search, ended: PageEnded, limits: RelayLimits, wall: int) -> Audited:
        self._task = None
        self.knowledge.note(task.name, FormVerdict.UNKNOWN, wall, 1)
        if ended.refusal is not None or ended.count or ended.strangers or not self._controls.has_of(task.reach):
            return Audited(limits)
        self.knowledge.note(BROAD.name, FormVerdict.HOLES, wall, 0)
        return Audited(limits, answers_broad=False)

    def _on_found(self, check: Check, found: Found, wall: int) -> Audited:
        verdict = found.verdict
        if found.needs_another:
            self._controls.spend(check.control)
            control = self._controls.best(check.form, without_notes=avoids_notes(check.form, found.limits))
            verdict = None if control is not None and check.begin_with(control) else check.verdict
        if verdict is None:
            return Audited(found.limits)
        owes = found.owes or self._owes(check.form, verdict)
        self._end(check, verdict, wall)
        is_known = check.form == BROAD and verdict in (FormVerdict.WHOLE, FormVerdict.HOLES)
        answers_broad = verdict is FormVerdict.WHOLE if is_known else None
        return Audited(found.limits, (check.form.subject,) if owes else (), answers_broad)

    def _owes(self, form: Form, verdict: FormVerdict) -> bool:
        """Return True if what was asked in this form is to be asked again in another."""
        known = self.knowledge
        if verdict is FormVerdict.HOLES:
            # What names kinds already, or selects by nothing else, can be asked for in no other form.
            return not known.has_holes(form.subject) and form.subject in DIMENSIONS and not form.names_kinds
        return verdict is FormVerdict.FIRST_VALUE and not known.finds_first_only(form.subject)

    def _end(self, check: Check, verdict: FormVerdict, wall: int) -> None:
        self.knowledge.note(check.form.name, verdict, wall, check.requests)
        self._task = None


def _breaks_off(form: Form, ended: PageEnded) -> bool:
    """Return True if the relay began to answer a form that there is another for: its search does not come to an end."""
    has_begun = ended.count or ended.newer or ended.older or ended.strangers
    return bool(has_begun) and form.subject in DIMENSIONS and not form.names_kinds


def _alone(kind: int, plan: Plan) -> Filter:
    """Return the filter for one kind of messages, to one user if there is any: some relays demand a name."""
    users = (member for query in plan.queries if query.subject is Subject.MENTIONS for member in query.members[:1])
    user = next((member.public_key.hex() for member in users), None)
    return Filter(kinds=frozenset({kind}), tags=() if user is None else (("p", frozenset({user})),), limit=1)
