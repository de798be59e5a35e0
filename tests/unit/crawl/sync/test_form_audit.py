"""The audit of forms against stores that leave events out: what it finds, what it asks, what it makes owed."""

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import orjson
import pytest

from pipeline.crawl.sync.asked_kinds import ALL_KINDS, HIDDEN_KINDS
from pipeline.crawl.sync.forms.audit import MAX_REQUESTS, FormAudit
from pipeline.crawl.sync.forms.controls import Control, Controls
from pipeline.crawl.sync.forms.forms import BROAD, FORMS, Form, FormKnowledge, FormVerdict, Reach
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.query import Subject
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter, parse_filter
from pipeline.nostr.message import Closed, Eose, encode_req
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import MOST_KINDS, RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session, SessionEvent
from pipeline.relay.subscription import NEXT_ANSWER_S, PageEnded
from pipeline.store.relay_forms import FormCheck
from tests.support.plans import event, key, plan_for
from tests.support.seeds import seeds
from tests.support.stored_events import FirstValueEvents, KindFirstEvents, NarrowEvents, ShortListEvents, StoredEvents

NOW = 1_700_000_000
USERS = [key(n) for n in range(1, 151)]
AUTHORS = [key(1000 + n) for n in range(300)]
MENTIONS_LOW = Form(Subject.MENTIONS, False, Reach.LOW)
SHOWN_KINDS = len(ALL_KINDS - HIDDEN_KINDS)


def world(seed: int = 1) -> list[Event]:
    """Two hundred events by authors, most of which mention users, of low and of high kinds."""
    rng = random.Random(seed)
    kinds = (1, 1, 1, 7, 9735, 3, 30023, 30000)
    return [
        event(NOW - rng.randrange(60, 86_400), rng.choice(AUTHORS), rng.choice(kinds), n, [rng.choice(USERS)])
        for n in range(200)
    ]


@dataclass
class Bench:
    """An audit, a session and a store that answers it."""

    store: StoredEvents
    plan: Plan = field(default_factory=lambda: plan_for(AUTHORS, USERS))
    knowledge: FormKnowledge = field(default_factory=FormKnowledge)
    session: Session = field(default_factory=lambda: Session(LearnedLimits(RelayLimits())))
    wall: int = NOW
    mono: float = 0.0
    requests: list[Filter] = field(default_factory=list)
    owed: list[Subject] = field(default_factory=list)
    broad: list[bool | None] = field(default_factory=list)
    refusal: str = ""
    most_kinds: int = 1_000
    searches_for_ever: Callable[[Filter], bool] = lambda _: False

    def __post_init__(self) -> None:
        self.audit = FormAudit(self.knowledge)

    def run(self) -> "Bench":
        """Let the audit ask until it has nothing to ask."""
        while True:
            self.audit.open_next(self.plan, self.session, self.mono, self.wall)
            if not self.session.outgoing:
                if any(at > self.mono for at in self.audit.due_times()):
                    self.mono = min(self.audit.due_times())
                    continue
                return self
            while self.session.outgoing:
                self._answer(self.session.outgoing.popleft())

    def _answer(self, frame: str) -> None:
        kind, subscription, *values = orjson.loads(frame)
        if kind != "REQ":
            return
        self.requests.append(asked := parse_filter(values[0]))
        # In the order of its lists, as a store reads them.
        listed = Filter(
            asked.ids, asked.authors, asked.kinds, asked.tags, asked.since, asked.until, asked.limit,
            last=tuple(value for name in ("authors", "kinds", "#p") for value in values[0].get(name, ())[-1:]),
        )  # fmt: skip
        refusal = self.refusal or ("error" if len(asked.kinds or ()) > self.most_kinds else "")
        answer = Closed(subscription, refusal, "") if refusal else Eose(subscription)
        for each in [] if refusal else self.store.page(listed):
            self.session.note_event(subscription, each, self.mono)
            if self.audit.is_searching:
                self.audit.note_event(each)
        for outcome in list(self._end(answer, asked)):
            assert isinstance(outcome, PageEnded)
            audited = self.audit.on_page_ended(outcome, self.session.limits, self.mono, self.wall)
            self.session.learn(audited.limits)
            self.owed += audited.owed
            self.broad.append(audited.answers_broad)

    def _end(self, answer: Closed | Eose, asked: Filter) -> Iterator[SessionEvent]:
        if not self.searches_for_ever(asked):
            return self.session.receive(answer, self.mono)
        self.mono += NEXT_ANSWER_S
        return self.session.on_timeout(self.mono)


def recalled(checks: Iterable[FormCheck]) -> FormKnowledge:
    knowledge = FormKnowledge()
    knowledge.recall(checks)
    return knowledge


def _mentions_kindless(asked: Filter) -> bool:
    return bool(asked.tags) and asked.kinds is None


def store(kind: type[StoredEvents] = StoredEvents, seed: int = 1) -> StoredEvents:
    return kind(random.Random(seed), world(seed))


def test_whole_store_is_audited_with_few_requests_and_owes_nothing() -> None:
    bench = Bench(store()).run()
    verdicts = {form.name: bench.knowledge.verdict(form) for form in FORMS if form.subject is not Subject.FIREHOSE}
    assert set(verdicts.values()) == {FormVerdict.WHOLE}
    assert bench.knowledge.is_audited(Subject.MENTIONS)
    assert not bench.owed
    assert len(bench.requests) <= 20
    assert bench.session.limits.max_kinds >= SHOWN_KINDS


def test_control_stands_last_in_lists_of_full_size_over_its_second() -> None:
    bench = Bench(store()).run()
    by_id = {each.id: each for each in bench.store.events}
    full = [each for each in bench.requests if each.tags and len(each.tags[0][1]) > 1]
    assert all(len(each.tags[0][1]) == len(USERS) for each in full)
    assert {len(each.kinds or ()) for each in full} == {0, 10, 80, SHOWN_KINDS}
    for each in full:
        assert each.since is not None
        assert each.until == each.since + 2
        assert any(each.matches(control) for control in by_id.values())


@pytest.mark.parametrize("seed", range(5))
def test_store_that_reads_kinds_as_times_is_found_out_and_owes_mentions(seed: int) -> None:
    bench = Bench(store(KindFirstEvents, seed)).run()
    assert bench.knowledge.has_holes(Subject.MENTIONS)
    assert not bench.knowledge.has_holes(Subject.MENTIONS, names_kinds=True)
    assert not bench.knowledge.has_holes(Subject.AUTHORS)
    assert bench.owed == [Subject.MENTIONS]
    assert len(bench.requests) <= MAX_REQUESTS


@pytest.mark.parametrize("seed", range(5))
def test_low_kinds_alone_find_out_a_store_that_reads_kinds_as_times(seed: int) -> None:
    """No event of a high kind is there to be asked for."""
    rng = random.Random(seed)
    events = [
        event(NOW - 60 - n * 97, rng.choice(AUTHORS), rng.choice((1, 7, 9735)), n, [rng.choice(USERS[:4])])
        for n in range(60)
    ]
    bench = Bench(KindFirstEvents(rng, events)).run()
    assert bench.knowledge.has_holes(Subject.MENTIONS)


def test_silent_limits_of_lists_are_halved_until_the_control_comes_back() -> None:
    bench = Bench(store(ShortListEvents)).run()
    assert not bench.knowledge.has_holes(Subject.MENTIONS)
    assert bench.session.limits.max_tag_values == 75
    assert bench.session.limits.max_kinds == 10
    assert Subject.MENTIONS in bench.owed
    assert len(bench.requests) <= MAX_REQUESTS


@pytest.mark.parametrize(("most", "found"), [(25, 20), (50, 40), (100, 80), (250, MOST_KINDS)])
def test_step_to_more_kinds_that_was_too_long_is_followed_by_a_short_one(most: int, found: int) -> None:
    long = ShortListEvents(random.Random(1), world(), most_kinds=most, most_values=500)
    bench = Bench(long)
    for each in long.events:
        bench.audit.note_event(each)
    bench.run()
    assert bench.session.limits.max_kinds == found
    assert not bench.knowledge.has_holes(Subject.MENTIONS)


def test_shorter_lists_than_ever_asked_are_found_by_halving() -> None:
    narrow = ShortListEvents(random.Random(1), world(), most_kinds=3, most_values=2, most_authors=20)
    bench = Bench(narrow)
    for each in narrow.events:
        bench.audit.note_event(each)
    for _ in range(4):
        bench.run()
        bench.wall += 86_400
    limits = bench.session.limits
    assert (limits.max_kinds, limits.max_tag_values) == (2, 2)
    assert 9 <= limits.max_authors <= 20


def test_store_that_searches_the_first_value_only_is_found_out() -> None:
    bench = Bench(store(FirstValueEvents)).run()
    assert bench.knowledge.finds_first_only(Subject.MENTIONS)
    assert not bench.knowledge.has_holes(Subject.MENTIONS)
    assert bench.session.limits.max_tag_values == 250
    assert bench.owed[0] is Subject.MENTIONS


def test_forms_are_checked_once_a_day_and_known_after_a_restart() -> None:
    first = Bench(store()).run()
    checks = first.knowledge.take_changes()
    again = Bench(store(), knowledge=recalled(checks), wall=NOW + 86_000).run()
    assert not again.requests
    assert again.knowledge.is_audited(Subject.MENTIONS)
    again.session.learn(first.session.limits)
    again.wall = NOW + 86_500
    assert 0 < len(again.run().requests) < len(first.requests)


def test_event_that_is_gone_proves_nothing() -> None:
    bench = Bench(store())
    for each in bench.store.events:
        bench.audit.note_event(each)
    bench.store.events = []
    bench.run()
    assert not any(bench.knowledge.has_holes(subject) for subject in Subject)
    assert not bench.owed
    assert len(bench.requests) <= MAX_REQUESTS


def test_relay_that_gives_nothing_is_asked_for_events_once_and_no_more() -> None:
    """For each kind of messages, for low kinds and for high ones."""
    bench = Bench(StoredEvents(random.Random(1)))
    bench.run().run()
    assert len(bench.requests) == 4
    assert not bench.audit.precedes_mentions


@pytest.mark.parametrize("refusal", ["error: busy", "restricted: members only"])
def test_refused_controls_end_without_a_verdict_against_the_form(refusal: str) -> None:
    bench = Bench(store())
    for each in bench.store.events:
        bench.audit.note_event(each)
    bench.refusal = refusal
    bench.run()
    assert not bench.owed
    assert not bench.audit.precedes_mentions
    assert len(bench.requests) <= MAX_REQUESTS + 2


def test_silence_ends_the_audit_for_an_hour_and_keeps_no_one_waiting() -> None:
    audit, session, plan = FormAudit(FormKnowledge()), Session(LearnedLimits(RelayLimits())), plan_for(AUTHORS, USERS)
    audit.open_next(plan, session, 0.0, NOW)
    assert audit.precedes_mentions
    silent = PageEnded(FormAudit.KEY, RelayRefusal.TIMEOUT, "no answer", 0, None, None)
    audit.on_page_ended(silent, session.limits, 30.0, NOW)
    session.cancel_page(FormAudit.KEY, 30.0)
    session.outgoing.clear()
    audit.open_next(plan, session, 30.0, NOW)
    assert (audit.precedes_mentions, len(session.outgoing)) == (False, 0)
    assert audit.due_times() == [3_630.0]
    audit.open_next(plan, session, 3_630.0, NOW)
    assert (audit.precedes_mentions, len(session.outgoing)) == (True, 1)


def test_form_that_is_begun_and_never_ended_is_left_after_two_requests() -> None:
    """khatru of 2025 on its lmdb searches for ever where no kinds are named, with a whole core each time."""
    bench = Bench(store(), searches_for_ever=_mentions_kindless).run()
    assert bench.knowledge.has_holes(Subject.MENTIONS)
    assert bench.owed == [Subject.MENTIONS]
    assert bench.knowledge.verdict(Form(Subject.MENTIONS, True, Reach.LOW)) is FormVerdict.WHOLE
    assert sum(map(_mentions_kindless, bench.requests)) == 2


def test_form_that_is_ended_the_second_time_is_kept() -> None:
    silent = iter((True,))
    bench = Bench(store(), searches_for_ever=lambda asked: _mentions_kindless(asked) and next(silent, False)).run()
    assert bench.knowledge.verdict(MENTIONS_LOW) is FormVerdict.WHOLE
    assert not bench.owed


@pytest.mark.parametrize(("most", "found"), [(15, 10), (25, 20), (100, 80)])
def test_silently_refused_step_to_more_kinds_is_not_repeated(most: int, found: int) -> None:
    """relayer says "REQ filters are not accepted" and nothing more."""
    bench = Bench(store(), most_kinds=most).run()
    assert len(bench.requests) <= 20
    assert bench.session.limits.max_kinds == found
    assert bench.knowledge.verdict(MENTIONS_LOW) is FormVerdict.WHOLE


def test_rate_limited_controls_are_asked_again_without_a_verdict() -> None:
    bench = Bench(store(), refusal="rate-limited: slow down")
    for each in bench.store.events:
        bench.audit.note_event(each)
    for _ in range(4):
        bench.audit.open_next(bench.plan, bench.session, bench.mono, bench.wall)
        while bench.session.outgoing:
            bench._answer(bench.session.outgoing.popleft())
        bench.mono += 10
    assert not any(bench.knowledge.verdict(form) for form in FORMS)
    bench.refusal = ""
    bench.run()
    assert bench.knowledge.is_audited(Subject.MENTIONS)


def test_crowded_second_proves_nothing() -> None:
    """The relay gives five events at once, and more share the second of every control."""
    events = [event(NOW - 100, author, 1, number, [USERS[0]]) for number, author in enumerate(AUTHORS)]
    bench = Bench(StoredEvents(random.Random(1), events, cap=5)).run()
    assert not any(bench.knowledge.has_holes(subject) for subject in Subject)
    assert not bench.owed


def shown(audit: FormAudit, session: Session, *, count: int = 0, after_auth: bool = False) -> tuple[Subject, ...]:
    """Answer a request for one kind of messages."""
    audit.open_next(plan_for(AUTHORS, USERS), session, 0.0, NOW)
    kind, _subscription, asked = orjson.loads(session.outgoing.pop())
    assert (kind, len(asked["kinds"]), asked["limit"]) == ("REQ", 1, 1)
    session.cancel_page(FormAudit.KEY, 0.0)
    session.outgoing.clear()
    ended = PageEnded(FormAudit.KEY, None, "", count, None, None, is_after_auth=after_auth)
    return audit.on_page_ended(ended, session.limits, 1.0, NOW).owed


def test_messages_shown_after_auth_are_owed_once_and_asked_each_connection() -> None:
    audit, session = FormAudit(FormKnowledge()), Session(LearnedLimits(RelayLimits()))
    assert shown(audit, session, count=1, after_auth=True) == (Subject.MENTIONS, Subject.AUTHORS)
    assert shown(audit, session, count=1, after_auth=True) == (Subject.MENTIONS, Subject.AUTHORS)
    assert not audit.knowledge.withheld
    audit.on_connected()
    again = Session(LearnedLimits(RelayLimits()))
    assert shown(audit, again, count=1, after_auth=True) == ()
    assert shown(audit, again, count=1, after_auth=True) == ()


def test_messages_hidden_even_after_auth_are_withheld() -> None:
    audit, session = FormAudit(FormKnowledge()), Session(LearnedLimits(RelayLimits()))
    assert shown(audit, session, after_auth=True) == ()
    assert shown(audit, session) == ()
    assert audit.knowledge.withheld == {4}


@pytest.mark.parametrize("frame", [1_000, 2_000, 5_000])
def test_controls_fit_the_frame_however_many_kinds_they_name(frame: int) -> None:
    bench = Bench(store(), session=Session(LearnedLimits(RelayLimits(max_frame_bytes=frame)))).run()
    assert all(len(encode_req("P1234", [each])) <= frame for each in bench.requests)
    assert bench.knowledge.is_audited(Subject.MENTIONS)


def test_control_under_way_is_cut_once_the_frame_is_smaller() -> None:
    bench = Bench(store())
    size = 0
    while size <= 3_000:
        bench.audit.open_next(bench.plan, bench.session, bench.mono, bench.wall)
        assert bench.session.outgoing, "some control is large"
        size = max(map(len, bench.session.outgoing))
        if size <= 3_000:
            while bench.session.outgoing:
                bench._answer(bench.session.outgoing.popleft())
    # The connection is lost over it.
    bench.session = Session(LearnedLimits(replace(bench.session.limits, max_frame_bytes=3_000)))
    bench.audit.on_connected()
    bench.requests.clear()
    bench.run()
    assert bench.requests
    assert all(len(encode_req("P1234", [each])) <= 3_000 for each in bench.requests)


@pytest.mark.parametrize("kinds", [{1, 3}, {1}, {40_000}])
def test_relay_that_answers_nothing_without_authors_is_found_out(kinds: set[int]) -> None:
    """By an event of a global kind, or by an empty answer for kinds of which it gave some."""
    bench = Bench(NarrowEvents(random.Random(1), world()))
    for number, kind in enumerate(sorted(kinds)):
        given = event(NOW - 100, AUTHORS[number], kind, number)
        bench.store.events.append(given)
        bench.audit.note_event(given)
    bench.run()
    assert (bench.broad.count(False), bench.broad.count(True)) == (int(1 in kinds), 0)
    assert (bench.knowledge.verdict(BROAD) is FormVerdict.HOLES) == (1 in kinds)


def test_relay_that_has_nothing_of_kinds_asked_for_is_not_blamed() -> None:
    answering = Bench(store()).run()
    assert (answering.broad.count(False), answering.broad.count(True)) == (0, 1)
    bench = Bench(StoredEvents(random.Random(1), [event(NOW - 100, AUTHORS[0], 40_000)]))
    bench.audit.note_event(bench.store.events[0])
    assert False not in bench.run().broad


def quiet_audit() -> Bench:
    """An audit that has asked for all and lacks an event of low kinds to check a form with."""
    return Bench(StoredEvents(random.Random(1), [])).run()


def test_events_are_not_looked_through_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, looks = quiet_audit(), 0
    best = Controls.best

    def count(self: Controls, form: Form, *, without_notes: bool) -> Control | None:
        nonlocal looks
        looks += 1
        return best(self, form, without_notes=without_notes)

    monkeypatch.setattr(Controls, "best", count)
    for number in range(1_000):
        bench.audit.note_event(event(NOW, AUTHORS[0], 30_023, number))
        bench.audit.open_next(bench.plan, bench.session, bench.mono + number / 1_000, NOW)
        bench.session.outgoing.clear()
    assert looks <= 2 * len(FORMS)


def test_event_to_check_with_is_found_when_the_next_look_is_due() -> None:
    bench = quiet_audit()
    bench.audit.open_next(bench.plan, bench.session, bench.mono, NOW)
    assert not bench.session.outgoing
    bench.audit.note_event(event(NOW - 60, AUTHORS[0], 1, 1, [USERS[0]]))
    bench.audit.open_next(bench.plan, bench.session, bench.mono + 0.1, NOW)
    assert not bench.session.outgoing
    (due,) = bench.audit.due_times()
    bench.audit.open_next(bench.plan, bench.session, due, NOW)
    assert len(bench.session.outgoing) == 1


@pytest.mark.parametrize("is_plan", [False, True])
def test_new_plan_and_new_limits_are_looked_at_at_once(is_plan: bool) -> None:
    bench = quiet_audit()
    bench.audit.note_event(event(NOW - 60, AUTHORS[0], 1, 1, [USERS[0]]))
    bench.audit.open_next(bench.plan, bench.session, bench.mono, NOW)
    assert not bench.session.outgoing
    if is_plan:
        bench.plan = plan_for(AUTHORS[:1], USERS)
    else:
        bench.session.learn(replace(bench.session.limits, max_filters=5))
    bench.audit.open_next(bench.plan, bench.session, bench.mono, NOW)
    assert len(bench.session.outgoing) == 1


def test_plan_that_was_looked_at_is_not_kept() -> None:
    """Relays that are lost would keep one each."""
    bench, plan = quiet_audit(), plan_for(AUTHORS[:1], USERS)
    references = sys.getrefcount(plan)
    bench.audit.open_next(plan, bench.session, bench.mono, NOW)
    assert sys.getrefcount(plan) == references


@pytest.mark.parametrize("seed", seeds(20))
def test_control_of_a_value_with_an_older_event_above_is_found(seed: int) -> None:
    """Against a look at all pairs."""
    rng = random.Random(seed)
    controls, kept = Controls(), []
    for number in range(30):
        made = event(
            NOW - rng.randrange(9), AUTHORS[0], rng.choice([1, 3, 7, 16, 30_023]), number, [rng.choice(USERS[:3])]
        )
        controls.note(made)
        kept.append(made)
        low = [each for each in kept if each.kind < 30_000]
        fitting = [
            each
            for each in low
            for above in low
            if (above.tags, above.kind > each.kind) == (each.tags, True) and above.created_at < each.created_at - 1
        ]
        best = controls.best(Form(Subject.MENTIONS, False, Reach.MIXED), without_notes=False)
        assert (best is None) == (not fitting)
        assert best is None or best.id in {each.id for each in fitting}
