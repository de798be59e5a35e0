"""A relay's way into the intake: in order, and so much at a time."""

import threading
from pathlib import Path

import pytest

from pipeline.crawl.hand_over import BATCHES_PER_RELAY, HandOver, Parcel
from pipeline.crawl.intake import TRANSACTION_EVENTS, Batch, EventLimits, Intake
from pipeline.process.clock import ManualClock
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.store.schema import open_database
from pipeline.store.tallies import StageCounts
from tests.unit.crawl.people import event


class Wakes:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def with_events(hand_over: HandOver) -> Batch:
    return Batch(1, 0, (event(1, kind=1),), taken=hand_over.release)


def test_only_so_many_batches_with_events_are_under_way_and_nothing_overtakes_them() -> None:
    taken: list[Batch] = []
    wakes = Wakes()
    hand_over = HandOver(taken.append, wakes)
    events = [with_events(hand_over) for _ in range(BATCHES_PER_RELAY + 1)]
    cursors = [Batch(1, number) for number in range(2)]
    hand_over.put(cursors[0])
    for batch in events:
        hand_over.put(batch)
    hand_over.put(cursors[1])
    assert taken == [cursors[0], *events[:-1]]
    assert not hand_over.push()
    assert wakes.count == 0
    hand_over.release()
    assert wakes.count == 1
    assert hand_over.push()
    assert taken == [cursors[0], *events, cursors[1]]


def test_room_that_nobody_waits_for_wakes_nobody() -> None:
    wakes = Wakes()
    hand_over = HandOver(lambda _: None, wakes)
    for _ in range(10):
        hand_over.put(with_events(hand_over))
        hand_over.release()
    assert wakes.count == 0


@pytest.mark.parametrize("batches", [5_000])
def test_no_wake_is_lost_to_an_intake_that_is_at_it_all_the_time(batches: int) -> None:
    """The owner sleeps until it is woken; were one missed, it would sleep for ever."""
    awake, left = threading.Event(), threading.Semaphore(0)
    hand_over = HandOver(lambda _: left.release(), awake.set)

    def commit() -> None:
        for _ in range(batches):
            left.acquire()
            hand_over.release()

    intake = threading.Thread(target=commit)
    intake.start()
    for _ in range(batches):
        hand_over.put(with_events(hand_over))
        while not hand_over.push():
            assert awake.wait(10)
            awake.clear()
    intake.join(10)
    assert not intake.is_alive()


class Noting(Intake):
    """An intake that only notes what is submitted together."""

    def __init__(self, path: Path) -> None:
        clock = ManualClock()
        counts = StageCounts(Slot("crawler", 0), Metrics())
        super().__init__(lambda: open_database(path, clock), EventLimits(10**6, 10), clock, counts)
        self.submitted: list[tuple[Batch, ...]] = []

    def submit(self, *batches: Batch) -> None:
        self.submitted.append(batches)


def test_what_a_parcel_holds_goes_together_in_order(tmp_path: Path) -> None:
    intake = Noting(tmp_path / "events.db")
    parcel = Parcel(intake)
    batches = [Batch(relay, 0) for relay in range(3)]
    for batch in batches:
        parcel.put(batch)
    assert intake.submitted == []
    parcel.send()
    parcel.send()
    assert intake.submitted == [tuple(batches)]


def test_a_parcel_with_a_transaction_of_events_does_not_wait(tmp_path: Path) -> None:
    intake = Noting(tmp_path / "events.db")
    parcel = Parcel(intake)
    note = event(1, kind=1)
    for _ in range(2):
        parcel.put(Batch(1, 0, (note,) * (TRANSACTION_EVENTS - 1)))
        parcel.put(Batch(2, 0, (note,)))
    assert [len(batches) for batches in intake.submitted] == [2, 2]
