"""Faults of the service's own processes."""

import os
import re
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.fakes.procs import process
from tests.fakes.pubsub_rules import Rule
from tests.fakes.service import EventService
from tests.tools.chaos import hooks
from tests.tools.chaos.faults import Play, fault
from tests.tools.chaos.harness import EXPECTED, ChaosHarness
from tests.tools.chaos.health_oracle import SinkStatus
from tests.tools.chaos.queues import PUBSUB
from tests.tools.chaos.refusals import CANNOT_START

SERVICE = "service"
FORWARDER = "second forwarder"
STAGES = sorted({name for name, _ in EXPECTED})
# Longer than a stage may be silent, so that its supervisor has to kill it.
_TOO_LONG_S = 36.0
_STEP_S = 0.5
# A second supervisor waits for the first to end, as one does that is restarted.
_REFUSED_WITHIN_S = 60.0
# Eight seconds until the thread counts as asleep, thirty without a beat, and some to spare.
_FROZEN_THREAD_S = 60.0
_SPARE_BYTES = 8 << 20
_KILLED = re.compile(r'"stage hangs, killing it".*?"pid": (\d+)')


def _kill(name: str) -> Callable[[ChaosHarness], Play]:
    def play(harness: ChaosHarness) -> Play:
        for _ in range(harness.rng.choice((1, 1, 2))):
            victim = harness.some_stage(name)
            if victim is not None:
                harness.kill_stages([victim])
            yield harness.rng.uniform(0.2, 2.0)

    return play


def _term(name: str) -> Callable[[ChaosHarness], Play]:
    def play(harness: ChaosHarness) -> Play:
        victim = harness.some_stage(name)
        if victim is not None:
            harness.killed_pids.add(victim.pid)
            with suppress(ProcessLookupError):
                victim.signal(signal.SIGTERM)
        yield harness.rng.uniform(0.5, 2.0)

    return play


def _freeze(name: str) -> Callable[[ChaosHarness], Play]:
    def play(harness: ChaosHarness) -> Play:
        victim = harness.some_stage(name)
        if victim is None:
            return
        harness.killed_pids.add(victim.pid)
        with harness.frozen([victim]):
            if name in ("forwarder", "sender"):
                harness.allow_in_flight()
            yield harness.rng.uniform(2.0, 14.0)

    return play


for _name in STAGES:
    fault(f"kill-{_name}", SERVICE)(_kill(_name))
    fault(f"term-{_name}", SERVICE, weight=0.3)(_term(_name))
    fault(f"freeze-{_name}", SERVICE, weight=0.7)(_freeze(_name))


@fault("hang-stage", SERVICE, least_minutes=1.5)
def hang_stage(harness: ChaosHarness) -> Play:
    """A stage stands still for so long that its supervisor kills it."""
    victim = harness.some_stage()
    if victim is None:
        return
    harness.killed_pids.add(victim.pid)
    with harness.frozen([victim]):
        harness.allow_in_flight()
        began = time.monotonic()
        # Another fault that stops it too, to see what it holds, wakes it at its end.
        while (left := process(victim.pid)) is not None and left.state in "Tt":
            if harness.clock.between(began, time.monotonic()) > _TOO_LONG_S:
                what = f"{victim.name}-{victim.slot} stood still for {_TOO_LONG_S} s and was left alone"
                harness.violations.append(what)
                break
            yield _STEP_S


@fault("kill-all-stages", SERVICE)
def kill_all_stages(harness: ChaosHarness) -> Play:
    """Every stage at the same moment, as an OOM killer may."""
    harness.kill_stages([one for one in harness.service.stages() if one.slot is not None])
    yield harness.rng.uniform(1.0, 3.0)


@fault("kill-supervisor", SERVICE, least_minutes=1.5)
def kill_supervisor(harness: ChaosHarness) -> Play:
    """SIGKILL to the supervisor; the stages end by themselves, then all is started again."""
    harness.uncertain_faults += 1
    harness.kill_supervisor()
    yield harness.rng.uniform(0.0, 2.0)
    harness.start_again()
    harness.uncertain_faults -= 1


@fault("crash", SERVICE)
def crash(harness: ChaosHarness) -> Play:
    """The whole service at once, then started again."""
    harness.uncertain_faults += 1
    with harness.frozen(harness.carriers()):
        harness.allow_in_flight()
        harness.kill_all()
    yield harness.rng.uniform(0.0, 2.0)
    harness.start_again()
    harness.uncertain_faults -= 1


@fault("restart", SERVICE)
def restart(harness: ChaosHarness) -> Play:
    """SIGTERM to the supervisor, as an upgrade does, then started again."""
    harness.uncertain_faults += 1
    if harness.end_in_order() != 0:
        harness.allow_in_flight()
    yield harness.rng.uniform(0.0, 1.0)
    harness.start_again()
    harness.uncertain_faults -= 1


@fault("restarts-in-outage", SERVICE, least_minutes=1.5)
def restarts_in_outage(harness: ChaosHarness) -> Play:
    """Orderly restarts while Pub/Sub is away, each of which gives back what is held; that counts against no event."""
    if not harness.is_alone:
        return
    harness.uncertain_faults += 1
    with harness.sink_is(PUBSUB, SinkStatus.DOWN):
        harness.environment.pubsub.set_rules(Rule(status="UNAVAILABLE"))
        for _ in range(3):
            if harness.end_in_order() != 0:
                harness.allow_in_flight()
            harness.start_again()
            yield harness.rng.uniform(1.0, 2.0)
        harness.environment.pubsub.set_rules()
    harness.uncertain_faults -= 1


@fault("second-supervisor", SERVICE, least_minutes=1.5)
def second_supervisor(harness: ChaosHarness) -> Play:
    """Another one on the same database, from a shell without the runtime directory, is refused with one clear line."""
    directory = harness.service.directory / "second"
    directory.mkdir(exist_ok=True)
    second = EventService(directory, harness.service.env)
    second.env |= {"EVENTS_RUNTIME_DIRECTORY": str(directory / "runtime")}
    second.start(wait=False)
    began = time.monotonic()
    while second.running and time.monotonic() - began < _REFUSED_WITHIN_S:
        yield _STEP_S
    if second.running:
        harness.violations.append("two supervisors run on one database")
        second.kill()
    elif second.wait_exit() != CANNOT_START or "another supervisor" not in second.log_text():
        harness.violations.append(f"a second supervisor was refused thus: {second.log_text()[-500:]}")
    second.close()


@fault("freeze-reactor", SERVICE, least_minutes=1.5)
def freeze_reactor(harness: ChaosHarness) -> Play:
    """The thread that reads all relays stands still, while the main loop of its crawler turns."""
    harness.uncertain_faults += 1
    before = {one.pid for one in harness.service.stages("crawler")}
    harness.killed_pids.update(before)
    asleep = hooks.asleep_in(harness.hooks)
    asleep.touch()
    began = time.monotonic()
    while before & {one.pid for one in harness.service.stages("crawler")}:
        if harness.clock.between(began, time.monotonic()) > _FROZEN_THREAD_S:
            harness.violations.append(f"a crawler whose reactor stood still for {_FROZEN_THREAD_S} s was left alone")
            break
        yield _STEP_S
    asleep.unlink()
    yield 1.0
    harness.uncertain_faults -= 1


@fault("freeze-supervisor", SERVICE)
def freeze_supervisor(harness: ChaosHarness) -> Play:
    """The supervisor stands still; nobody is to be killed for that afterwards."""
    logged = len(harness.service.log_text())
    harness.uncertain_faults += 1
    harness.service.child.signal(signal.SIGSTOP)
    yield harness.rng.uniform(5.0, 40.0 if harness.rng.random() < 0.3 else 10.0)
    harness.service.child.signal(signal.SIGCONT)
    yield 3.0
    harness.uncertain_faults -= 1
    # A stage may end meanwhile for a reason of its own, as a full disk; its supervisor must not have killed it.
    killed = {int(pid) for pid in _KILLED.findall(harness.service.log_text()[logged:])}
    if killed - harness.killed_pids:
        harness.violations.append("a stage was ended because its supervisor had stood still")


@fault("second-forwarder", FORWARDER)
def second_forwarder(harness: ChaosHarness) -> Play:
    """`stage forwarder` by hand beside the service, ended in order or killed."""
    manual_stages = EventService.stage("forwarder", harness.service.directory, harness.service.env)
    harness.manual_stages.append(manual_stages)
    manual_stages.start(wait=False)
    yield harness.rng.uniform(5.0, 12.0)
    if manual_stages in harness.manual_stages:
        if harness.rng.random() < 0.5:
            harness.kill_stages(manual_stages.stages())
            manual_stages.close()
            harness.manual_stages.remove(manual_stages)
        else:
            harness.stop_by_hand()


@fault("few-descriptors", SERVICE, weight=0.7)
def few_descriptors(harness: ChaosHarness) -> Play:
    """A crawler may open nothing more for a while, and its connections drop."""
    victim = harness.some_stage("crawler")
    if victim is None:
        return
    with suppress(ProcessLookupError):
        soft, hard = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (victim.process.open_files(), hard))
        for peer in harness.environment.scripted:
            peer.drop()
        harness.killed_pids.add(victim.pid)
        yield harness.rng.uniform(3.0, 6.0)
        resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (soft, hard))


@fault("little-memory", SERVICE, weight=0.7)
def little_memory(harness: ChaosHarness) -> Play:
    """A stage gets no more memory for a while."""
    victim = harness.some_stage(harness.rng.choice(("saver", "crawler", "sweeper")))
    if victim is None:
        return
    harness.killed_pids.add(victim.pid)
    with suppress(ProcessLookupError):
        pages = int(Path(f"/proc/{victim.pid}/statm").read_text().split()[0])
        _, hard = resource.prlimit(victim.pid, resource.RLIMIT_AS)
        resource.prlimit(victim.pid, resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + _SPARE_BYTES, hard))
        yield harness.rng.uniform(3.0, 6.0)
        resource.prlimit(victim.pid, resource.RLIMIT_AS, (hard, hard))
