"""What the audit of forms changes about how one relay is asked. No I/O, no clock.

The audit itself (`forms`) knows of no sweep. `mono` is monotonic seconds, `wall` Unix seconds.
"""

from pipeline.crawl.sync.forms.audit import FormAudit
from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.open_gaps import OpenGaps
from pipeline.crawl.sync.query import Subject
from pipeline.crawl.sync.strategy import FetchStrategy
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.nostr.message import EventMessage
from pipeline.relay.limits import RelayLimits
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded
from pipeline.store.relay_forms import FormChanges


class FormLessons:
    """Feeds the audit with events, and lets sweeps, cursors and strategy follow what it finds."""

    __slots__ = ("_audit", "_gaps", "_known", "_owed", "_strategy", "_sweeps")

    def __init__(
        self, audit: FormAudit, known: RelayKnowledge, sweeps: SweepSet, strategy: FetchStrategy, gaps: OpenGaps
    ) -> None:
        self._audit = audit
        self._known = known
        self._sweeps = sweeps
        self._strategy = strategy
        self._gaps = gaps
        # Subjects of which cursors were taken back that are stored yet.
        self._owed: list[Subject] = []

    def takes(self, message: EventMessage, session: Session) -> bool:
        """Take note of an event; returns whether it is to be saved, rather than asked for to serve as a control."""
        audit = self._audit
        if audit.is_searching and session.key_of(message.subscription) == FormAudit.KEY:
            audit.note_event(message.event)
            return False
        if audit.wants_events:
            audit.note_event(message.event)
        return True

    def on_page_ended(self, ended: PageEnded, session: Session, mono: float, wall: int) -> None:
        """Ask from now on as the audit of forms found to be right, and once more for what was asked otherwise."""
        audited = self._audit.on_page_ended(ended, session.limits, mono, wall)
        limits = self._known.quirks.learn_forms(self._known.forms, audited.limits)
        self._known.limits.learn(limits)
        for sweep in self._sweeps.in_order():
            sweep.window.allow_kinds(audited.limits.kinds_that_fit)
        if self._known.forms.has_holes(Subject.FIREHOSE):
            self._strategy.disable_firehose()
        if audited.answers_broad is not None:
            self._gaps.note_broad(answers=audited.answers_broad)
        for subject in audited.owed:
            self._owed.append(subject)
            self._sweeps.owe(subject, session, mono)

    def take_changes(self, limits: RelayLimits) -> FormChanges:
        """Return what the audit of forms found, to be committed with or after the events before it."""
        checks, owed = self._known.forms.take_changes(), tuple(subject.value for subject in self._owed)
        self._owed.clear()
        return FormChanges(checks, owed, limits.to_json() if owed else "")
