import random

from pipeline.process.backoff import Backoff
from pipeline.process.restart import Restart, RestartPolicy
from tests.support.seeds import told_seed

EXACT = RestartPolicy(Backoff(base_s=1, factor=2, cap_s=10), healthy_s=60)


def test_failures_in_a_row_are_restarted_later_and_later() -> None:
    failures, waits = 0, []
    for _ in range(6):
        restart = EXACT.after_exit(failures, healthy_for_s=59, now_s=100, rng=random.Random(1))
        failures = restart.failures
        waits.append(restart.at_s - 100)
    assert failures == 6
    assert waits == [0, 1, 2, 4, 8, 10]


def test_healthy_minute_earns_a_restart_at_once() -> None:
    assert EXACT.after_exit(9, healthy_for_s=60, now_s=100, rng=random.Random(1)) == Restart(failures=1, at_s=100)


def test_default_waits_from_the_second_failure_on_and_a_minute_at_most() -> None:
    rng = random.Random(told_seed())
    waits = [RestartPolicy().after_exit(failures, 0, 0, rng).at_s for failures in range(1, 100)]
    assert min(waits) >= 0.25
    assert max(waits) <= 60
