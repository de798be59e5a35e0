"""Outboxes with real events in them, and loops that deliver them."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from pipeline.delivery.batch_worker import BatchWorker
from pipeline.delivery.outbox_client import OutboxClient
from pipeline.delivery.replay_client import ReplayClient
from pipeline.delivery.sink_health import SinkHealth
from pipeline.delivery.stream_worker import StreamWorker
from pipeline.delivery.unsettled import Unsettled
from pipeline.nostr.event import event_from_json
from pipeline.process.clock import Clock, ManualClock, SystemClock
from pipeline.process.logs import RateLimitedLogger, get_logger
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.process.stop import Stop
from pipeline.sinks.base import Message, Sink, SinkDown, StreamSink, Verdict
from pipeline.store import events, outbox, replay_queue, replays
from pipeline.store.counters import StageCounters
from pipeline.store.database import Row
from pipeline.store.events import Accepted
from pipeline.store.replays import ReplayScope
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName
from tests.factories.events import Author, SignedEvent
from tests.fakes.net import pause
from tests.support.stored import store_with_payloads

NOW = 1_700_000_000
PATIENCE_S = 60.0
ALICE = Author.from_seed(31, 0)


def wait_until(done: Callable[[], bool], what: str = "it is so", timeout_s: float = PATIENCE_S) -> None:
    """Look until `done`, for what tells nobody when it changes; raises `TimeoutError`."""
    deadline = monotonic() + timeout_s
    while not done():
        if monotonic() > deadline:
            raise TimeoutError(f"not {what} after {timeout_s} s")
        pause(0.005)


def notes(count: int, *, kind: int = 1, first: int = 0, size: int | None = None) -> list[SignedEvent]:
    """Different signed events."""
    return [
        ALICE.sign(f"note {number}", kind=kind, created_at=NOW + number, size=size)
        for number in range(first, first + count)
    ]


def canonical(event: SignedEvent) -> bytes:
    """The payload as the saver keeps it."""
    return event_from_json(event.raw.encode()).to_json()


def message(event: SignedEvent, received_at: int = NOW * 1000) -> Message:
    return Message(bytes.fromhex(event.id), canonical(event), received_at)


def messages(signed: Iterable[SignedEvent]) -> list[Message]:
    return [message(event) for event in signed]


@dataclass
class Outbox:
    """A database whose outbox is filled by hand and read by its tables."""

    path: Path
    clock: Clock = field(default_factory=SystemClock)
    sink: SinkName = SinkName.PUBSUB
    numbers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = open_database(self.path, self.clock)

    def put(self, signed: Sequence[SignedEvent], *, payloads: bool = True) -> None:
        """Queue events, whose payloads may be missing."""
        accepted = []
        for event in signed:
            number = self.numbers.setdefault(event.id, len(self.numbers) + 1)
            event_id = bytes.fromhex(event.id)
            accepted.append(Accepted(number, event_id, NOW, event.kind, 1, canonical(event), 1, NOW * 1000, 1))
        with self.database.write() as tx:
            now = self.clock.now_ms()
            events.accept(tx, accepted, now)
            if payloads:
                store_with_payloads(tx, accepted)
            outbox.append(tx, self.sink, [each.event for each in accepted], now)

    def replay(self, signed: Sequence[SignedEvent]) -> int:
        """Have events delivered again that were delivered; return the number of the replay."""
        with self.database.write() as tx:
            now = self.clock.now_ms()
            one = replays.add(tx, ReplayScope(self.sink, 0, now), len(signed), now)
            replay_queue.append(tx, one.job, [self.numbers[event.id] for event in signed], now)
            replays.end(tx, one.job, now)
        return one.job

    def replayed(self) -> tuple[int, int, int, int]:
        """Delivered, refused, retracted and pending events of the newest replay."""
        with self.database.read() as tx:
            newest = replays.latest(tx)
            assert newest is not None
            return newest.delivered, newest.refused, newest.retracted, replay_queue.pending(tx, newest.job)

    def query(self, statement: str, *bindings: object) -> list[Row]:
        with self.database.read() as tx:
            return tx.execute(statement, bindings).fetchall()

    def execute(self, statement: str, *bindings: object) -> None:
        with self.database.write() as tx:
            tx.execute(statement, bindings)

    def rows(self) -> list[Row]:
        """Event number, claims, failures and ready_at of what waits."""
        return self.query("SELECT event, claims, failures, ready_at FROM outbox ORDER BY event")

    def outcomes(self) -> dict[int, str]:
        """How each event was settled."""
        return dict(self.query("SELECT event, outcome FROM deliveries"))

    def dead(self) -> dict[int, str]:
        """Why each buried event was."""
        return dict(self.query("SELECT event, reason FROM outbox_dead"))

    def wait_empty(self) -> None:
        """Return once nothing waits."""
        wait_until(lambda: not self.rows(), "empty")


def exchange(sink: StreamSink, batch: Sequence[Message], wait_s: float = 0.02) -> list[Verdict | None]:
    """Put messages under way and wait for the answers; raises `SinkDown` with those that there were before."""
    answers: dict[bytes, Verdict | None] = {}
    to_send = list(batch)
    try:
        while len(answers) < len(batch):
            while to_send and sink.room() > 0:
                sink.open()
                sink.send(to_send.pop(0))
            answers.update(sink.collect(wait_s))
    except SinkDown as down:
        verdicts = [answers.get(message.event_id) for message in batch]
        raise SinkDown(down.reason, down.detail, down.advice, verdicts) from down
    return [answers[message.event_id] for message in batch]


class QuickStop(Stop):
    """For loops whose clock is moved by hand: each wait is only a moment, and then the clock is looked at again."""

    def wait(self, timeout_s: float | None = None) -> bool:
        return super().wait(0.001 if timeout_s is None else min(timeout_s, 0.001))


class Loop:
    """A sink's loop in a thread of its own, with its own connection, stopped on leaving."""

    def __init__(
        self, box: Outbox, sink: Sink | StreamSink, stage: str = "forwarder", unsettled: Unsettled | None = None
    ) -> None:
        self.stop = QuickStop() if isinstance(box.clock, ManualClock) else Stop()
        self.metrics = Metrics()
        self.beats = 0
        self.error: BaseException | None = None
        self._box = box
        log = RateLimitedLogger(get_logger(stage), box.clock)
        counters = StageCounters(Slot(stage, 0), self.metrics)
        # Nobody moves such a clock on for what waits for a claim that does not come.
        unsettled = unsettled or (Unsettled(within_s=0.0) if isinstance(box.clock, ManualClock) else Unsettled())
        self.client = OutboxClient(
            stage, box.sink, box.clock, self.metrics, counters, log, f"{stage}-0",
            is_first=box.sink == SinkName.PUBSUB, unsettled=unsettled,
        )  # fmt: skip
        self.health = SinkHealth(box.sink)
        self.replays = ReplayClient(box.sink, box.clock, counters, log, f"{stage}-0")
        self.worker: BatchWorker | StreamWorker
        if isinstance(sink, StreamSink):
            self.worker = StreamWorker(self.client, self.health, self.stop, self._beat, sink)
        else:
            self.worker = BatchWorker(self.client, self.health, self.stop, self._beat, sink, replays=self.replays)
        self._thread = threading.Thread(target=self._run, name="delivery")

    def _beat(self) -> None:
        self.beats += 1

    def _run(self) -> None:
        try:
            with open_database(self._box.path, self._box.clock) as database:
                self.worker.run(database)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> "Loop":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop, wait, and let an error of the loop be this thread's."""
        self.stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the loop did not stop"
        error, self.error = self.error, None
        if error is not None:
            raise error

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
