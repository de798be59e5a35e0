"""One run from beginning to end."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.store import lease
from tests.fakes.child import ROOT
from tests.fakes.net import pause
from tests.support.run_folder import copy_run
from tests.tools.chaos import point_faults, process_faults, relay_faults, server_faults, sink_faults, store_faults
from tests.tools.chaos.delivery_oracle import Arrived, due_at_relay, judge_deliveries
from tests.tools.chaos.disk import small_disk
from tests.tools.chaos.environment import Environment
from tests.tools.chaos.faults import FAULTS, Fault
from tests.tools.chaos.harness import MAX_CLOCK_ERROR_S, ChaosHarness
from tests.tools.chaos.invariants import Watcher
from tests.tools.chaos.patched_source import PatchedSource
from tests.tools.chaos.refusals import refusals
from tests.tools.chaos.report import Report
from tests.tools.chaos.scheduler import FaultScheduler
from tests.tools.chaos.store_faults import LEAST_CLOCK_ERROR_S, set_clock_right

RATE = 60.0
"""Events a second, so that two cores are not the limit."""
# How far back late events are dated: without resweeps no further than the crawl overlaps with what it had.
LATE_S = {True: 2_400, False: 600}
SHORT_MINUTES = 2.0
"""Runs up to this wait less long for what is due at the end."""
# Nobody holds a row for longer, and what was put off by a wrong clock is called back.
MAX_LEASE_S = 600
# Rows that failed alone are put off by an hour at most. A clock that was ahead may have put them off by more, up to
# where the service calls them back.
MAX_WAIT_S = lease.MAX_WAIT_MS / 1000
LINGER_S = 3.0
_POLL_S = 1.0
_MAX_WAITS = 4
_FLUSH_LIMIT_S = 600.0

FIRST_WRONG_S = 8.0
"""For how long a clock that is wrong at the first start stays so."""
MODULES = (point_faults, process_faults, relay_faults, server_faults, sink_faults, store_faults)
"""Imported for the faults that they enter."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. `settle_s`: for how long nothing may arrive of what is due after the last fault,
    `hurry_s`: the same after a restart. `resweep`: see `ChaosHarness.start`; `None` leaves it to the seed.
    `second_sink`: a file beside Pub/Sub. `keep`: where the files of a failed run are copied to.
    `source`: the checkout whose service is run, after `damage`.
    """

    seed: int
    minutes: float = 10.0
    kinds: tuple[str, ...] = ()
    settle_s: float = 240.0
    hurry_s: float = 90.0
    resweep: bool | None = None
    second_sink: bool = False
    keep: Path | None = None
    source: Path = ROOT
    damage: Callable[[PatchedSource], None] | None = None

    @property
    def resweeps(self) -> bool:
        """Whether the service resweeps."""
        return random.Random(f"resweep {self.seed}").random() < 0.5 if self.resweep is None else self.resweep

    @property
    def wrong_s(self) -> float:
        """By how many seconds the clock is wrong when the service is started for the first time; 0 in a third."""
        chance = random.Random(f"first clock {self.seed}")
        return chance.choice((-1, 0, 1)) * chance.uniform(LEAST_CLOCK_ERROR_S, MAX_CLOCK_ERROR_S)

    def faults(self) -> Sequence[Fault]:
        """The kinds to inject; raises `KeyError` for an unknown name."""
        if self.kinds:
            return [FAULTS[kind] for kind in self.kinds]
        return [fault for fault in FAULTS.values() if self.minutes >= fault.least_minutes]


def run(options: Options, say: Callable[[str], None]) -> Report:
    """Start environment and service, inject faults, end them, and judge what was delivered."""
    began = time.monotonic()
    report = Report(options.seed, options.minutes, options.resweeps)
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        environment = Environment.start(options.seed, directory, rate=RATE, late_s=LATE_S[options.resweeps])
        try:
            _with_world(options, environment, directory, report, say)
        finally:
            environment.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report.seconds = time.monotonic() - began
    return report


def _with_world(
    options: Options, environment: Environment, directory: Path, report: Report, say: Callable[[str], None]
) -> None:
    tree = PatchedSource(directory / "tree", options.source)
    if options.damage is not None:
        options.damage(tree)
    rng = random.Random(f"faults {options.seed}")
    with small_disk(directory / "service" / "disk") as mounted:
        wrong_s = options.wrong_s
        harness = ChaosHarness.start(
            environment, directory / "service", tree, rng, resweep=options.resweeps, wrong_s=wrong_s,
            file=directory / "second.jsonl" if options.second_sink else None,
        )  # fmt: skip
        if wrong_s:
            say(f"the clock is wrong by {wrong_s / 3600:+.1f} h at the first start")
        harness.has_small_disk = mounted
        try:
            _play(options, harness, report, say)
            if options.kinds == ():
                report.violations += refusals(harness)
        finally:
            harness.close()
            if options.keep is not None and not report.ok:
                copy_run(directory, options.keep)


def _play(options: Options, harness: ChaosHarness, report: Report, say: Callable[[str], None]) -> None:
    harness.environment.live_with(harness.service)
    watcher = Watcher(harness)
    conductor = FaultScheduler(harness, options.faults(), options.seed, say)
    report.faults = conductor.injected
    report.violations = harness.violations
    watcher.start()
    try:
        if options.wrong_s:
            set_clock_right(harness, FIRST_WRONG_S)
        conductor.run(options.minutes * 60)
        harness.stop_by_hand()
        harness.environment.settle(_FLUSH_LIMIT_S)
        say("healed; waiting for what is due")
        _settle(options, harness, report, say)
    finally:
        harness.uncertain_faults += 1
        watcher.stop()
    harness.stop_in_order()
    watcher.look_at_conduct()
    report.violations += watcher.violations
    conductor.recoveries(watcher.samples, harness.environment.rate)
    _conclude(harness, watcher, report)


def _settle(options: Options, harness: ChaosHarness, report: Report, say: Callable[[str], None]) -> None:
    """Wait until all that is due has come; in the end by a restart that cuts short what waits by intention."""
    oracle = harness.environment.oracle()
    due, at_relay = oracle.required(), due_at_relay(oracle)
    arrived = Arrived(harness)
    began = time.monotonic()
    if not _wait(harness, arrived, due, at_relay, options.settle_s, say):
        for failed, most_s in ((False, MAX_LEASE_S), (True, MAX_WAIT_S)):
            if (wait_s := harness.queues.longest_wait_s(failed=failed)) > most_s:
                harness.violations.append(f"a row that has {'' if failed else 'not '}failed waits for {wait_s:.0f} s")
        harness.uncertain_faults += 1
        harness.stop_in_order()
        report.hurried = harness.queues.clear_waits()
        harness.start_again()
        harness.uncertain_faults -= 1
        _wait(harness, arrived, due, at_relay, options.hurry_s, say)
    report.settled_after_s = time.monotonic() - began
    pause(LINGER_S)


def _wait(
    harness: ChaosHarness,
    arrived: Arrived,
    due: set[str],
    at_relay: set[str],
    limit_s: float,
    say: Callable[[str], None],
) -> bool:
    """Wait until all has come; False if nothing came for `limit_s` by the compensated clock, or after far too long."""
    began = moved = told_at = time.monotonic()
    fewest = len(due) + len(at_relay) + 1
    while True:
        missing = arrived.missing(due, at_relay)
        now = time.monotonic()
        if not any(missing.values()):
            return True
        if (left := sum(map(len, missing.values()))) < fewest:
            fewest, moved = left, now
        if now - told_at >= 10.0:
            told_at = now
            what = ", ".join(f"{len(ids)} at {sink}" for sink, ids in missing.items())
            say(f"{now - began:6.1f} s  missing: {what}")
        if harness.clock.between(moved, now) >= limit_s or now - began >= _MAX_WAITS * limit_s:
            return False
        pause(_POLL_S)


def _conclude(harness: ChaosHarness, watcher: Watcher, report: Report) -> None:
    environment = harness.environment
    report.sinks = judge_deliveries(harness, environment.oracle())
    report.buried = harness.queues.buried()
    report.refused = harness.queues.refusals()
    report.peaks = watcher.peaks
    report.points = {str(point): harness.points_reached[str(point)] for point in point_faults.POINTS}
    report.points |= harness.points_reached
    report.outages = {judge.sink: judge.telling for judge in watcher.sinks}
    report.upgraded_from = harness.upgraded_from
    report.behaviours = sorted(harness.behaviours)
    report.frames_lost, report.sectors_lost = harness.frames_lost, harness.sectors_lost
    if faults := harness.queues.integrity():
        report.violations.append(f"the database is damaged: {faults}")
    report.published, report.registered = environment.published, len(environment.registered)
    report.health_looks, report.metrics_looks = watcher.health_looks, watcher.metrics_looks
