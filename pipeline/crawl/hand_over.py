"""The way from the reactor into the intake: in order, together, and of each relay only so much at a time."""

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from pipeline.crawl.intake import BATCH_EVENTS, TRANSACTION_EVENTS, Batch, Intake
from pipeline.nostr.event import Event
from pipeline.process.clock import Clock
from pipeline.store.backfills import BackfillProgress
from pipeline.store.cursors import Cursor
from pipeline.store.gaps import GapChanges
from pipeline.store.relay_forms import FormChanges
from pipeline.store.sweeps import SweepProgress

# So that no relay starves another, and an intake that is behind stops the reader, and with it the relays.
BATCHES_PER_RELAY: Final = 2


class Parcel:
    """Batches of many relays that go to the intake as one, so that they share a transaction. For one thread."""

    __slots__ = ("_batches", "_events", "_intake")

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._batches: list[Batch] = []
        self._events = 0

    def put(self, batch: Batch) -> None:
        """Add `batch`, behind those before it; it goes with `send`, or earlier when there is enough."""
        self._batches.append(batch)
        self._events += len(batch.events)
        if self._events >= TRANSACTION_EVENTS:
            self.send()

    def send(self) -> None:
        """Hand over what was put in."""
        if self._batches:
            self._intake.submit(*self._batches)
            self._batches.clear()
            self._events = 0


class HandOver:
    """One relay's events on their way to `submit`, `BATCHES_PER_RELAY` batches at a time, and what goes with them.

    Owned by the reactor's thread, but for what it gives the intake to call. `wake` is called there once room was made
    that `push` had found none of.
    """

    __slots__ = ("_clock", "_is_stuck", "_pending", "_relay", "_room", "_submit", "_waiting", "_wake", "was_of_use")

    def __init__(self, relay: int, clock: Clock, submit: Callable[[Batch], None], wake: Callable[[], object]) -> None:
        self._relay = relay
        self._clock = clock
        self._submit = submit
        self._wake = wake
        self._pending: list[Event] = []
        self._waiting: deque[Batch] = deque()
        # A queue of tokens, since threading's semaphores are Python and cost several times as much.
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(BATCHES_PER_RELAY):
            self._room.put(None)
        self._is_stuck = False
        self.was_of_use = False
        """Whether there were any events."""

    @property
    def is_full(self) -> bool:
        """Whether something waits for room, so that no more should be read."""
        return bool(self._waiting)

    def add(self, event: Event) -> None:
        """Take an event, to be handed over with the next `flush`."""
        self._pending.append(event)

    def flush(self) -> None:
        """Hand over the events that were added."""
        if not self._pending:
            return
        self.was_of_use = True
        now_ms = self._clock.now_ms()
        for first in range(0, len(self._pending), BATCH_EVENTS):
            events = tuple(self._pending[first : first + BATCH_EVENTS])
            self._waiting.append(Batch(self._relay, now_ms, events, taken=self._release))
        self._pending.clear()
        self.push()

    def note(
        self,
        *,
        cursors: tuple[Cursor, ...] = (),
        progress: tuple[SweepProgress, ...] = (),
        backfilled: tuple[BackfillProgress, ...] = (),
        gaps: GapChanges | None = None,
        forms: FormChanges | None = None,
    ) -> None:
        """Hand over what is to be committed with or after the events that were added before."""
        self.flush()
        now_ms = self._clock.now_ms()
        self._waiting.append(Batch(self._relay, now_ms, (), cursors, progress, backfilled, gaps, forms))
        self.push()

    def push(self) -> bool:
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
        if not self._take_room():
            self._is_stuck = True
            # Looked at once more after saying so: room that was made in between has woken nobody.
            if not self._take_room():
                return False
        self._is_stuck = False
        return True

    def _take_room(self) -> bool:
        try:
            self._room.get_nowait()
        except Empty:
            return False
        return True
