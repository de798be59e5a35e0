"""Where a page that falls ends, and what the next one shows of it."""

from pipeline.crawl.sync.paging.page_ends import Overlap, PageEnd, end_beside_arrivals, end_of_cut_off
from pipeline.crawl.sync.paging.slices import PageResult

DENSE = [1_000 + number for number in range(100)]


def test_the_lowest_few_of_a_page_that_may_be_cut_off_are_asked_for_again() -> None:
    assert end_of_cut_off(DENSE, 2_000) == PageEnd(1_003, 1_000, Overlap(1_001, 1_002, 2))


def test_what_lies_apart_below_the_others_is_no_end_of_theirs() -> None:
    times = [100, 200, 300, 400, 500, *DENSE[5:]]
    assert end_of_cut_off(times, 2_000) == PageEnd(1_005, 100, Overlap(101, 1_004, 4))


def test_what_lies_apart_in_the_midst_of_a_page_is_a_quiet_time() -> None:
    times = [*DENSE[:50], *(at + 10_000 for at in DENSE[50:])]
    assert end_of_cut_off(times, 20_000).had_from == 1_003


def test_a_page_of_one_second_and_one_event_below_it_ends_with_that_event() -> None:
    assert end_of_cut_off([10, *[2_000] * 50], 2_000) == PageEnd(10, 10)


def test_what_arrived_is_neither_the_end_nor_held_against_the_order() -> None:
    assert end_beside_arrivals(DENSE, 2_000, arrived=5) == PageEnd(1_005, 1_005)


def test_more_than_was_had_and_came_live_was_left_out_above() -> None:
    overlap = Overlap(1_001, 1_002, 2)
    assert not overlap.has_more(PageResult(3, times=(1_003, 1_002, 1_001)))
    assert overlap.has_more(PageResult(4, times=(1_002, 1_002, 1_001, 900)))
    assert not overlap.has_more(PageResult(4, times=(1_002, 1_002, 1_001, 900), arrived=1))
