"""How far back a relay is asked, whatever the clock said when times were noted."""

import pytest

from pipeline.crawl.sync.members import Member, Members
from pipeline.crawl.sync.query import Query, Subject
from pipeline.crawl.sync.timing import CrawlSettings, Horizon

WALL = 1_700_000_000
DAY = 86_400
SETTINGS = CrawlSettings(backfill=900, lookback=7 * DAY, resweep_window=3 * DAY, resweep_every=6 * 3_600)


def member(since: int) -> Member:
    return Member(bytes(32), since, 1)


@pytest.mark.parametrize("since", [WALL - 5, WALL + 5, WALL + 400 * DAY])
def test_author_wanted_by_a_clock_ahead_is_looked_back_for(since: int) -> None:
    horizon = Horizon(SETTINGS, WALL - 30 * DAY)
    assert horizon.lookback_since(Subject.AUTHORS, Members.of([member(since)]), WALL) == min(since, WALL) - 7 * DAY


def test_relay_crawled_by_a_clock_ahead_reaches_as_far_as_one_crawled_now() -> None:
    ahead, now = Horizon(SETTINGS, WALL + 400 * DAY), Horizon(SETTINGS, WALL)
    for query in (Query(Subject.AUTHORS, ""), Query(Subject.FIREHOSE, ""), Query(Subject.PROFILES, "")):
        assert ahead.initial_since(query, WALL) == now.initial_since(query, WALL)


@pytest.mark.parametrize(
    ("last", "is_due"),
    [(WALL - 6 * 3_600, True), (WALL - 6 * 3_600 + 1, False), (WALL + 900, False), (WALL + 901, True)],
)
def test_resweep_is_due_after_its_interval_or_a_time_that_cannot_be(last: int, is_due: bool) -> None:
    assert Horizon(SETTINGS, 0).is_resweep_due(WALL, last) == is_due
    assert Horizon(SETTINGS, 0).resweep_since(WALL, last) == WALL - 3 * DAY


def test_doubt_reaches_back_from_where_it_begins_until_it_is_dispelled() -> None:
    horizon = Horizon(SETTINGS, 0, doubted_since=WALL - 10 * DAY, doubted_at=WALL - 60)
    assert horizon.is_resweep_due(WALL, WALL - 61)
    assert horizon.resweep_since(WALL, WALL - 61) == WALL - 13 * DAY
    assert not horizon.is_resweep_due(WALL, WALL - 60)
    assert horizon.resweep_since(WALL, WALL - 60) == WALL - 3 * DAY
