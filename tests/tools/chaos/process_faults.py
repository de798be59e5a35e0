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
from tests.tools.chaos.queues import PUBSUB
from tests.tools.chaos.refusals import CANNOT_START
from tests.tools.chaos.scene import EXPECTED, Scene
from tests.tools.chaos.sink_truth import Standing

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


def _kill(name: str) -> Callable[[Scene], Play]:
    def play(scene: Scene) -> Play:
        for _ in range(scene.rng.choice((1, 1, 2))):
            victim = scene.some_stage(name)
            if victim is not None:
                scene.kill_stages([victim])
            yield scene.rng.uniform(0.2, 2.0)

    return play


def _term(name: str) -> Callable[[Scene], Play]:
    def play(scene: Scene) -> Play:
        victim = scene.some_stage(name)
        if victim is not None:
            scene.victims.add(victim.pid)
            with suppress(ProcessLookupError):
                victim.signal(signal.SIGTERM)
        yield scene.rng.uniform(0.5, 2.0)

    return play


def _freeze(name: str) -> Callable[[Scene], Play]:
    def play(scene: Scene) -> Play:
        victim = scene.some_stage(name)
        if victim is None:
            return
        scene.victims.add(victim.pid)
        with scene.frozen([victim]):
            if name in ("forwarder", "sender"):
                scene.allow_in_flight()
            yield scene.rng.uniform(2.0, 14.0)

    return play


for _name in STAGES:
    fault(f"kill-{_name}", SERVICE)(_kill(_name))
    fault(f"term-{_name}", SERVICE, weight=0.3)(_term(_name))
    fault(f"freeze-{_name}", SERVICE, weight=0.7)(_freeze(_name))


@fault("hang-stage", SERVICE, least_minutes=1.5)
def hang_stage(scene: Scene) -> Play:
    """A stage stands still for so long that its supervisor kills it."""
    victim = scene.some_stage()
    if victim is None:
        return
    scene.victims.add(victim.pid)
    with scene.frozen([victim]):
        scene.allow_in_flight()
        began = time.monotonic()
        # Another fault that stops it too, to see what it holds, wakes it at its end.
        while (left := process(victim.pid)) is not None and left.state in "Tt":
            if scene.clock.between(began, time.monotonic()) > _TOO_LONG_S:
                what = f"{victim.name}-{victim.slot} stood still for {_TOO_LONG_S} s and was left alone"
                scene.violations.append(what)
                break
            yield _STEP_S


@fault("kill-all-stages", SERVICE)
def kill_all_stages(scene: Scene) -> Play:
    """Every stage at the same moment, as an OOM killer may."""
    scene.kill_stages([one for one in scene.service.stages() if one.slot is not None])
    yield scene.rng.uniform(1.0, 3.0)


@fault("kill-supervisor", SERVICE, least_minutes=1.5)
def kill_supervisor(scene: Scene) -> Play:
    """SIGKILL to the supervisor; the stages end by themselves, then all is started again."""
    scene.doubts += 1
    scene.kill_supervisor()
    yield scene.rng.uniform(0.0, 2.0)
    scene.start_again()
    scene.doubts -= 1


@fault("crash", SERVICE)
def crash(scene: Scene) -> Play:
    """The whole service at once, then started again."""
    scene.doubts += 1
    with scene.frozen(scene.carriers()):
        scene.allow_in_flight()
        scene.kill_all()
    yield scene.rng.uniform(0.0, 2.0)
    scene.start_again()
    scene.doubts -= 1


@fault("restart", SERVICE)
def restart(scene: Scene) -> Play:
    """SIGTERM to the supervisor, as an upgrade does, then started again."""
    scene.doubts += 1
    if scene.end_in_order() != 0:
        scene.allow_in_flight()
    yield scene.rng.uniform(0.0, 1.0)
    scene.start_again()
    scene.doubts -= 1


@fault("restarts-in-outage", SERVICE, least_minutes=1.5)
def restarts_in_outage(scene: Scene) -> Play:
    """Orderly restarts while Pub/Sub is away, each of which gives back what is held; that counts against no event."""
    if not scene.is_alone:
        return
    scene.doubts += 1
    with scene.sink_is(PUBSUB, Standing.DOWN):
        scene.world.pubsub.set_rules(Rule(status="UNAVAILABLE"))
        for _ in range(3):
            if scene.end_in_order() != 0:
                scene.allow_in_flight()
            scene.start_again()
            yield scene.rng.uniform(1.0, 2.0)
        scene.world.pubsub.set_rules()
    scene.doubts -= 1


@fault("second-supervisor", SERVICE, least_minutes=1.5)
def second_supervisor(scene: Scene) -> Play:
    """Another one on the same database, from a shell without the runtime directory, is refused with one clear line."""
    directory = scene.service.directory / "second"
    directory.mkdir(exist_ok=True)
    second = EventService(directory, scene.service.env)
    second.env |= {"EVENTS_RUNTIME_DIRECTORY": str(directory / "runtime")}
    second.start(wait=False)
    began = time.monotonic()
    while second.running and time.monotonic() - began < _REFUSED_WITHIN_S:
        yield _STEP_S
    if second.running:
        scene.violations.append("two supervisors run on one database")
        second.kill()
    elif second.wait_exit() != CANNOT_START or "another supervisor" not in second.log_text():
        scene.violations.append(f"a second supervisor was refused thus: {second.log_text()[-500:]}")
    second.close()


@fault("freeze-reactor", SERVICE, least_minutes=1.5)
def freeze_reactor(scene: Scene) -> Play:
    """The thread that reads all relays stands still, while the main loop of its crawler turns."""
    scene.doubts += 1
    before = {one.pid for one in scene.service.stages("crawler")}
    scene.victims.update(before)
    asleep = hooks.asleep_in(scene.hooks)
    asleep.touch()
    began = time.monotonic()
    while before & {one.pid for one in scene.service.stages("crawler")}:
        if scene.clock.between(began, time.monotonic()) > _FROZEN_THREAD_S:
            scene.violations.append(f"a crawler whose reactor stood still for {_FROZEN_THREAD_S} s was left alone")
            break
        yield _STEP_S
    asleep.unlink()
    yield 1.0
    scene.doubts -= 1


@fault("freeze-supervisor", SERVICE)
def freeze_supervisor(scene: Scene) -> Play:
    """The supervisor stands still; nobody is to be killed for that afterwards."""
    logged = len(scene.service.log_text())
    scene.doubts += 1
    scene.service.child.signal(signal.SIGSTOP)
    yield scene.rng.uniform(5.0, 40.0 if scene.rng.random() < 0.3 else 10.0)
    scene.service.child.signal(signal.SIGCONT)
    yield 3.0
    scene.doubts -= 1
    # A stage may end meanwhile for a reason of its own, as a full disk; its supervisor must not have killed it.
    killed = {int(pid) for pid in _KILLED.findall(scene.service.log_text()[logged:])}
    if killed - scene.victims:
        scene.violations.append("a stage was ended because its supervisor had stood still")


@fault("second-forwarder", FORWARDER)
def second_forwarder(scene: Scene) -> Play:
    """`stage forwarder` by hand beside the service, ended in order or killed."""
    by_hand = EventService.stage("forwarder", scene.service.directory, scene.service.env)
    scene.by_hand.append(by_hand)
    by_hand.start(wait=False)
    yield scene.rng.uniform(5.0, 12.0)
    if by_hand in scene.by_hand:
        if scene.rng.random() < 0.5:
            scene.kill_stages(by_hand.stages())
            by_hand.close()
            scene.by_hand.remove(by_hand)
        else:
            scene.stop_by_hand()


@fault("few-descriptors", SERVICE, weight=0.7)
def few_descriptors(scene: Scene) -> Play:
    """A crawler may open nothing more for a while, and its connections drop."""
    victim = scene.some_stage("crawler")
    if victim is None:
        return
    with suppress(ProcessLookupError):
        soft, hard = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (victim.process.open_files(), hard))
        for peer in scene.world.scripted:
            peer.drop()
        scene.victims.add(victim.pid)
        yield scene.rng.uniform(3.0, 6.0)
        resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (soft, hard))


@fault("little-memory", SERVICE, weight=0.7)
def little_memory(scene: Scene) -> Play:
    """A stage gets no more memory for a while."""
    victim = scene.some_stage(scene.rng.choice(("saver", "crawler", "sweeper")))
    if victim is None:
        return
    scene.victims.add(victim.pid)
    with suppress(ProcessLookupError):
        pages = int(Path(f"/proc/{victim.pid}/statm").read_text().split()[0])
        _, hard = resource.prlimit(victim.pid, resource.RLIMIT_AS)
        resource.prlimit(victim.pid, resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + _SPARE_BYTES, hard))
        yield scene.rng.uniform(3.0, 6.0)
        resource.prlimit(victim.pid, resource.RLIMIT_AS, (hard, hard))
