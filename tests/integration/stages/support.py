"""Stages run in this process: each in a thread, over a real database, with a context like the one `run_stage` makes."""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import ParamSpec, TypeVar

from pipeline.nostr.event import event_from_json
from pipeline.process.clock import Clock, SystemClock
from pipeline.process.doorbell import Doorbell, Doorbells
from pipeline.process.heartbeat import Heartbeat
from pipeline.process.logs import get_logger
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot, prepare_runtime_directory
from pipeline.process.stage import StageContext
from pipeline.process.stop import Stop
from pipeline.settings.config import Config
from pipeline.store import inbox, users
from pipeline.store.database import Database, Row
from pipeline.store.inbox import Arrival
from pipeline.store.schema import open_database
from tests.factories.events import SignedEvent
from tests.fakes.net import pause
from tests.fakes.service import settings

_P = ParamSpec("_P")
_T = TypeVar("_T")
PATIENCE_S = 60.0
NOW = 1_700_000_000
RELAY = 1
"""The number of the relay that events put into an inbox by hand came from."""


def wait_until(done: Callable[[], bool], what: str = "as it should be", timeout_s: float = PATIENCE_S) -> None:
    """Look until `done`, for what tells nobody when it changes; raises `TimeoutError`."""
    deadline = monotonic() + timeout_s
    while not done():
        if monotonic() > deadline:
            raise TimeoutError(f"not {what} after {timeout_s} s")
        pause(0.005)


def arrival(event: SignedEvent, received_at: int = NOW * 1000) -> Arrival:
    """The event as a crawler appends it."""
    return Arrival(
        bytes.fromhex(event.id), event_from_json(event.raw.encode()).to_json(), RELAY, received_at, event.created_at
    )


def dying_after(work: Callable[_P, _T], times: int) -> Callable[_P, _T]:
    """The same as `work`, but for a `RuntimeError` once it has worked so many times."""
    left = itertools.count(times - 1, -1)

    def works(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        result = work(*args, **kwargs)
        if next(left) == 0:
            raise RuntimeError
        return result

    return works


@dataclass
class World:
    """A folder with a database and a runtime directory, and settings for stages that work in it."""

    directory: Path
    env: dict[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        self._doorbells: list[Doorbell] = []
        self.path = self.directory / "events.db"
        self.runtime = self.directory / "runtime"
        prepare_runtime_directory(self.runtime)
        self.env = {
            **settings(),
            "EVENTS_DATABASE_PATH": str(self.path),
            "EVENTS_RUNTIME_DIRECTORY": str(self.runtime),
            "EVENTS_ENVIRONMENT": "DEVELOPMENT",
            **self.env,
        }
        self.database = open_database(self.path, self.clock)

    def close(self) -> None:
        self.database.close()
        for each in self._doorbells:
            each.close()

    def query(self, statement: str, *bindings: object) -> list[Row]:
        with self.database.read() as tx:
            return tx.execute(statement, bindings).fetchall()

    def value(self, statement: str, *bindings: object) -> int:
        return int(self.query(statement, *bindings)[0][0])

    def execute(self, statement: str, *bindings: object) -> None:
        with self.database.write() as tx:
            tx.execute(statement, bindings)

    def leases_run_out(self) -> None:
        """Let every row of the inbox be ready, as it is some time after whoever held it died."""
        self.execute("UPDATE inbox SET ready_at = ?", NOW * 1000)

    def put(self, events: Iterable[SignedEvent]) -> set[str]:
        """Append events to the inbox in one transaction; returns the ids that were new."""
        with self.database.write() as tx:
            return {event_id.hex() for event_id in inbox.append(tx, map(arrival, events))}

    def register(self, *pubkeys: str) -> None:
        with self.database.write() as tx:
            for pubkey in pubkeys:
                users.register(tx, bytes.fromhex(pubkey), self.clock.now_ms())

    def remove(self, *pubkeys: str) -> None:
        with self.database.write() as tx:
            for pubkey in pubkeys:
                users.remove(tx, bytes.fromhex(pubkey), self.clock.now_ms())

    def seen(self) -> set[str]:
        return {event_id.hex() for (event_id,) in self.query("SELECT event_id FROM seen")}

    def queued(self, sink: str = "pubsub") -> list[str]:
        """Ids in the outbox of a sink, sorted; one that is there twice is told twice."""
        found = self.query(
            "SELECT events.event_id FROM outbox JOIN events ON events.event = outbox.event WHERE sink = ?", sink
        )
        return sorted(event_id.hex() for (event_id,) in found)

    def inbox_size(self) -> int:
        return self.value("SELECT count(*) FROM inbox")

    def wait_saved(self) -> None:
        """Return once the inbox is empty and nothing is left to do of contact lists."""
        left = "SELECT count(*) FROM contact_slices"
        wait_until(lambda: self.inbox_size() == 0 and self.value(left) == 0, "saved")

    def context(
        self, stage: str, settings: Mapping[str, str] | None = None, *, index: int = 0, has_doorbell: bool = False
    ) -> StageContext:
        """What `run_stage` would give to that stage, its metrics its own; `settings` are added to the world's.

        Without a doorbell the stage looks for commits that no process rings for, as those of this world.
        """
        slot = Slot(stage, index)
        emulator = {name: os.environ[name] for name in ("PUBSUB_EMULATOR_HOST",) if name in os.environ}
        return StageContext(
            Config.from_env(self.env | emulator | dict(settings or {})),
            self.clock,
            Stop(),
            slot,
            Metrics(),
            Heartbeat(self.runtime, slot.name, self.clock),
            get_logger(stage),
            self._hang(slot) if has_doorbell else None,
            Doorbells(self.path),
        )

    def _hang(self, slot: Slot) -> Doorbell:
        self._doorbells.append(Doorbell.hang(self.path, slot.name))
        return self._doorbells[-1]

    def opener(self) -> Callable[[], Database]:
        return lambda: open_database(self.path, self.clock)


class Running:
    """A stage in a thread; an error of any of its threads stops it and is raised by `end`, as the process would end."""

    def __init__(self, ctx: StageContext, run: Callable[[StageContext], None]) -> None:
        self.ctx = ctx
        self.errors: list[BaseException] = []
        self._run = run
        self._thread = threading.Thread(target=self._main, name=f"stage {ctx.slot.name}", daemon=True)

    def _main(self) -> None:
        try:
            self._run(self.ctx)
        except BaseException as error:
            self.errors.append(error)
        finally:
            self.ctx.heartbeat.close()

    def _hook(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            self.errors.append(args.exc_value)
        self.ctx.stop.set("thread failed")

    def __enter__(self) -> "Running":
        self._former_hook = threading.excepthook
        threading.excepthook = self._hook
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        finally:
            threading.excepthook = self._former_hook

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def end(self, timeout_s: float = PATIENCE_S) -> None:
        """Stop it, wait for it, and raise the first error it met."""
        self.ctx.stop.set("test")
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"{self.ctx.slot.name} does not stop"
        errors, self.errors = self.errors, []
        if errors:
            raise errors[0]

    def wait_over(self) -> BaseException | None:
        """Wait until it ended by itself; its first error."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), f"{self.ctx.slot.name} goes on"
        errors, self.errors = self.errors, []
        return errors[0] if errors else None

    def metric(self, name: str, **labels: str) -> float:
        return self.ctx.metrics.registry.get_sample_value(name, labels) or 0.0
