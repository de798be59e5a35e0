"""Cursors in memory: what a chunk may build on when it was cut from others or put together from them."""

import random

import pytest

from pipeline.crawl.sync.cursors import CursorTable, up_to_generation
from pipeline.crawl.sync.query import GLOBAL_QUERY, Query, Subject
from pipeline.store.cursors import Cursor

RELAY = 7


def cursor(key: str, until: int, generation: int = 1) -> Cursor:
    return Cursor(RELAY, key, until, generation)


def authors(prefix: str) -> Query:
    return Query(Subject.AUTHORS, prefix)


def known(*cursors: Cursor) -> CursorTable:
    return CursorTable(RELAY, cursors)


def test_a_host_behind_the_plan_does_not_take_on_what_another_followed() -> None:
    """What it fetches from there on is not complete for the newer authors, whom it looks back for later."""
    taken_over = up_to_generation(5, [cursor("authors/", 50, 10), cursor("mentions/", 60, 4)])
    assert taken_over == [cursor("authors/", 50, 5), cursor("mentions/", 60, 4)]
    assert CursorTable(RELAY, taken_over).advance("authors/", 200, 5) == cursor("authors/", 200, 5)


def test_what_was_never_fetched_has_no_cursor() -> None:
    coverage = known(cursor("mentions/", 100), cursor("resweep:authors/", 100))
    assert coverage.cursor_for(authors("")) is None
    assert coverage.cursor_for(authors("01")) is None
    assert coverage.cursor_for(GLOBAL_QUERY) is None


def test_a_chunk_goes_on_from_the_one_it_was_cut_from() -> None:
    """However many bits longer it is; a chunk beside it says nothing."""
    coverage = known(cursor("authors/01", 100, 5))
    assert coverage.cursor_for(authors("0110")) == cursor("authors/01", 100, 5)
    assert coverage.cursor_for(authors("00")) is None
    assert coverage.cursor_for(authors("0")) is None


def test_merged_chunk_is_covered_as_far_as_the_least_of_its_parts() -> None:
    coverage = known(cursor("authors/00", 300, 9), cursor("authors/010", 200, 4), cursor("authors/011", 100, 7))
    assert coverage.cursor_for(authors("0")) == cursor("authors/0", 100, 4)
    assert coverage.cursor_for(authors("01")) == cursor("authors/01", 100, 4)
    assert coverage.cursor_for(authors("")) is None, "nothing is known of the other half"


@pytest.mark.parametrize("missing", ["00", "010", "011"])
def test_it_is_not_covered_when_a_part_is_not(missing: str) -> None:
    parts = [cursor(f"authors/{prefix}", 100) for prefix in ("00", "010", "011") if prefix != missing]
    assert known(*parts).cursor_for(authors("0")) is None


def test_cursor_of_the_newest_members_counts_then_the_furthest() -> None:
    coverage = known(cursor("authors/", 100, 9), cursor("authors/0", 300, 5), cursor("authors/01", 200, 9))
    assert coverage.cursor_for(authors("01")) == cursor("authors/01", 200, 9)
    assert coverage.cursor_for(authors("00")) == cursor("authors/", 100, 9)


def test_progress_never_goes_back_and_is_returned_to_be_committed() -> None:
    coverage = known()
    assert coverage.advance("authors/0", 100, 3) == cursor("authors/0", 100, 3)
    assert coverage.advance("authors/0", 50, 4) == cursor("authors/0", 100, 4)
    assert coverage.advance("authors/0", 150, 2) == cursor("authors/0", 150, 4)
    assert coverage.cursor_for(authors("0")) == coverage.get("authors/0") == cursor("authors/0", 150, 4)
    assert coverage.get("authors/1") is None


def test_the_key_of_one_subject_is_not_taken_for_another() -> None:
    coverage = known(cursor("authors/0", 100))
    assert coverage.cursor_for(Query(Subject.MENTIONS, "01")) is None
    assert coverage.cursor_for(Query(Subject.PROFILES, "0")) is None


def test_finding_out_that_nothing_is_covered_takes_few_look_ups() -> None:
    """It happens for every query of every new relay, each time that something may be due."""

    class Counting(dict[str, Cursor]):
        looked_up = 0

        def __contains__(self, key: object) -> bool:
            self.looked_up += 1
            return super().__contains__(key)

        def get(self, key: str, default: Cursor | None = None) -> Cursor | None:  # type: ignore[override]
            # narrower than dict's on purpose: only this form is used
            self.looked_up += 1
            return super().get(key, default)

    coverage = known()
    counting = Counting()
    coverage._cursors = counting
    assert coverage.cursor_for(authors("0101")) is None
    assert counting.looked_up < 40


def test_cursor_of_another_tier_says_nothing() -> None:
    coverage = known(cursor("authors/", 100, 9), cursor("authors/01", 300, 9), cursor("authors/2.0", 200, 4))
    assert coverage.cursor_for(authors("2.01")) == cursor("authors/2.0", 200, 4)
    assert coverage.cursor_for(authors("2.1")) is None
    assert coverage.cursor_for(authors("1.01")) is None
    assert coverage.cursor_for(authors("01")) == cursor("authors/01", 300, 9)


def test_chunk_of_a_tier_that_was_put_together_is_covered_by_its_parts() -> None:
    coverage = known(cursor("authors/3.00", 300, 9), cursor("authors/3.01", 200, 4))
    assert coverage.cursor_for(authors("3.0")) == cursor("authors/3.0", 200, 4)


def test_cursor_that_moves_leaves_what_was_found_of_other_chunks() -> None:
    """Hundreds of chunks are asked about each time that something may be due, and one moves several times a second."""
    coverage = known(cursor("authors/3.00", 300, 9), cursor("authors/3.01", 200, 4), cursor("authors/2.0", 100, 1))
    names = ("3.00", "3.01", "3.0", "3.010", "2.0", "2.01")
    found = {name: coverage.cursor_for(authors(name)) for name in names}
    coverage.advance("authors/3.01", 400, 10)
    moved = {"3.01", "3.010", "3.0"}
    assert all(coverage.cursor_for(authors(name)) is found[name] for name in set(names) - moved)
    assert coverage.cursor_for(authors("3.010")) == cursor("authors/3.01", 400, 10)
    assert coverage.cursor_for(authors("3.0")) == cursor("authors/3.0", 300, 9)


@pytest.mark.parametrize("seed", range(20))
def test_what_was_found_before_is_what_would_be_found_now(seed: int) -> None:
    rng = random.Random(seed)

    def any_chunk() -> str:
        return rng.choice(("", "3.")) + "".join(rng.choice("01") for _ in range(rng.randrange(5)))

    asked, kept = known(), dict[str, Cursor]()
    for _ in range(100):
        key = f"authors/{any_chunk()}"
        kept[key] = asked.advance(key, rng.randrange(100), rng.randrange(10))
        for chunk in (authors(any_chunk()) for _ in range(5)):
            assert asked.cursor_for(chunk) == known(*kept.values()).cursor_for(chunk)
