"""Waiting for times that all processes share."""

import time

from pipeline.process.clock import until_next


def test_wait_ends_at_a_multiple_of_the_interval_whenever_it_began() -> None:
    every_s = 3600.0
    ends = [(time.monotonic() + until_next(every_s)) / every_s for _ in range(3)]
    assert all(abs(end - round(end)) < 0.001 for end in ends)
    assert 0 < until_next(every_s) <= every_s
