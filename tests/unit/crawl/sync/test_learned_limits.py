"""What a relay's crawl makes of relays that do not end their pages, refuse without a word, or break off for size."""

from dataclasses import replace

import pytest

from pipeline.crawl.sync.cursors import CursorTable
from pipeline.crawl.sync.forms.audit import FormAudit
from pipeline.crawl.sync.forms.forms import BROAD, FormVerdict
from pipeline.crawl.sync.paging.slices import Gap
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.relay_sync import RelaySync
from pipeline.crawl.sync.size_trials import SizeTrials
from pipeline.crawl.sync.timing import LASTING_RETRY_S, CrawlSettings, Horizon
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Eose
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.silence import Silences
from pipeline.relay.subscription import PageEnded
from pipeline.store.relay_forms import FormCheck
from pipeline.store.sweeps import SweepProgress
from tests.support.plans import audited, event, key, plan_for

WALL = 1_000_000
SETTINGS = CrawlSettings(backfill=1_000, lookback=1_000, resweep_window=10_000, resweep_every=100_000)
GLOBAL_ONLY = plan_for()


def crawl(
    plan: Plan = GLOBAL_ONLY, *, sweeps: tuple[SweepProgress, ...] = (), limits: RelayLimits | None = None
) -> RelaySync:
    made = RelaySync(
        cursors=CursorTable(1, (), sweeps),
        limits=LearnedLimits(limits or RelayLimits()),
        horizon=Horizon(SETTINGS, WALL),
        plan=plan,
    )
    made.audit.knowledge.recall(audited(WALL))
    made.on_connected()
    return made


def ended(refusal: RelayRefusal | None, count: int = 0, at: int = WALL - 100, subject: str = "global") -> PageEnded:
    span = (at, at) if count else (None, None)
    return PageEnded(f"initial:{subject}/", refusal, "", count, *span)


def page_of(session: Session, number: int = -1) -> Filter:
    filters = [each for each in session.subscriptions if each.is_page]
    return filters[number].filters[0]


def test_pages_without_eose_are_gone_through_but_complete_nothing() -> None:
    """Only EOSE completes a page; what came is kept all the same, and the loss is counted."""
    made = crawl()
    session = Session(made.limits)
    made.advance(session, 0.0, WALL, may_ask=True)
    assert made.on_page_ended(ended(RelayRefusal.TIMEOUT, 7), session, 10.0) is None
    assert made.stats.pages == 0, "once may be chance"
    made.on_page_ended(ended(RelayRefusal.TIMEOUT, 7), session, 40.0)
    assert made.stats.pages == 1
    assert made.on_page_ended(ended(RelayRefusal.TIMEOUT), session, 80.0) is None
    for _ in range(5):
        made.on_page_ended(ended(RelayRefusal.TIMEOUT), session, 90.0)
    assert made.stats.gap_reasons[Gap.NO_EOSE] == 1
    assert made.stats.sweeps == 0
    assert made.seconds_behind(WALL + 50) == 50, "the cursor did not move"
    session = Session(made.limits)
    made.advance(session, 91.0, WALL + 91, may_ask=True)
    assert session.pages == 0
    made.on_connected()
    made.advance(session, 100.0 + LASTING_RETRY_S, WALL + 700, may_ask=True)
    assert session.pages == 1, "but it is tried again"


def test_a_relay_that_never_answers_gets_more_patience_and_no_credit() -> None:
    made = crawl()
    session = Session(made.limits)
    for number in range(3):
        made.advance(session, number * 1000.0, WALL, may_ask=True)
        made.on_page_ended(ended(RelayRefusal.TIMEOUT), session, number * 1000.0 + 500)
    assert (made.stats.pages, made.stats.gap_reasons) == (0, {Gap.UNANSWERED: 1})
    assert [each.patience for each in session.subscriptions if each.is_page] == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(("count", "told"), [(0, 1), (1, 0)])
def test_relay_without_broad_filters_is_told_until_it_answers_one(count: int, told: int) -> None:
    """A silent refusal: nothing of any kind without authors."""
    made = crawl(plan_for([key(1)]))
    session = Session(made.limits)
    made.audit.knowledge.recall([replace(each, checked_at=0) for each in audited(WALL) if "search" in each.form])
    made.audit.knowledge.recall([FormCheck(BROAD.name, FormVerdict.UNKNOWN, 0, 0)])
    made.audit.note_event(event(WALL - 100, key(1), kind=1))
    made.advance(session, 0.0, WALL, may_ask=True)
    made.on_page_ended(PageEnded(FormAudit.KEY, None, "", count, None, None), session, 1.0)
    assert made.stats.gap_reasons[Gap.NO_BROAD_FILTERS] == told
    assert len(made.gaps) == told
    made.on_page_ended(ended(None, 1), session, 2.0)
    assert not len(made.gaps)


def test_requests_shrink_when_connections_are_lost_over_them() -> None:
    made = crawl()
    session = Session(made.limits)
    authors = frozenset(number.to_bytes(32) for number in range(300))
    session.open_page("large", Filter(authors=authors), 0.0)
    assert not made.on_lost(session)
    assert session.limits == RelayLimits(), "once may be chance"
    assert made.on_lost(session)
    assert session.limits.max_frame_bytes == session.subscriptions.suspect // 2
    assert session.limits.members_that_fit < 150


def test_a_refusal_for_size_is_not_followed_by_a_flood_of_requests() -> None:
    made = crawl()
    session = Session(made.limits)
    made.advance(session, 0.0, WALL, may_ask=True)
    made.on_page_ended(ended(RelayRefusal.TOO_LARGE), session, 1.0)
    opened = session.pages
    made.advance(session, 1.1, WALL, may_ask=True)
    assert session.pages == opened
    made.advance(session, 1.3, WALL, may_ask=True)
    assert session.pages == opened + 1


def test_a_refusal_that_lasts_is_told() -> None:
    made = crawl()
    session = Session(made.limits)
    made.advance(session, 0.0, WALL, may_ask=True)
    made.on_page_ended(ended(RelayRefusal.RESTRICTED), session, 1.0)
    assert made.stats.gap_reasons[Gap.REFUSED] == 0, "perhaps it was too much for it"
    session.cancel_page("initial:global/", 0.0)
    made.advance(session, 1.5, WALL, may_ask=True)
    made.on_page_ended(PageEnded(SizeTrials.KEY, RelayRefusal.RESTRICTED, "no", 0, None, None), session, 2.0)
    assert made.stats.gap_reasons[Gap.REFUSED] == 1


def test_a_sweep_goes_on_where_a_former_process_left_it() -> None:
    kept = SweepProgress(1, "initial:global/", WALL - 1_000, WALL - 700, WALL + 2_000, 0)
    made = crawl(sweeps=(kept,))
    session = Session(made.limits)
    made.advance(session, 0.0, WALL + 3_000, may_ask=True)
    assert page_of(session).since == WALL + 2_000 - 900, "first what came since"
    made.on_page_ended(ended(None), session, 1.0)
    made.advance(session, 2.0, WALL + 3_000, may_ask=True)
    assert (page_of(session).since, page_of(session).until) == (WALL - 1_000, WALL - 700)
    cursor = made.on_page_ended(ended(None), session, 3.0)
    assert cursor is not None
    assert [each.is_over for each in made.take_progress()] == [True]


def test_progress_is_told_now_and_then() -> None:
    made = crawl()
    session = Session(made.limits)
    made.advance(session, 0.0, WALL, may_ask=True)
    for number in range(10):
        made.on_page_ended(ended(None, 50, WALL - 10 * number), session, number * 1.0)
    (progress,) = made.take_progress()
    assert (progress.sweep, progress.since, progress.started) == ("initial:global/", WALL - 1_000, WALL)
    assert made.take_progress() == ()


def test_one_subscription_is_left_for_pages() -> None:
    limits = replace(RelayLimits(), max_subscriptions=1, max_pages=1)
    made = crawl(limits=limits)
    session = Session(made.limits)
    made.advance(session, 0.0, WALL, may_ask=True)
    assert (session.live_subscriptions, session.pages, made.unserved_queries) == (0, 1, 1)


def test_a_relay_that_takes_zero_for_no_limit_is_asked_for_one() -> None:
    made = crawl()
    session = Session(made.limits)
    made.advance(session, 0.0, WALL, may_ask=True)
    for number in range(501):
        session.note_event("L1", event(WALL - number, kind=0, number=number), 1.0)
    assert session.limits.zero_is_all
    made.advance(session, 100.0, WALL, may_ask=True)
    made.on_connected()
    again = Session(made.limits)
    made.advance(again, 200.0, WALL, may_ask=True)
    assert [each.filters[0].limit for each in again.subscriptions if not each.is_page] == [1]


def test_an_unfinished_first_sweep_wakes_nobody_for_a_resweep() -> None:
    made = crawl()
    session = Session(made.limits)
    made.advance(session, 0.0, WALL + 200_000, may_ask=True)
    list(session.receive(Eose("L1"), 0.5))
    made.advance(session, 15.0, WALL + 200_015, may_ask=True)
    assert made.next_time() >= 50.0
    made.on_page_ended(ended(None), session, 1.0)
    made.advance(session, 1.0, WALL + 200_000, may_ask=True)
    assert any(each.key.startswith("resweep:") for each in session.subscriptions)


def test_somebody_new_is_asked_for_at_once_where_nothing_can_be_completed() -> None:
    made = crawl(plan_for([key(1)]))
    session = Session(made.limits)
    made.advance(session, 0.0, WALL, may_ask=True)
    for at in (10.0, 40.0, 80.0):
        made.on_page_ended(ended(RelayRefusal.TIMEOUT, 7 if at < 50 else 0, subject="authors"), session, at)
    for at in (90.0, 100.0):
        made.on_page_ended(ended(RelayRefusal.TIMEOUT, subject="authors"), session, at)
    assert made.stats.gap_reasons[Gap.NO_EOSE] == 1
    session = Session(made.limits)
    made.advance(session, 101.0, WALL + 101, may_ask=True)
    assert not any(each.key == "initial:authors/" for each in session.subscriptions)
    made.set_plan(plan_for([key(1), key(2)], generation=2))
    made.advance(session, 102.0, WALL + 102, may_ask=True)
    assert any(each.key == "initial:authors/" for each in session.subscriptions)


def test_a_page_that_fails_again_and_again_is_told() -> None:
    """Whatever the reason: nobody may take silence for completeness."""
    made = crawl()
    session = Session(made.limits)
    for number in range(1, 7):
        made.advance(session, number * 1000.0, WALL, may_ask=True)
        made.on_page_ended(ended(RelayRefusal.ERROR), session, number * 1000.0 + 1)
        assert made.stats.gap_reasons[Gap.UNANSWERED] == number // 3


def test_silence_beside_one_open_subscription_ends_with_one_at_a_time() -> None:
    """Where no page gets an answer beside it, on two connections, the live subscription gives way to pages."""
    limits, silences = RelayLimits(), Silences()
    for most in (18, 1):
        session = Session(LearnedLimits(limits), silences=silences)
        session.open_live("0", [Filter(kinds=frozenset({1}), limit=0)], 0.0)
        list(session.receive(Eose("L1"), 0.0))
        session.open_page("p", Filter(limit=1), 0.0)
        assert [type(each).__name__ for each in session.on_timeout(31.0)] == ["PageEnded"]
        limits = session.limits
        assert limits.max_subscriptions == most


def test_silence_never_takes_back_what_was_seen_to_work() -> None:
    silences = Silences()
    for _ in range(4):
        session = Session(LearnedLimits(RelayLimits()), silences=silences)
        session.open_live("0", [Filter(kinds=frozenset({1}), limit=0)], 0.0)
        list(session.receive(Eose("L1"), 0.0))
        session.open_page("p", Filter(limit=1), 0.0)
        list(session.receive(Eose("P2"), 0.0))
        session.open_page("q", Filter(limit=1), 0.0)
        list(session.on_timeout(31.0))
        assert session.limits.max_subscriptions >= 2


def test_what_is_not_had_for_the_first_time_yet_is_told_until_it_is() -> None:
    made = crawl(plan_for([key(1)]))
    session = Session(made.limits)
    made.advance(session, 0.0, WALL, may_ask=True)
    assert not len(made.gaps)
    made.advance(session, 100.0, WALL + 100, may_ask=False)
    told = {gap.form: gap for gap in made.gaps}
    assert {gap.reason for gap in told.values()} == {Gap.UNFINISHED}
    assert told.keys() == {query.key for query in plan_for([key(1)]).live}
    assert told["global/"].since <= WALL - 1_000
    for number in range(20):
        for each in [each.key for each in session.subscriptions if each.is_page]:
            session.cancel_page(each, 101.0)
            made.on_page_ended(PageEnded(each, None, "", 0, None, None), session, 101.0 + number)
        made.advance(session, 101.0 + number, WALL + 101 + number, may_ask=True)
    assert not {gap.reason for gap in made.gaps} & {Gap.UNFINISHED}


def test_what_is_refused_is_told_once() -> None:
    made = crawl()
    session = Session(made.limits)
    made.advance(session, 0.0, WALL, may_ask=True)
    made.gaps.open("global/", WALL - 1_000, WALL, Gap.REFUSED)
    made.advance(session, 100.0, WALL + 100, may_ask=True)
    assert [gap.reason for gap in made.gaps if gap.form == "global/"] == [Gap.REFUSED]
