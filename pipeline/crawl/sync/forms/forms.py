"""Forms of filters: by what a filter selects, and what controls showed of how a relay answers it. Pure.

A form is answered *with holes* when an event that the relay holds, and that the filter matches, does not come back.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pipeline.crawl.sync.asked_kinds import HIDDEN_KINDS, LISTED_KINDS
from pipeline.crawl.sync.paging.slices import Manners
from pipeline.crawl.sync.query import Subject
from pipeline.nostr.event import MAX_KIND
from pipeline.nostr.kinds import FIRST_ADDRESSABLE
from pipeline.store.relay_forms import FormCheck

# A form is checked no more often than this (seconds); one with holes less often, as everything is then asked for again.
CHECK_EVERY_S: Final = 86_400
CHECK_HOLES_EVERY_S: Final = 7 * CHECK_EVERY_S
# Lists of kinds that an empty answer is checked with each time.
_FEW_LISTS: Final = 4
# Lists of kinds in which all that there may be are asked for, once for a span.
_MOST_LISTS: Final = 210


class FormVerdict(StrEnum):
    """What the controls of a form showed."""

    WHOLE = "whole"
    """Each control came back."""
    HOLES = "holes"
    """A control did not come back, even when its value was the only one."""
    FIRST_VALUE = "first-value"
    """Only what the first value of a list selects came back."""
    UNKNOWN = "unknown"
    """The relay refused the control, or its answer proves nothing."""

    WITHHELD = "withheld"
    """Events of the kind are not shown to us."""
    AUTH = "auth"
    """They are shown once we authenticate (NIP-42), on each connection again."""


class Reach(StrEnum):
    """Which events a form is checked with."""

    LOW = "low"
    """Kinds below 30000."""
    MIXED = "mixed"
    """The same, of a value that also selects an older event of a higher kind."""
    HIGH = "high"
    """Kinds from 30000 on."""

    def includes(self, kind: int) -> bool:
        """Return True if an event of `kind` belongs to it."""
        return (kind >= FIRST_ADDRESSABLE) == (self is Reach.HIGH)


@dataclass(frozen=True, slots=True)
class Form:
    """A form of filter: what it is about, whether it names kinds, and for which events it is checked."""

    subject: Subject
    names_kinds: bool
    reach: Reach

    @property
    def name(self) -> str:
        """The name under which its check is stored."""
        return f"{self.subject}{'+kinds' if self.names_kinds else ''}/{self.reach}"


BROAD: Final = Form(Subject.GLOBAL, True, Reach.LOW)
"""What names neither authors nor users."""
# The most important first: what the service asks most, and where stores were seen to leave events out.
FORMS: Final = (
    Form(Subject.MENTIONS, False, Reach.LOW),
    Form(Subject.MENTIONS, False, Reach.HIGH),
    Form(Subject.MENTIONS, False, Reach.MIXED),
    Form(Subject.MENTIONS, True, Reach.LOW),
    Form(Subject.AUTHORS, False, Reach.LOW),
    Form(Subject.MENTIONS, True, Reach.HIGH),
    Form(Subject.AUTHORS, False, Reach.HIGH),
    Form(Subject.AUTHORS, True, Reach.LOW),
    BROAD,
    Form(Subject.FIREHOSE, False, Reach.LOW),
    Form(Subject.AUTHORS, True, Reach.HIGH),
)


_BY_MEMBER: Final = frozenset({Subject.AUTHORS, Subject.MENTIONS})


def withheld_name(kind: int) -> str:
    """Return the name of the check whether a kind is shown to us."""
    return f"shown/{kind}"


class FormKnowledge:
    """What is known of one relay's forms, over all its connections."""

    __slots__ = ("_changed", "_checks")

    def __init__(self) -> None:
        self._checks: dict[str, FormCheck] = {}
        self._changed: dict[str, FormCheck] = {}

    def recall(self, checks: Iterable[FormCheck]) -> None:
        """Take what was stored of the checks of former processes."""
        self._checks |= {check.form: check for check in checks}

    def note(self, name: str, verdict: FormVerdict, wall: int, requests: int) -> None:
        """Take note of a check that ended at `wall` (Unix seconds) and took so many requests."""
        self._checks[name] = self._changed[name] = FormCheck(name, verdict.value, wall, requests)

    def take_changes(self) -> tuple[FormCheck, ...]:
        """Return the checks to be stored that ended since the last call."""
        changed = tuple(self._changed.values())
        self._changed.clear()
        return changed

    def is_due(self, name: str, wall: int) -> bool:
        """Return True if the form, or the search, of this name may be asked now."""
        check = self._checks.get(name)
        if check is None:
            return True
        every = CHECK_HOLES_EVERY_S if check.verdict == FormVerdict.HOLES else CHECK_EVERY_S
        return not 0 <= wall - check.checked_at < every

    def verdict(self, form: Form) -> FormVerdict | None:
        """Return what the last check of `form` showed; `None` if there was none."""
        check = self._checks.get(form.name)
        return None if check is None else FormVerdict(check.verdict)

    def requests(self, wall: int) -> int:
        """Return how many requests the checks of the last day took."""
        return sum(check.requests for check in self._checks.values() if 0 <= wall - check.checked_at < CHECK_EVERY_S)

    def has_holes(self, subject: Subject, *, names_kinds: bool = False) -> bool:
        """Return True if a filter about `subject` leaves out events, with kinds or without."""
        return self._any(subject, FormVerdict.HOLES, names_kinds)

    @property
    def answers_kindless(self) -> bool | None:
        """Whether filters without kinds are answered at all, `None` while no control has shown it."""
        verdicts = [self.verdict(form) for form in FORMS if form.subject in _BY_MEMBER and not form.names_kinds]
        if FormVerdict.WHOLE in verdicts or FormVerdict.FIRST_VALUE in verdicts:
            return True
        return False if self.has_holes(Subject.AUTHORS) else None

    def finds_first_only(self, subject: Subject) -> bool:
        """Return True if a filter about `subject` finds what its first value selects only."""
        return self._any(subject, FormVerdict.FIRST_VALUE, False) or self._any(subject, FormVerdict.FIRST_VALUE, True)

    @property
    def first_only(self) -> frozenset[Subject]:
        """The subjects of which a filter finds what its first value selects only."""
        return frozenset(subject for subject in Subject if self.finds_first_only(subject))

    def is_audited(self, subject: Subject) -> bool:
        """Return True if filters without kinds about `subject` were shown to be whole, or not to be."""
        if self.has_holes(subject):
            return True
        low, mixed, high = (self.verdict(Form(subject, False, reach)) for reach in Reach)
        known = (FormVerdict.WHOLE, FormVerdict.FIRST_VALUE)
        return low in known and (mixed in known or high in known)

    def manners(
        self, manners: Manners, subject: Subject, *, is_tail: bool, is_routine: bool, takes_many: bool = False
    ) -> Manners:
        """Return `manners` with what concerns queries about `subject`.

        `is_tail`: the latest events are asked for; `is_routine`: what was also subscribed to meanwhile, so that a form
        that is not audited will do; `takes_many`: it may take some hundred requests.
        """
        is_mentions = subject is Subject.MENTIONS
        first_only = self.finds_first_only(subject)
        # One request for each member is enough; and so is one each time where all kinds take a dozen more.
        believes = first_only or (is_tail and manners.max_kinds * _FEW_LISTS < len(LISTED_KINDS))
        has_holes = self.has_holes(subject)
        is_exact_by_kinds = not self.has_holes(subject, names_kinds=True) and not manners.notes_by_author
        is_possible = manners.max_kinds * _MOST_LISTS >= MAX_KIND
        return replace(
            manners,
            has_holes=has_holes,
            names_all=has_holes and takes_many and not is_tail and is_exact_by_kinds and is_possible,
            is_live=is_routine,
            asks_both=is_mentions and not is_routine and not self.is_audited(subject),
            finds_first_only=first_only,
            withheld=self.withheld,
            believes_empty=believes,
        )

    def shows_after_auth(self, kind: int) -> bool:
        """Return True if a kind was shown once we had authenticated, and not before."""
        check = self._checks.get(withheld_name(kind))
        return check is not None and check.verdict == FormVerdict.AUTH

    @property
    def withheld(self) -> frozenset[int]:
        """The kinds that are not shown to us."""
        checks = {kind: self._checks.get(withheld_name(kind)) for kind in HIDDEN_KINDS}
        return frozenset(kind for kind, check in checks.items() if check and check.verdict == FormVerdict.WITHHELD)

    def _any(self, subject: Subject, verdict: FormVerdict, names_kinds: bool) -> bool:
        return any(
            form.subject is subject and form.names_kinds == names_kinds and self.verdict(form) is verdict
            for form in FORMS
        )
