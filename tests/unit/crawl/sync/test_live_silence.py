"""Silences of live subscriptions that are longer than what came before lets expect."""

import math
import random
from itertools import pairwise

from pipeline.crawl.sync.live.silence import EXPECTED_EVENTS, LEAST_EVENTS, LEAST_S, MAX_PAUSE_S, PAUSE_S, LiveSilence
from tests.simulation.test_live_trust import crawl, limits, stream, tails


def busy(until: float, every: float) -> LiveSilence:
    silence, at = LiveSilence(), 0.0
    while at < until:
        silence.on_live(at)
        at += every
    return silence


def test_silence_is_long_by_what_came_before() -> None:
    assert busy(10.0, 0.1).due_at - 10.0 <= LEAST_S
    assert abs(busy(3_000.0, 10.0).due_at - (2_990.0 + EXPECTED_EVENTS * 10.0)) <= 10.0
    assert busy(LEAST_EVENTS - 1.5, 1.0).due_at == math.inf


def test_each_silence_is_looked_into_once_and_lulls_ever_later() -> None:
    silence, at, taken = busy(10.0, 0.1), 10.0, list[float]()
    for _ in range(20):
        for _ in range(100):
            at += 0.1
            silence.on_live(at)
        end = at + 60.0
        while at < end:
            at += 1.0
            if silence.take_long(at):
                taken.append(at)
    waits = [later - earlier for earlier, later in pairwise(taken)]
    assert min(waits) >= PAUSE_S
    assert max(waits) <= MAX_PAUSE_S + 140.0
    assert waits[-1] >= MAX_PAUSE_S


def test_steady_traffic_is_no_silence() -> None:
    rng, silence, at = random.Random(1), LiveSilence(), 0.0
    for _ in range(5_000):
        at += rng.expovariate(1.0)
        assert not silence.take_long(at)
        silence.on_live(at)


def test_dropped_subscription_is_detected_before_the_next_regular_sweep() -> None:
    """It brought an event every two seconds; then they are kept back."""
    sim = crawl()
    sim.max_idle_turns = 10_000
    times = tails(sim)
    stream(sim, 5, 400, 2)
    kept = stream(sim, 401, 500, 2, is_live=False)
    sim.run_until(400)
    before = len(times)
    sim.run_until(400 + EXPECTED_EVENTS * 2 + 15)
    assert len(times) > before
    assert {each.id for each in kept[:15]} <= sim.delivered
    assert limits(sim).refuses_zero, "it is subscribed to anew"
