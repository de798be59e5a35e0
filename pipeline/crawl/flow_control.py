"""The way from the reactor into the intake: in order, together, and of each relay only so much at a time."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from pipeline.crawl.ingester import BATCH_BYTES, BATCH_EVENTS, TRANSACTION_BYTES, TRANSACTION_EVENTS, Batch, Ingester
from pipeline.crawl.sync.costs import Verified
from pipeline.nostr.event import Event
from pipeline.process.clock import Clock
from pipeline.store.backfills import BackfillProgress
from pipeline.store.cursors import Cursor
from pipeline.store.gaps import GapChanges
from pipeline.store.lease import QueueSize
from pipeline.store.relay_forms import FormChanges
from pipeline.store.sweeps import SweepProgress

# What all crawlers may bring in a second: while so much more may come, once a second is often enough to look.
_BROUGHT_EVENTS: Final = 12_000
_BROUGHT_PART: Final = 0.5
# The low mark of the bytes is this part of the high one, as the usual marks of the events are to each other.
_LOW_PART: Final = 0.75


@dataclass(frozen=True, slots=True)
class Marks:
    """`high`, `low`: events that wait, above and below which it closes and opens; `bytes`: above which it closes."""

    high: int
    low: int
    bytes: int


class Backpressure:
    """Open below the low marks, closed above a high one, as it was between them. Safe in every thread."""

    __slots__ = ("_marks", "_open", "is_far")

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self.is_far = False
        """Whether it stays open for another second, whatever comes."""
        self._open = threading.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether relays may be read from."""
        return self._open.is_set()

    def set_marks(self, marks: Marks) -> None:
        """Let later updates go by these marks."""
        self._marks = marks

    def update(self, waiting: QueueSize, *, is_full: bool = False) -> None:
        """Note how much waits; `is_full`: nothing more may come, however little that is."""
        marks = self._marks
        room = marks.high - waiting.events
        self.is_far = room > _BROUGHT_EVENTS and waiting.bytes < _BROUGHT_PART * marks.bytes and not is_full
        if is_full or waiting.events > marks.high or waiting.bytes > marks.bytes:
            self._open.clear()
        elif waiting.events < marks.low and waiting.bytes < _LOW_PART * marks.bytes:
            self._open.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until open, `timeout_s` at most; returns whether it is."""
        return self._open.wait(timeout_s)


# So that no relay starves another, and an intake that is behind stops the reader, and with it the relays.
BATCHES_PER_RELAY: Final = 2


class TransactionBatcher:
    """Batches of many relays that go to the intake as one, so that they share a transaction. For one thread."""

    __slots__ = ("_batches", "_bytes", "_events", "_ingester")

    def __init__(self, ingester: Ingester) -> None:
        self._ingester = ingester
        self._batches: list[Batch] = []
        self._events = self._bytes = 0

    def put(self, batch: Batch) -> None:
        """Add `batch`, behind those before it; it goes with `send`, or earlier when there is enough."""
        self._batches.append(batch)
        self._events += len(batch.events)
        self._bytes += batch.size
        if self._events >= TRANSACTION_EVENTS or self._bytes >= TRANSACTION_BYTES:
            self.send()

    def send(self) -> None:
        """Hand over what was put in."""
        if self._batches:
            self._ingester.submit(*self._batches)
            self._batches.clear()
            self._events = self._bytes = 0


class RelayBatcher:
    """One relay's events on their way to `submit`, `BATCHES_PER_RELAY` batches at a time, and what goes with them.

    Owned by the reactor's thread, but for what it gives the intake to call. `wake` is called there once room was made
    that `drain` had found none of; `verified` is called in the intake's thread with what it found of the events.
    """

    __slots__ = (
        "_clock", "_is_stuck", "_pending", "_relay", "_room", "_sizes", "_submit", "_verified", "_waiting", "_wake",
        "was_productive",
    )  # fmt: skip

    def __init__(
        self, relay: int, clock: Clock, submit: Callable[[Batch], None], wake: Callable[[], object],
        verified: Callable[[Verified], None] | None = None,
    ) -> None:  # fmt: skip
        self._relay = relay
        self._clock = clock
        self._submit = submit
        self._wake = wake
        self._verified = verified
        self._pending: list[Event] = []
        # Bytes of each of them.
        self._sizes: list[int] = []
        self._waiting: deque[Batch] = deque()
        # A queue of tokens, since threading's semaphores are Python and cost several times as much.
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(BATCHES_PER_RELAY):
            self._room.put(None)
        self._is_stuck = False
        self.was_productive = False
        """Whether there were any events."""

    @property
    def is_full(self) -> bool:
        """Whether something waits for room, so that no more should be read."""
        return bool(self._waiting)

    def add(self, event: Event, size: int) -> None:
        """Take an event, which came in `size` bytes, to be handed over with the next `flush`."""
        self._pending.append(event)
        self._sizes.append(size)

    def flush(self) -> None:
        """Hand over the events that were added."""
        if not self._pending:
            return
        self.was_productive = True
        now_ms = self._clock.now_ms()
        first = 0
        while first < len(self._pending):
            last, size = self._end_of_batch(first)
            events = tuple(self._pending[first:last])
            self._waiting.append(
                Batch(self._relay, now_ms, events, taken=self._release, size=size, verified=self._verified)
            )
            first = last
        self._pending.clear()
        self._sizes.clear()
        self.drain()

    def _end_of_batch(self, first: int) -> tuple[int, int]:
        """Return where the batch ends that begins at `first`, and its bytes; a large event is alone."""
        last = min(first + BATCH_EVENTS, len(self._pending))
        size = sum(self._sizes[first:last])
        while size > BATCH_BYTES and last > first + 1:
            last -= 1
            size -= self._sizes[last]
        return last, size

    def enqueue_metadata(
        self,
        *,
        cursors: tuple[Cursor, ...] = (),
        progress: tuple[SweepProgress, ...] = (),
        backfilled: tuple[BackfillProgress, ...] = (),
        gaps: GapChanges | None = None,
        forms: FormChanges | None = None,
        sample: tuple[bytes, ...] | None = None,
    ) -> None:
        """Hand over what is to be committed with or after the events that were added before."""
        self.flush()
        now_ms = self._clock.now_ms()
        self._waiting.append(Batch(self._relay, now_ms, (), cursors, progress, backfilled, gaps, forms, sample=sample))
        self.drain()

    def drain(self) -> bool:
        """Hand over what there is room for; returns whether that is all."""
        while self._waiting:
            if self._waiting[0].events and not self._has_room():
                return False
            self._submit(self._waiting.popleft())
        return True

    def _release(self) -> None:
        """Make room for another batch: the intake has taken up one of those handed over."""
        self._room.put(None)
        if self._is_stuck:
            self._wake()

    def _has_room(self) -> bool:
        if not self._acquire():
            self._is_stuck = True
            # Looked at once more after saying so: room that was made in between has woken nobody.
            if not self._acquire():
                return False
        self._is_stuck = False
        return True

    def _acquire(self) -> bool:
        try:
            self._room.get_nowait()
        except Empty:
            return False
        return True
