"""Refusals that name no limit: what is learned of them before they are believed, and at what cost."""

from dataclasses import dataclass, field

import pytest

from pipeline.crawl.sync.size_trials import MAX_ERRORS, MAX_TRIALS_A_DAY, SizeTrials, Trial, TrialVerdict
from pipeline.nostr.filter import Filter
from pipeline.relay.dimensions import Dimension
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.sizes import size_of
from pipeline.relay.subscription import PageEnded

PAGE = Filter(
    authors=frozenset(bytes([n]) * 32 for n in range(200)), kinds=frozenset(range(160)), since=0, until=9_000, limit=500
)
REFUSED = PageEnded(SizeTrials.KEY, RelayRefusal.UNSUPPORTED, "no", 0, None, None)
ANSWERED = PageEnded(SizeTrials.KEY, None, "", 0, None, None)


@dataclass
class Relay:
    """Refuses, without saying why, what is more than its bounds."""

    bounds: dict[Dimension, int]
    trials: SizeTrials = field(default_factory=SizeTrials)
    session: Session = field(default_factory=lambda: Session(LearnedLimits(RelayLimits())))
    asked: int = 0

    def refuses(self, page: Filter) -> bool:
        return any(size_of((page,), dimension) > most for dimension, most in self.bounds.items())

    def run(self, page: Filter = PAGE, mono: float = 0.0) -> Trial | None:
        """Refuse `page`, and answer what is tried until a verdict is there."""
        assert self.refuses(page)
        if not self.trials.on_refused("sweep", page, RelayRefusal.UNSUPPORTED, mono):
            return None
        while True:
            self.trials.open_next(self.session, mono)
            tried = [each for each in self.session.subscriptions if each.key == SizeTrials.KEY]
            if not tried:
                return None
            self.asked += 1
            self.session.cancel_page(SizeTrials.KEY, 0.0)
            ended = REFUSED if self.refuses(tried[0].filters[0]) else ANSWERED
            trial = self.trials.on_page_ended(ended, self.session.limits, mono)
            if trial is not None:
                self.session.learn(trial.limits)
                return trial


@pytest.mark.parametrize(
    ("dimension", "most", "learned"),
    [
        (Dimension.KINDS, 20, 20),
        (Dimension.KINDS, 3, 2),
        (Dimension.KINDS, 1, 1),
        (Dimension.AUTHORS, 20, 12),
        (Dimension.AUTHORS, 1, 1),
        (Dimension.LIMIT, 100, 62),
        (Dimension.SPAN, 7_200, 4_500),
    ],
)
def test_what_is_allowed_is_found_by_halves_and_nothing_else_learned(
    dimension: Dimension, most: int, learned: int
) -> None:
    relay = Relay({dimension: most})
    trial = relay.run()
    assert trial is not None
    assert trial.verdict is TrialVerdict.LEARNED
    assert trial.limits == RelayLimits().narrowed(dimension, learned)
    assert learned <= most
    assert relay.asked <= 12


def test_two_bounds_are_found_one_after_the_other() -> None:
    relay = Relay({Dimension.KINDS: 20, Dimension.AUTHORS: 20})
    relay.run()
    kinds = frozenset(range(relay.session.limits.max_kinds))
    relay.run(Filter(authors=PAGE.authors, kinds=kinds, since=0, until=9_000, limit=500))
    assert relay.session.limits == RelayLimits().narrowed(Dimension.KINDS, 20).narrowed(Dimension.AUTHORS, 12)
    assert relay.asked <= MAX_TRIALS_A_DAY


def test_a_refusal_for_another_reason_costs_one_request() -> None:
    relay = Relay({Dimension.KINDS: 0})
    trial = relay.run()
    assert trial is not None
    assert (trial.verdict, trial.refusal, trial.limits) == (
        TrialVerdict.BELIEVED,
        RelayRefusal.UNSUPPORTED,
        RelayLimits(),
    )
    assert relay.asked == 1


@pytest.mark.parametrize(
    "refusal",
    [
        RelayRefusal.AUTH_REQUIRED,
        RelayRefusal.FORBIDDEN,
        RelayRefusal.PAYMENT,
        RelayRefusal.SEARCH_ONLY,
        RelayRefusal.ERROR,
    ],
)
def test_nothing_is_tried_after_a_refusal_that_says_why(refusal: RelayRefusal) -> None:
    assert not SizeTrials().on_refused("sweep", PAGE, refusal, 0.0)


def test_nothing_is_tried_of_a_filter_without_lists() -> None:
    assert not SizeTrials().on_refused("sweep", Filter(since=0, until=10**6, limit=500), RelayRefusal.RESTRICTED, 0.0)


def test_no_more_than_so_many_are_tried_a_day() -> None:
    """The limits that were learned are forgotten each time."""
    relay = Relay({Dimension.KINDS: 1})
    for n in range(3 * MAX_TRIALS_A_DAY):
        relay.session.learn(RelayLimits())
        relay.run(mono=float(n))
    assert relay.asked == MAX_TRIALS_A_DAY
    assert not relay.trials.is_under_way
    relay.run(mono=2 * 86_400.0)
    assert relay.asked > MAX_TRIALS_A_DAY


def test_what_was_believed_is_looked_into_again_after_a_day() -> None:
    relay = Relay({Dimension.KINDS: 0})
    for mono in (0.0, 600.0, 86_000.0):
        relay.run(mono=mono)
    assert relay.asked == 1
    relay.run(mono=86_400.0)
    assert relay.asked == 2


def test_what_is_refused_meanwhile_waits() -> None:
    trials = SizeTrials()
    assert trials.on_refused("one", PAGE, RelayRefusal.RESTRICTED, 0.0)
    assert trials.on_refused("two", PAGE, RelayRefusal.RESTRICTED, 0.0)
    session = Session(LearnedLimits(RelayLimits()))
    trials.open_next(session, 0.0)
    trials.open_next(session, 0.0)
    assert session.pages == 1
    trial = trials.on_page_ended(REFUSED, RelayLimits(), 0.0)
    assert trial is not None
    assert trial.sweep == "one"
    assert [set(trials.take_waiting()) for _ in range(2)] == [{"two"}, set()]


@pytest.mark.parametrize("refusal", [RelayRefusal.TIMEOUT, RelayRefusal.RATE_LIMITED, RelayRefusal.AUTH_REQUIRED])
def test_an_answer_about_something_else_proves_nothing(refusal: RelayRefusal) -> None:
    trials = SizeTrials()
    trials.on_refused("one", PAGE, RelayRefusal.RESTRICTED, 0.0)
    trials.open_next(Session(LearnedLimits(RelayLimits())), 0.0)
    trial = trials.on_page_ended(PageEnded(SizeTrials.KEY, refusal, "", 0, None, None), RelayLimits(), 0.0)
    assert trial is not None
    assert (trial.verdict, trial.limits) == (TrialVerdict.GIVEN_UP, RelayLimits())


def test_a_trial_has_no_page_beside_it() -> None:
    trials, session = SizeTrials(), Session(LearnedLimits(RelayLimits()))
    session.open_page("other", PAGE, 0.0)
    trials.on_refused("one", PAGE, RelayRefusal.RESTRICTED, 0.0)
    trials.open_next(session, 0.0)
    assert (session.pages, session.has_room_for_page()) == (1, False)
    session.cancel_page("other", 1.0)
    trials.open_next(session, 1.0)
    assert (session.pages, session.has_room_for_page()) == (1, False)
    session.cancel_page(SizeTrials.KEY, 2.0)
    assert trials.on_page_ended(REFUSED, RelayLimits(), 2.0) is not None
    trials.open_next(session, 2.0)
    assert (session.pages, session.has_room_for_page()) == (0, True)


def test_an_error_is_no_answer_to_a_trial() -> None:
    trials, session = SizeTrials(), Session(LearnedLimits(RelayLimits()))
    trials.on_refused("one", PAGE, RelayRefusal.RESTRICTED, 0.0)
    failed = PageEnded(SizeTrials.KEY, RelayRefusal.ERROR, "busy", 0, None, None)
    for _ in range(MAX_ERRORS):
        trials.open_next(session, 0.0)
        session.cancel_page(SizeTrials.KEY, 0.0)
        assert trials.on_page_ended(failed, RelayLimits(), 0.0) is None
    trials.open_next(session, 0.0)
    trial = trials.on_page_ended(failed, RelayLimits(), 0.0)
    assert trial is not None
    assert trial.verdict is TrialVerdict.GIVEN_UP
