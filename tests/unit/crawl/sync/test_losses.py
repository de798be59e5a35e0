"""What the losses of connections teach."""

import pytest

from pipeline.crawl.sync.losses import LEAST_PAGE, MAX_CUT, MAX_FRUITLESS, Lesson, Losses
from pipeline.nostr.filter import Filter
from pipeline.nostr.message import Closed, Eose, encode_req
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.session import Session
from tests.support.plans import event

PAGE = Filter(kinds=frozenset({1}), since=100, until=200)


def session(limits: RelayLimits, *, events: int = 0, answered: bool = False) -> Session:
    """A connection that is lost after so many events of a page, or without any answer."""
    made = Session(LearnedLimits(limits))
    if answered:
        made.open_page("whole", PAGE, 0.0)
        list(made.receive(Eose("P1"), 0.0))
    made.open_page("cut", PAGE, 0.0)
    for _ in range(events):
        made.note_event(f"P{2 if answered else 1}", event(150), 0.0)
    return made


def test_pages_shrink_when_connections_are_lost_in_the_middle_of_them() -> None:
    losses, limits, lessons = Losses(), RelayLimits(), []
    for _ in range(40):
        lost = session(limits, events=1, answered=True)
        lessons.append(losses.on_lost(lost))
        limits = lost.limits
    assert lessons[: 2 * MAX_CUT] == [Lesson.NONE, Lesson.SMALLER_PAGES] * MAX_CUT
    assert limits.page_limit == LEAST_PAGE
    assert lessons[-1] is Lesson.NONE


def test_page_of_that_size_that_ends_well_shows_that_it_was_something_else() -> None:
    losses = Losses()
    for _ in range(10):
        assert losses.on_lost(session(RelayLimits(), events=1)) is Lesson.NONE
        losses.on_page(400, 500)


def test_small_pages_that_end_well_show_nothing() -> None:
    losses = Losses()
    losses.on_lost(session(RelayLimits(), events=1))
    losses.on_page(10, 500)
    assert losses.on_lost(session(RelayLimits(), events=1)) is Lesson.SMALLER_PAGES


def test_requests_shrink_when_connections_are_lost_with_no_answer_at_all() -> None:
    losses = Losses()
    lessons = [losses.on_lost(session(RelayLimits())) for _ in range(MAX_FRUITLESS)]
    assert lessons == [Lesson.NONE] * (MAX_FRUITLESS - 1) + [Lesson.SMALLER_REQUESTS]


def lost_over(limits: RelayLimits, largest: int, *, takes: int) -> Session:
    """A connection to a relay that answers up to so many bytes, and ends the connection over the first larger one.

    Up to `largest` keys are asked for, as far as `limits` allow that.
    """
    made = Session(LearnedLimits(limits))
    for number, keys in enumerate((1, min(largest, limits.members_that_fit)), 1):
        page = Filter(authors=frozenset(key.to_bytes(32) for key in range(keys)), since=100, until=200)
        made.open_page(f"page {number}", page, 0.0)
        if len(encode_req(f"P{number}", [page])) <= takes:
            list(made.receive(Eose(f"P{number}"), 0.0))
    return made


@pytest.mark.parametrize("takes", [1_500, 3_000, 8_000])
def test_requests_shrink_until_accepted_where_smaller_ones_are_answered(takes: int) -> None:
    losses, limits = Losses(), RelayLimits()
    for _ in range(MAX_FRUITLESS + 4):
        lost = lost_over(limits, 250, takes=takes)
        losses.on_lost(lost)
        limits = lost.limits
    assert takes / 4 < limits.max_frame_bytes <= takes
    assert losses.on_lost(lost_over(limits, 250, takes=takes)) is Lesson.NONE, "all is answered"
    assert lost.limits == limits


def test_requests_are_never_made_smaller_than_one_that_was_answered() -> None:
    losses, limits = Losses(), RelayLimits()
    for _ in range(20):
        lost = Session(LearnedLimits(limits))
        lost.open_page("small", Filter(authors=frozenset(key.to_bytes(32) for key in range(40))), 0.0)
        answered = len(lost.outgoing[-1])
        list(lost.receive(Eose("P1"), 0.0))
        lost.open_page("large", Filter(authors=frozenset(key.to_bytes(32) for key in range(70))), 0.0)
        losses.on_lost(lost)
        limits = lost.limits
    assert limits.max_frame_bytes == answered


def test_what_was_refused_was_taken() -> None:
    losses, lost = Losses(), session(RelayLimits())
    list(lost.receive(Closed("P1", "error: no", "error"), 0.0))
    assert {losses.on_lost(lost) for _ in range(10)} == {Lesson.NONE}


@pytest.mark.parametrize("lost", [session(RelayLimits(), answered=True), Session(LearnedLimits(RelayLimits()))])
def test_other_losses_teach_nothing(lost: Session) -> None:
    losses = Losses()
    assert {losses.on_lost(lost) for _ in range(10)} == {Lesson.NONE}
