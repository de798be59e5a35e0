"""What the stages waited for, from two or more scrapes."""

from tests.fakes.scrape import Scrape
from tests.tools.bench.waits import WaitSample, timeline, wait_figures

WAITED = 'event_service_stage_waited_seconds_total{{reason="lock",stage="saver"}} {}\n'
HELD = 'event_service_write_lock_held_seconds_total{{stage="saver"}} {}\n'
WRITES = 'event_service_write_transactions_total{{stage="saver"}} {}\n'


def sample(at: float, waited: float, held: float, writes: int) -> WaitSample:
    return WaitSample.of(Scrape(WAITED.format(waited) + HELD.format(held) + WRITES.format(writes)), at)


SAMPLES = [sample(100.0, 5.0, 1.0, 10), sample(101.0, 5.5, 1.0, 20), sample(104.0, 5.5, 2.0, 50)]


def test_shares_of_the_time_and_of_the_worst_span_are_shown() -> None:
    figures = {each.name: each for each in wait_figures(SAMPLES)}
    assert (figures["saver waited for lock"].value, figures["saver waited for lock"].note) == (12.5, "at most 50")
    assert (figures["saver held the write lock"].value, figures["saver held the write lock"].note) == (25, "at most 33")
    assert (figures["saver transactions"].value, figures["saver transactions"].unit) == (10, "/s")
    assert figures["saver transactions"].note == "25.00 ms each under the lock"


def test_what_did_not_wait_has_no_line() -> None:
    assert wait_figures([sample(0.0, 1.0, 1.0, 1), sample(10.0, 1.0, 1.0, 1)]) == []


def test_timeline_has_a_line_for_each_span() -> None:
    first, second = timeline(SAMPLES)
    assert "saver waited for lock 50" in first
    assert "held" not in first
    assert "saver held the write lock 33" in second


def test_service_without_these_metrics_has_no_figures() -> None:
    """As one of another revision."""
    empty = [WaitSample.of(Scrape(""), at) for at in (0.0, 1.0)]
    assert wait_figures(empty) == []
