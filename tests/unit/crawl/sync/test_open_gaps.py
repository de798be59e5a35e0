"""Open gaps: merged by form and reason, closed by what was had, bounded, kept over restarts."""

import pytest

from pipeline.crawl.sync.open_gaps import MANY_FORMS, MAX_GAPS, OpenGaps
from pipeline.crawl.sync.paging.slices import PAGING_GAPS, Gap
from pipeline.crawl.sync.stats import SyncStats
from pipeline.store.gaps import GapChanges, OpenGap

RELAY = 7
DENSE, REFUSED, IGNORES = Gap.DENSE_SECOND, Gap.REFUSED, Gap.IGNORES_TIMES


@pytest.fixture
def gaps() -> OpenGaps:
    made = OpenGaps(RELAY, SyncStats())
    made.now = 1_000
    return made


def spans(gaps: OpenGaps, form: str = "authors/0") -> list[tuple[str, int, int]]:
    return [(gap.reason, gap.since, gap.until) for gap in gaps if gap.form == form]


def test_spans_that_touch_are_one_gap_open_since_the_first(gaps: OpenGaps) -> None:
    gaps.open("authors/0", 10, 12, DENSE)
    gaps.now = 2_000
    gaps.open("authors/0", 13, 15, DENSE)
    gaps.open("authors/0", 20, 20, DENSE)
    gaps.open("authors/0", 11, 11, DENSE)
    assert [(gap.since, gap.until, gap.opened_at) for gap in gaps] == [(10, 15, 1_000), (20, 20, 2_000)]


def test_other_forms_and_reasons_are_other_gaps(gaps: OpenGaps) -> None:
    gaps.open("authors/0", 10, 12, DENSE)
    gaps.open("authors/1", 10, 12, DENSE)
    gaps.open("authors/0", 10, 12, REFUSED)
    assert len(gaps) == 3
    gaps.close("authors/0", 0, 99, DENSE)
    assert sorted((gap.form, gap.reason) for gap in gaps) == [("authors/0", "refused"), ("authors/1", "dense-second")]


def test_every_finding_is_counted_also_of_a_gap_that_is_open() -> None:
    stats = SyncStats()
    gaps = OpenGaps(RELAY, stats)
    gaps.open("authors/0", 1, 1, DENSE)
    gaps.open("authors/0", 1, 1, DENSE)
    gaps.open("authors/0", 1, 1, DENSE, count=0)
    assert (stats.gap_reasons[DENSE], len(gaps)) == (2, 1)


def test_closing_a_part_leaves_what_lies_outside(gaps: OpenGaps) -> None:
    gaps.open("authors/0", 10, 20, DENSE)
    gaps.close("authors/0", 13, 15)
    assert spans(gaps) == [(DENSE, 10, 12), (DENSE, 16, 20)]
    gaps.close("authors/0", 0, 12)
    gaps.close("authors/0", 16, 99)
    assert not spans(gaps)


def test_settling_keeps_what_was_found_again_with_its_age(gaps: OpenGaps) -> None:
    gaps.open("authors/0", 10, 10, DENSE)
    gaps.open("authors/0", 30, 30, DENSE)
    gaps.open("authors/0", 50, 50, DENSE)
    gaps.open("authors/0", 30, 30, REFUSED)
    gaps.now = 2_000
    gaps.settle("authors/0", [(0, 40)], [(DENSE, 10, 10), (IGNORES, 5, 40)], *PAGING_GAPS)
    found = {(gap.reason, gap.since, gap.opened_at) for gap in gaps}
    assert found == {(DENSE, 10, 1_000), (DENSE, 50, 1_000), (REFUSED, 30, 1_000), (IGNORES, 5, 2_000)}


def test_changes_are_what_a_restart_needs(gaps: OpenGaps) -> None:
    rows: set[OpenGap] = set()

    def write(changes: GapChanges) -> None:
        assert rows.issuperset(changes.closed)
        rows.difference_update(changes.closed)
        rows.update(changes.opened)

    for second in range(0, 100, 3):
        gaps.open("authors/0", second, second, DENSE)
        write(gaps.take_changes())
    gaps.close("authors/0", 10, 50)
    gaps.open("authors/1", 1, 2, REFUSED)
    write(gaps.take_changes())
    assert not gaps.take_changes()
    assert set(OpenGaps(RELAY, SyncStats(), rows)) == set(gaps) == rows


def test_gaps_of_a_chunk_go_to_its_halves_or_its_whole(gaps: OpenGaps) -> None:
    gaps.open("authors/0", 10, 10, DENSE)
    gaps.open("mentions/11", 20, 20, DENSE)
    gaps.open("global/", 30, 30, DENSE)
    gaps.open("profiles/0", 40, 40, DENSE)
    gaps.open("a form of its own", 50, 50, DENSE)
    gaps.follow({"authors/00", "authors/01", "authors/1", "mentions/1", "global/"})
    assert {(gap.form, gap.since) for gap in gaps} == {
        ("authors/00", 10), ("authors/01", 10), ("mentions/1", 20), ("global/", 30), ("a form of its own", 50)
    }  # fmt: skip


def test_too_many_gaps_become_fewer_that_cover_them(gaps: OpenGaps) -> None:
    missing = [(second * second, second * second) for second in range(2, MAX_GAPS + 200)]
    for low, high in missing:
        gaps.open("authors/0", low, high, DENSE)
    assert len(gaps) == MAX_GAPS
    assert all(any(gap.since <= low and high <= gap.until for gap in gaps) for low, high in missing)


def test_too_many_forms_share_a_gap_until_none_of_them_is_open(gaps: OpenGaps) -> None:
    for number in range(MAX_GAPS + 50):
        gaps.open(f"form {number}", number, number, REFUSED)
    assert len(gaps) == MAX_GAPS
    assert [(gap.since, gap.until) for gap in gaps if gap.form == MANY_FORMS] == [(0, 50)]
    for number in range(MAX_GAPS + 50):
        gaps.close(f"form {number}", 0, 10_000)
    assert not len(gaps)


def test_what_was_had_of_everything_closes_all_that_was_open_before(gaps: OpenGaps) -> None:
    gaps.open("authors/0", 10, 20, DENSE)
    gaps.open("mentions/", 10, 20, REFUSED)
    gaps.open("whole/", 10, 20, DENSE)
    gaps.now = 2_000
    gaps.open("authors/1", 10, 20, DENSE)
    gaps.close_all([(0, 14), (16, 30)], 1_500, but="whole/")
    assert sorted((gap.form, gap.since, gap.until) for gap in gaps) == [
        ("authors/0", 15, 15), ("authors/1", 10, 20), ("mentions/", 15, 15), ("whole/", 10, 20),
    ]  # fmt: skip


def test_firehose_gap_is_inherited_by_each_query_that_replaces_it(gaps: OpenGaps) -> None:
    """A relay that is no longer asked whole has not become complete by that."""
    gaps.open("whole/", 10, 20, DENSE)
    gaps.follow(["authors/0", "authors/1", "mentions/", "global/", "profiles/"])
    assert sorted(gap.form for gap in gaps) == ["authors/0", "authors/1", "global/", "mentions/"]
