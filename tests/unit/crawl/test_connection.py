"""A connection's thread where it meets the intake: what it hands over, and what it must not."""

import logging
import random
from pathlib import Path
from typing import cast

import orjson
import pytest

from pipeline.crawl import connection
from pipeline.crawl.connection import GATHER_S, Connection, Shared
from pipeline.crawl.coverage import Coverage
from pipeline.crawl.gate import Backpressure
from pipeline.crawl.intake import BATCH_EVENTS, BATCHES_PER_RELAY, Batch, EventLimits, Intake
from pipeline.crawl.relay_crawl import RelayCrawl
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.nostr.event import Event
from pipeline.process.clock import ManualClock
from pipeline.process.logs import Logger, RateLimited
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.process.stop import Stop
from pipeline.relay.limits import Limits
from pipeline.relay.politeness import HostBackoff
from pipeline.relay.transport import Transport
from pipeline.store.schema import open_database
from pipeline.store.tallies import StageCounts
from tests.unit.crawl.people import event, plan_for
from tests.unit.crawl.simulation import SETTINGS, START


class GlobalPages:
    """In the place of a transport: answers the global query with everything it has, and ends the process meanwhile."""

    last_received = 0.0

    def __init__(self, found: list[Event], stop: Stop) -> None:
        self._found = found
        self._stop = stop
        self._answers: list[bytes] = []

    def send(self, frame: str) -> None:
        kind, subscription, *filters = orjson.loads(frame)
        if kind == "REQ" and filters[0].get("kinds") == [0, 2, 3, 10_002] and filters[0]["limit"]:
            self._answers += [b'["EVENT","%s",%s]' % (subscription.encode(), each.to_json()) for each in self._found]
            self._answers.append(b'["EOSE","%s"]' % subscription.encode())
            self._stop.set()

    def receive(self, _: float) -> list[bytes]:
        answers, self._answers = self._answers, []
        return answers

    def ping(self) -> None:
        raise AssertionError("it has just spoken")

    def wake(self) -> None:
        """There is nothing to wake."""


class Recording(Intake):
    """An intake that is too busy to take anything while the process stops."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        counts = StageCounts(Slot("crawler", 0), Metrics())
        super().__init__(lambda: open_database(path, clock), EventLimits(10**6, 100), clock, counts)
        self.batches: list[Batch] = []

    def submit(self, batch: Batch) -> None:
        self.batches.append(batch)


def made_of(intake: Intake, clock: ManualClock, stop: Stop) -> Connection:
    log = Logger(logging.getLogger("test"))
    shared = Shared(clock, stop, intake, Backpressure(10, 5), RateLimited(log, clock))
    crawl = RelayCrawl(
        coverage=Coverage(1, ()), limits=Limits(), settings=SETTINGS, plan=plan_for(), crawled_since=START
    )
    return Connection(
        1, "wss://a.example", crawl, Limits(), HostBackoff(random.Random(1)),
        RelayMetrics(Metrics(), "wss://a.example", shared.intake.set_aside), shared,
    )  # fmt: skip


def test_no_cursor_is_handed_over_whose_events_were_not(tmp_path: Path) -> None:
    clock, stop = ManualClock(START * 1000), Stop()
    intake = Recording(tmp_path / "events.db", clock)
    found = [event(START - 10 - n, kind=0) for n in range(BATCH_EVENTS * (BATCHES_PER_RELAY + 1))]
    # It goes on beyond `since`, so that one page is all there is to ask for.
    found.append(event(START - 10 * SETTINGS.backfill, kind=0))
    transport = GlobalPages(found, stop)
    made_of(intake, clock, stop).run(cast("Transport", transport))
    handed_over = {each.id for batch in intake.batches for each in batch.events}
    moved = [cursor for batch in intake.batches for cursor in batch.cursors]
    assert handed_over
    assert {each.id for each in found[:-1]} <= handed_over or not moved


@pytest.mark.parametrize("has_known", [False, True])
def test_a_connection_is_of_use_that_brings_what_was_not_known(tmp_path: Path, has_known: bool) -> None:
    clock, stop = ManualClock(START * 1000), Stop()
    intake = Recording(tmp_path / "events.db", clock)
    found = [event(START - 10, kind=0)]
    if has_known:
        intake.committed.add_all(each.id for each in found)
    made = made_of(intake, clock, stop)
    made.run(cast("Transport", GlobalPages(found, stop)))
    assert made.was_of_use is not has_known


class Dripping(GlobalPages):
    """One message at a time, `gaps` seconds after the one before; then the process ends."""

    def __init__(self, clock: ManualClock, stop: Stop, gaps: list[float], frames: int = 1) -> None:
        super().__init__([], stop)
        self._clock = clock
        self._gaps = gaps
        self._frames = frames

    def send(self, frame: str) -> None:
        """It answers nothing."""

    def receive(self, _: float) -> list[bytes]:
        if not self._gaps:
            self._stop.set()
            return []
        self._clock.advance(self._gaps.pop(0))
        self.last_received = self._clock.monotonic()
        return [b'["NOTICE","x"]'] * self._frames


@pytest.mark.parametrize(
    ("gaps", "frames", "pauses"),
    [([1.0] * 5, 1, 0), ([GATHER_S] * 5, 1, 4), ([GATHER_S] * 5, BATCH_EVENTS, 0), ([1.0, 0.0, 1.0, 0.0], 1, 2)],
)
def test_only_a_relay_that_sends_one_event_after_the_other_is_left_alone_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gaps: list[float], frames: int, pauses: int
) -> None:
    clock, stop = ManualClock(START * 1000), Stop()
    paused: list[float] = []
    monkeypatch.setattr(connection, "pause", paused.append)
    intake = Recording(tmp_path / "events.db", clock)
    made_of(intake, clock, stop).run(cast("Transport", Dripping(clock, stop, gaps, frames)))
    assert paused == [GATHER_S] * pauses
