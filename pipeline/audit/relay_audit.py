"""The audit of one relay: sets of ids where it compares them (NIP-77), else page by page; everything is judged."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pipeline.audit.client import AuditPage, RelayClient
from pipeline.audit.findings import Answer, Suspect
from pipeline.audit.judge import Judge, Judged
from pipeline.audit.walk import PAGE_LIMIT, Aspect, FormHabits, Question, Walk
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.negentropy import ItemSet
from pipeline.relay.refusals import RelayRefusal
from pipeline.rules.relevance import Rule
from pipeline.store.audits import AuditSubject
from pipeline.store.relay_records import RelayRecord

# Keys of one comparison, and ids of one page.
MAX_COMPARED: Final = 100
IDS_PER_PAGE: Final = 100
MAX_ANSWER_BYTES: Final = 64 << 20
"""Of the pages of one question: all are kept until they are judged, and a relay may send whatever it likes."""
MAX_SUSPECT_BYTES: Final = 64 << 20
"""Of one relay, which are kept to the end of the audit; it is asked no more then."""
MAX_REFUSED: Final = 3
"""So many questions refused one after the other, and the relay is asked no more."""
NOT_RETURNED: Final = "named, not returned"
"""Reason for ids that a relay names in a comparison and does not return."""
MALFORMED: Final = "malformed"
UNASKED: Final = "not asked for"
_OF_COMPARISON: Final = "comparison:"

Held = Mapping[bytes, Sequence[tuple[int, bytes]]]
"""Time and id of what is held, by author."""
Holdings = Callable[[Sequence[bytes]], Held]
"""What is held of some authors."""


@dataclass(frozen=True, slots=True)
class Span:
    """What an audit is about: from when to when (Unix seconds, both included)."""

    since: int
    until: int


class RelayAudit:
    """Puts questions to one relay; `on_answer` takes each answer with the events that seem to be missing."""

    def __init__(
        self, record: RelayRecord, client: RelayClient, judge: Judge, span: Span,
        on_answer: Callable[[Answer, Sequence[Suspect]], None],
    ) -> None:  # fmt: skip
        self._record = record
        self._client = client
        self._judge = judge
        self._span = span
        self._on_answer = on_answer
        self._knowledge = {subject: FormHabits() for subject in Aspect}
        # Questions refused one after the other, and the last reason.
        self._refused = 0
        self._why_refused = ""
        self._suspect_bytes = 0

    def run(self, subjects: Sequence[AuditSubject], done: frozenset[str], held: Holdings) -> str:
        """Ask about `subjects` what is not `done`; return why not everything was asked, empty if it was.

        `held`: what is held of some of them. Raises `DialError`, `ConnectionLost`,
        `AskedTooLong` or `Interrupted`.
        """
        questions = list(self._questions(subjects, done))
        compared = self._compare([each for each in questions if each[0].subject is Aspect.AUTHOR], held)
        for question, subject in questions:
            if question.name in compared:
                continue
            if self._is_full:
                return f"more than {MAX_SUSPECT_BYTES:,} bytes seem to be missing"
            self._walk(question, subject)
            if self._refused >= MAX_REFUSED:
                return self._why_refused
        return ""

    @property
    def _is_full(self) -> bool:
        return self._suspect_bytes > MAX_SUSPECT_BYTES

    def _questions(
        self, subjects: Sequence[AuditSubject], done: frozenset[str]
    ) -> Iterator[tuple[Question, AuditSubject]]:
        for each in subjects:
            for subject in (Aspect.AUTHOR, Aspect.MENTION) if each.is_user else (Aspect.AUTHOR,):
                question = Question(subject, each.key, self._span.since, self._span.until)
                if question.name not in done:
                    yield question, each

    # AuditPage by page.

    def _walk(self, question: Question, subject: AuditSubject) -> None:
        walk = Walk(question, self._knowledge[question.subject])
        aside: Counter[str] = Counter()
        size = 0
        while walk.part is not None:
            page = self._client.page(replace(walk.filter(), limit=self._page_limit))
            aside[MALFORMED] += page.malformed
            aside[UNASKED] += page.returned - page.malformed - len(page.events)
            self._take(walk, page)
            size += page.bytes
            if size > MAX_ANSWER_BYTES:
                walk.abandon(f"more than {MAX_ANSWER_BYTES:,} bytes")
        judged = self._judge_events(walk.events.values(), question, subject)
        self._answer(question, subject, judged, aside, walk)

    def _take(self, walk: Walk, page: AuditPage) -> None:
        if page.refusal is None:
            self._refused = 0
            walk.take(page.returned, page.events)
            return
        why = f"{page.refusal}: {page.detail}"
        walk.keep(page.events)
        walk.refuse(why, lacks_kinds=page.refusal is RelayRefusal.KINDLESS)
        if page.refusal is not RelayRefusal.KINDLESS:
            self._refused += 1
            self._why_refused = why
            if page.refusal.is_lasting or self._refused >= MAX_REFUSED:
                walk.abandon(why)

    @property
    def _page_limit(self) -> int:
        return min(PAGE_LIMIT, self._client.limits.page_limit)

    # As sets.

    def _compare(self, questions: Sequence[tuple[Question, AuditSubject]], held: Holdings) -> set[str]:
        """Return the names of the questions that a comparison answered."""
        answered: set[str] = set()
        if self._client.limits.negentropy_failed_at:
            return answered
        for first in range(0, len(questions), MAX_COMPARED):
            part = questions[first : first + MAX_COMPARED]
            keys = [question.key for question, _ in part]
            if self._is_full or not self._compare_part(part, held(keys)):
                break
            answered.update(question.name for question, _ in part)
        return answered

    def _compare_part(self, questions: Sequence[tuple[Question, AuditSubject]], held: Held) -> bool:
        query = Filter(
            authors=frozenset(question.key for question, _ in questions),
            since=self._span.since, until=self._span.until,
        )  # fmt: skip
        items = {item for question, _ in questions for item in held.get(question.key, ())}
        found = self._client.compare(query, ItemSet(items))
        if found is None or not self._is_confirmed(query, items, found.need):
            return False
        events = self._fetch(sorted(found.need))
        if events is None:
            return False
        by_author: dict[bytes, list[Event]] = {}
        for event in events:
            if query.matches(event):
                by_author.setdefault(event.pubkey, []).append(event)
        for question, subject in questions:
            had = tuple(item for item in held.get(question.key, ()) if item[1] not in found.have)
            judged = self._judge_events(by_author.get(question.key, ()), question, subject)
            judged = Judged((*had, *judged.had), judged.candidates, judged.excluded)
            self._answer(question, subject, judged, Counter(), None)
        missing = len(found.need) - len({event.id for event in events})
        if missing and questions:
            rule = _rule(*questions[0])
            name = f"{_OF_COMPARISON}{questions[0][0].key.hex()}"
            self._on_answer(Answer(self._record.relay, name, rule, excluded={NOT_RETURNED: missing}, by_ids=True), ())
        return True

    def _is_confirmed(self, query: Filter, items: set[tuple[int, bytes]], need: set[bytes]) -> bool:
        """Return True unless a page has an event that the comparison did not name: it leaves some out."""
        page = self._client.page(replace(query, limit=self._page_limit))
        known = {event_id for _, event_id in items} | need
        return page.refusal is not None or {event.id for event in page.events} <= known

    def _fetch(self, ids: Sequence[bytes]) -> list[Event] | None:
        """Return what the relay returns of these ids; None if it refuses to, or sends too much."""
        most = min(IDS_PER_PAGE, self._client.limits.max_ids, self._page_limit)
        events: list[Event] = []
        size = 0
        for first in range(0, len(ids), most):
            asked = frozenset(ids[first : first + most])
            page = self._client.page(Filter(ids=asked, limit=len(asked)))
            size += page.bytes
            if page.refusal is not None or size > MAX_ANSWER_BYTES:
                return None
            events += page.events
        return events

    def _judge_events(self, events: Iterable[Event], question: Question, subject: AuditSubject) -> Judged:
        record, rule = self._record, _rule(question, subject)
        return self._judge.judge(events, subject, rule, record.relay, record.crawled_since or 0)

    def _answer(
        self, question: Question, subject: AuditSubject, judged: Judged, more: Counter[str], walk: Walk | None
    ) -> None:
        excluded = {reason: count for reason, count in (judged.excluded + more).items() if count}
        self._suspect_bytes += sum(len(each.raw) for each in judged.candidates)
        self._on_answer(
            Answer(
                self._record.relay, question.name, _rule(question, subject), judged.had, excluded,
                () if walk is None else tuple(walk.unproven), by_ids=walk is None,
            ),
            judged.candidates,
        )  # fmt: skip


def _rule(question: Question, subject: AuditSubject) -> Rule:
    if question.subject is Aspect.MENTION:
        return Rule.MENTION
    return Rule.USER if subject.is_user else Rule.FOLLOWEE


def is_step(name: str) -> bool:
    """Return True if an answer of that name is to a question, and not what a comparison left over."""
    return not name.startswith(_OF_COMPARISON)
