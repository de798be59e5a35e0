"""A relay's way into the intake: in order, and so much at a time."""

import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest

from pipeline.crawl.flow_control import BATCHES_PER_RELAY, RelayBatcher, TransactionBatcher
from pipeline.crawl.ingester import (
    BATCH_BYTES,
    BATCH_EVENTS,
    TRANSACTION_BYTES,
    TRANSACTION_EVENTS,
    Batch,
    Ingester,
)
from pipeline.nostr.event import Event
from pipeline.process.clock import ManualClock
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.rules.acceptance import EventLimits
from pipeline.store.counters import StageCounters
from pipeline.store.cursors import Cursor
from pipeline.store.schema import open_database
from tests.support.plans import event


class Wakes:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def hand_over_to(submit: Callable[[Batch], None], wake: Callable[[], object]) -> RelayBatcher:
    return RelayBatcher(1, ManualClock(), submit, wake)


def fill(batcher: RelayBatcher, batches: int) -> list[Event]:
    """Add events for so many batches and hand them over."""
    found = [event(number, kind=1) for number in range(batches * BATCH_EVENTS)]
    for each in found:
        batcher.add(each, 800)
    batcher.flush()
    return found


def release(batch: Batch) -> None:
    assert batch.taken is not None
    batch.taken()


def test_waiting_event_batches_are_bounded_and_never_overtaken() -> None:
    submitted: list[Batch] = []
    wakes = Wakes()
    hand_over = hand_over_to(submitted.append, wakes)
    first, last = Cursor(1, "first", 0, 0), Cursor(1, "last", 1, 0)
    hand_over.enqueue_metadata(cursors=(first,))
    found = fill(hand_over, BATCHES_PER_RELAY + 1)
    hand_over.enqueue_metadata(cursors=(last,))
    assert [len(batch.events) for batch in submitted] == [0, *[BATCH_EVENTS] * BATCHES_PER_RELAY]
    assert (hand_over.drain(), hand_over.is_full) == (False, True)
    assert wakes.count == 0
    release(submitted[1])
    assert wakes.count == 1
    assert (hand_over.drain(), hand_over.is_full) == (True, False)
    assert [each for batch in submitted for each in batch.events] == found
    assert [batch.cursors for batch in submitted if batch.cursors] == [(first,), (last,)]
    assert submitted[-1].cursors == (last,)


def test_what_is_noted_comes_behind_the_events_that_were_added_before() -> None:
    submitted: list[Batch] = []
    hand_over = hand_over_to(submitted.append, Wakes())
    assert not hand_over.was_productive
    found = event(1, kind=1)
    hand_over.add(found, 800)
    assert submitted == []
    hand_over.enqueue_metadata(cursors=(Cursor(1, "global/", 0, 0),))
    assert [(batch.events, len(batch.cursors)) for batch in submitted] == [((found,), 0), ((), 1)]
    assert hand_over.was_productive


def test_room_that_nobody_waits_for_wakes_nobody() -> None:
    submitted: list[Batch] = []
    wakes = Wakes()
    hand_over = hand_over_to(submitted.append, wakes)
    for _ in range(10):
        fill(hand_over, 1)
        release(submitted[-1])
    assert wakes.count == 0


@pytest.mark.parametrize("batches", [5_000])
def test_no_wake_is_lost_to_an_intake_that_is_at_it_all_the_time(batches: int) -> None:
    """The owner sleeps until it is woken; were one missed, it would sleep for ever."""
    awake = threading.Event()
    submitted: SimpleQueue[Batch] = SimpleQueue()
    hand_over = hand_over_to(submitted.put, awake.set)
    note = event(1, kind=1)

    def take() -> None:
        for _ in range(batches):
            release(submitted.get(timeout=60))

    intake = threading.Thread(target=take)
    intake.start()
    for _ in range(batches):
        hand_over.add(note, 800)
        hand_over.flush()
        while not hand_over.drain():
            assert awake.wait(60)
            awake.clear()
    intake.join(60)
    assert not intake.is_alive()


class Noting(Ingester):
    """An intake that only notes what is submitted together."""

    def __init__(self, path: Path) -> None:
        clock = ManualClock()
        counters = StageCounters(Slot("crawler", 0), Metrics())
        super().__init__(lambda: open_database(path, clock), EventLimits(10**6, 10), clock, counters)
        self.submitted: list[tuple[Batch, ...]] = []

    def submit(self, *batches: Batch) -> None:
        self.submitted.append(batches)


def test_what_a_parcel_holds_goes_together_in_order(tmp_path: Path) -> None:
    intake = Noting(tmp_path / "events.db")
    batcher = TransactionBatcher(intake)
    batches = [Batch(relay, 0) for relay in range(3)]
    for batch in batches:
        batcher.put(batch)
    assert intake.submitted == []
    batcher.send()
    batcher.send()
    assert intake.submitted == [tuple(batches)]


def test_a_parcel_with_a_transaction_of_events_does_not_wait(tmp_path: Path) -> None:
    intake = Noting(tmp_path / "events.db")
    batcher = TransactionBatcher(intake)
    note = event(1, kind=1)
    for _ in range(2):
        batcher.put(Batch(1, 0, (note,) * (TRANSACTION_EVENTS - 1)))
        batcher.put(Batch(2, 0, (note,)))
    assert [len(batches) for batches in intake.submitted] == [2, 2]


def test_large_events_are_handed_over_in_small_batches() -> None:
    """Else each relay that sends events of a megabyte holds more than a hundred of them in memory."""
    batches: list[Batch] = []
    hand_over = hand_over_to(batches.append, Wakes())
    sizes = [BATCH_BYTES // 2, BATCH_BYTES // 2, 1, 4 * BATCH_BYTES, 5]
    for number, size in enumerate(sizes):
        hand_over.add(event(number, kind=0), size)
    hand_over.flush()
    for batch in batches:
        release(batch)
        hand_over.drain()
    assert [batch.size for batch in batches] == [BATCH_BYTES, 1, 4 * BATCH_BYTES, 5]
    assert [each.created_at for batch in batches for each in batch.events] == list(range(len(sizes)))


def test_parcel_goes_as_soon_as_it_holds_a_transactions_bytes() -> None:
    """Else hundreds of large events of several relays are written by one transaction, which holds up all others."""
    sent: list[int] = []

    class Counting(Ingester):
        def __init__(self) -> None:
            """Nothing of it is used."""

        def submit(self, *batches: Batch) -> None:
            sent.append(len(batches))

    batcher = TransactionBatcher(Counting())
    for _ in range(3):
        batcher.put(Batch(1, 0, (event(1, kind=0),), size=TRANSACTION_BYTES // 2))
    assert sent == [2]
