"""A supervisor and stages that behave as the environment says; run as `python -m tests.fakes.stages`.

    supervise [--env-file=FILE]                             the stages of FAKE_SPECS
    stage NAME [INDEX] [--supervised] [--env-file=FILE]     one stage

FAKE_SPECS: `name:count:drain_order,…`. FAKE_BEHAVIOUR: `slot-or-stage=behaviour,…`, see BEHAVIOURS; the default is
`steady`. FAKE_TIMES: JSON, fields of `Timeouts` (`restart_base_s` for the policy's). FAKE_ORPHAN_GRACE:
`ORPHAN_GRACE_S`.
FAKE_SLOT_WAIT: how long a supervised stage waits for its slot, in seconds.
FAKE_FAULT: see `faulty`.
FAKE_SHOWN: the folder where `showing` writes.
FAKE_JOURNAL: a FIFO that gets one line `EVENT SLOT PID` for everything a stage does.
"""

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.errors import CannotStart, EventServiceError, NoRoom, Outdated
from pipeline.process import stage
from pipeline.process.backoff import Backoff
from pipeline.process.restart import RestartPolicy
from pipeline.process.slots import Slot
from pipeline.process.stage import StageContext, run_stage
from pipeline.process.supervision import SETTINGS_FILE, supervise
from pipeline.process.supervisor import StageSpec, Timeouts
from pipeline.settings.reload import ReloadableConfig

BEAT_EVERY_S = 0.05
TOIL_S = 0.3


def note(event: str, ctx: StageContext) -> None:
    """Tell the test; lines are short enough for one write each."""
    with Path(os.environ["FAKE_JOURNAL"]).open("ab", buffering=0) as journal:
        journal.write(f"{event} {ctx.slot.name} {os.getpid()}\n".encode())


def beat_until_stop(ctx: StageContext) -> None:
    ctx.heartbeat.beat()
    note("ready", ctx)
    while not ctx.stop.wait(BEAT_EVERY_S):
        ctx.heartbeat.beat()


def steady(ctx: StageContext) -> None:
    """Works until told to stop."""
    beat_until_stop(ctx)


def stubborn(ctx: StageContext) -> None:
    """Beats for ever."""
    beat_until_stop(ctx)
    note("stopping", ctx)
    while True:
        threading.Event().wait(BEAT_EVERY_S)
        ctx.heartbeat.beat()


def toiling(ctx: StageContext) -> None:
    """Takes much processor time to be ready, then works until told to stop."""
    while time.process_time() < TOIL_S:
        sum(range(1_000))
    beat_until_stop(ctx)


def silent(ctx: StageContext) -> None:
    """Beats once and never again."""
    ctx.heartbeat.beat()
    note("ready", ctx)
    ctx.stop.wait()


def mute(ctx: StageContext) -> None:
    """Never beats."""
    ctx.stop.wait()


def returning(ctx: StageContext) -> None:
    """Ends at once, with success."""


def ringing(ctx: StageContext) -> None:
    """Rings the forwarder's bell twice, and works until told to stop."""
    for _ in range(2):
        ctx.bells.ring("forwarder")
    note("rung", ctx)
    beat_until_stop(ctx)


def showing(ctx: StageContext) -> None:
    """Writes down as JSON what it has of the process that started it, then works until told to stop."""
    own = Path("/proc/self")
    shown = {
        "files": {int(path.name): str(path.readlink()) for path in (own / "fd").iterdir() if path.is_symlink()},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "environment": dict(os.environ),
        "command": (own / "cmdline").read_bytes().decode().rstrip("\0").split("\0"),
        "group": os.getpgrp(),
        "random": random.random(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
    }
    (Path(os.environ["FAKE_SHOWN"]) / ctx.slot.name).write_text(json.dumps(shown))
    beat_until_stop(ctx)


def crash(ctx: StageContext) -> None:
    """Raises what nobody foresaw."""
    raise ValueError("broken")


def thread_crash(ctx: StageContext) -> None:
    """The same in a thread."""
    threading.Thread(target=crash, args=(ctx,), name="reader").start()
    beat_until_stop(ctx)


def outdated(ctx: StageContext) -> None:
    """Finds that it was started with what is no longer so."""
    raise Outdated("names changed")


def outdated_thread(ctx: StageContext) -> None:
    """The same in a thread."""
    threading.Thread(target=outdated, args=(ctx,), name="reader").start()
    beat_until_stop(ctx)


def cannot_start(ctx: StageContext) -> None:
    """Says that trying again is useless."""
    raise CannotStart("the database is of stone")


def faulty(ctx: StageContext) -> None:
    """Works for as long as there is no file FAKE_FAULT, and else raises what is written in it."""
    fault = Path(os.environ["FAKE_FAULT"])
    _raise_what_is_in(fault)
    ctx.heartbeat.beat()
    note("ready", ctx)
    while not ctx.stop.wait(BEAT_EVERY_S):
        _raise_what_is_in(fault)
        ctx.heartbeat.beat()


def sleeping_thread(ctx: StageContext) -> None:
    """Beats, while a thread that must turn stands still."""
    ctx.heartbeat.watch("reader", 0.5)
    beat_until_stop(ctx)


def _raise_what_is_in(path: Path) -> None:
    errors: dict[str, type[EventServiceError]] = {"NoRoom": NoRoom, "CannotStart": CannotStart}
    # The test may be about to write it, or to take it away.
    with contextlib.suppress(FileNotFoundError):
        if name := path.read_text():
            raise errors[name]("for now")


def following(ctx: StageContext) -> None:
    """Notes every change of the log level and of the number of crawlers."""
    ctx.heartbeat.beat()
    note("ready", ctx)
    known = ""
    while not ctx.stop.wait(BEAT_EVERY_S):
        ctx.heartbeat.beat()
        now = f"{ctx.settings.log_level.lower()}-{ctx.settings.crawlers}"
        if now != known:
            known = now
            note(now, ctx)


BEHAVIOURS: dict[str, Callable[[StageContext], None]] = {
    one.__name__: one
    for one in (
        steady,
        stubborn,
        toiling,
        silent,
        mute,
        returning,
        ringing,
        showing,
        crash,
        thread_crash,
        outdated,
        outdated_thread,
        cannot_start,
        faulty,
        sleeping_thread,
        following,
    )
}


def run(ctx: StageContext) -> None:
    behaviour = dict(pair.split("=") for pair in os.environ.get("FAKE_BEHAVIOUR", "").split(",") if pair)
    ctx.metrics.stage_in.labels(ctx.slot.stage).inc()
    note("started", ctx)
    BEHAVIOURS[behaviour.get(ctx.slot.name, behaviour.get(ctx.slot.stage, "steady"))](ctx)
    note("ended", ctx)


def run_slot(options: list[str], slot: Slot) -> int:
    return main(["stage", slot.stage, str(slot.index), "--supervised", *options])


def times() -> Timeouts:
    given = json.loads(os.environ.get("FAKE_TIMES", "{}"))
    base_s = given.pop("restart_base_s", 0.05)
    return Timeouts(restart=RestartPolicy(Backoff(base_s, 2.0, 60.0)), **given)


def specs() -> list[StageSpec]:
    parts = [spec.split(":") for spec in os.environ["FAKE_SPECS"].split(",")]
    return [StageSpec(name, int(count), int(drain_order)) for name, count, drain_order in parts]


def main(arguments: list[str]) -> int:
    file = next((Path(each.partition("=")[2]) for each in arguments if each.startswith("--env-file=")), None)
    live = ReloadableConfig(file, os.environ)
    live.export()
    config = live.config
    if arguments[0] == "supervise":
        options = [] if file is None else [f"--env-file={config.runtime_directory / SETTINGS_FILE}"]
        return supervise(specs(), partial(run_slot, options), config, os.environ, timeouts=times(), live=live)
    supervised = "--supervised" in arguments
    stage.ORPHAN_GRACE_S = float(os.environ.get("FAKE_ORPHAN_GRACE", stage.ORPHAN_GRACE_S))
    stage.SLOT_WAIT_S = float(os.environ.get("FAKE_SLOT_WAIT", stage.SLOT_WAIT_S))
    name, *index = [argument for argument in arguments[1:] if not argument.startswith("--")]
    return run_stage(name, int(index[0]) if index else None, config, run, supervised=supervised, live=live)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
