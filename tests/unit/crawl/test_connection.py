"""A connection where it meets the intake: what it hands over, and when."""

import logging
import random
from pathlib import Path
from typing import cast

import orjson
import pytest

from pipeline.crawl.connection import (
    GIVE_UP_AFTER_S,
    PING_AFTER_S,
    TELL_S,
    Connection,
)
from pipeline.crawl.context import CrawlContext
from pipeline.crawl.flow_control import BATCHES_PER_RELAY, Backpressure, Marks, TransactionBatcher
from pipeline.crawl.ingester import BATCH_EVENTS, Batch, Ingester
from pipeline.crawl.path_watch import QUIET_S, PathVerdict
from pipeline.crawl.receiver import LONG_BYTES, LONG_MESSAGES, MAX_INVALID_FRAMES
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.crawl.sync.costs import BURST_S, FORGERIES, RelayCosts, Verified
from pipeline.crawl.sync.cursors import CursorTable
from pipeline.crawl.sync.losses import MAX_FRUITLESS
from pipeline.crawl.sync.relay_sync import RelaySync
from pipeline.crawl.sync.timing import Horizon
from pipeline.nostr.address import parse_address
from pipeline.nostr.event import Event
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.process.clock import ManualClock
from pipeline.process.logs import Logger, RateLimitedLogger
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.relay.errors import ConnectionLost, LossReason
from pipeline.relay.frames import SkippedMessage
from pipeline.relay.host_backoff import HostBackoff
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.websocket import WebSocket
from pipeline.rules.acceptance import EventLimits
from pipeline.store.counters import StageCounters
from pipeline.store.schema import open_database
from tests.simulation.simulation import SETTINGS, START
from tests.support.plans import event, plan_for


class Answering:
    """In the place of a channel: answers the global query with everything it has."""

    last_received = 0.0
    is_midway = False
    send_by = None

    def __init__(self, found: list[Event]) -> None:
        self._found = found
        self.answers: list[bytes] = []

    def send(self, *frames: str) -> None:
        for kind, subscription, *filters in map(orjson.loads, frames):
            if kind == "REQ" and filters[0].get("kinds") == [0, 2, 3, 10_002] and filters[0]["limit"]:
                self.answers += [b'["EVENT","%s",%s]' % (subscription.encode(), each.to_json()) for each in self._found]
                self.answers.append(b'["EOSE","%s"]' % subscription.encode())

    def receive(self) -> list[bytes]:
        answers, self.answers = self.answers, []
        return answers

    def flush(self) -> None:
        """There is never anything left to be sent."""

    def ping(self) -> None:
        raise AssertionError("it has just spoken")


BOUNDS = FrameBounds(10**5, 100)


class Recording(Ingester):
    """An intake that is too busy to take anything while the process stops."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        counters = StageCounters(Slot("crawler", 0), Metrics())
        super().__init__(lambda: open_database(path, clock), EventLimits(10**6, 100), clock, counters)
        self.batches: list[Batch] = []

    def submit(self, *batches: Batch) -> None:
        self.batches += batches


class Straight(TransactionBatcher):
    """Sends every batch at once, as if the turn ended there."""

    def put(self, batch: Batch) -> None:
        super().put(batch)
        self.send()


class Wakes:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def new_crawl() -> RelaySync:
    return RelaySync(
        cursors=CursorTable(1, ()),
        limits=LearnedLimits(RelayLimits()),
        horizon=Horizon(SETTINGS, START),
        plan=plan_for(),
    )


def made_of(ingester: Ingester, clock: ManualClock, sync: RelaySync | None = None) -> Connection:
    log = Logger(logging.getLogger("test"))
    backpressure = Backpressure(Marks(10, 5, 1 << 30))
    context = CrawlContext(clock, ingester, Straight(ingester), backpressure, RateLimitedLogger(log, clock), BOUNDS)
    return Connection(
        1, parse_address("wss://a.example"), sync or new_crawl(), HostBackoff(random.Random(1)),
        RelayMetrics(Metrics(), "wss://a.example", context.ingester.count_dropped), context,
    )  # fmt: skip


def turn(made: Connection, relay: Answering) -> int:
    return made.step(cast("WebSocket", relay))


def is_full(made: Connection) -> bool:
    return made.is_blocked


def events_of(intake: Recording) -> set[bytes]:
    return {each.id for batch in intake.batches for each in batch.events}


def test_cursor_follows_its_events_and_nothing_is_read_in_between(tmp_path: Path) -> None:
    clock = ManualClock(START * 1000)
    intake, wakes = Recording(tmp_path / "events.db", clock), Wakes()
    found = [event(START - 10 - n, kind=0) for n in range(BATCH_EVENTS * (BATCHES_PER_RELAY + 1) - 1)]
    # It goes on beyond `since`, so that one page is all there is to ask for.
    found.append(event(START - 10 * SETTINGS.backfill, kind=0))
    relay, made = Answering(found), made_of(intake, clock)
    made.open(wakes)
    assert turn(made, relay) == 0
    assert turn(made, relay) == len(found) + 1
    assert is_full(made)
    assert len(events_of(intake)) == BATCH_EVENTS * BATCHES_PER_RELAY
    assert not any(batch.cursors for batch in intake.batches)
    relay.answers.append(b'["NOTICE","x"]')
    assert turn(made, relay) == 0
    assert wakes.count == 0
    take_up(intake)
    assert wakes.count == 1
    assert turn(made, relay) == 1
    assert not is_full(made)
    assert events_of(intake) == {each.id for each in found}
    assert any(batch.cursors for batch in intake.batches)
    assert max(n for n, batch in enumerate(intake.batches) if batch.events) < min(
        n for n, batch in enumerate(intake.batches) if batch.cursors
    )


def test_what_came_before_the_end_is_still_handed_over(tmp_path: Path) -> None:
    clock = ManualClock(START * 1000)
    intake = Recording(tmp_path / "events.db", clock)
    found = [event(START - 10 - n, kind=0) for n in range(BATCH_EVENTS * (BATCHES_PER_RELAY + 1))]
    relay, made = Answering(found), made_of(intake, clock)
    made.open(Wakes())
    turn(made, relay)
    turn(made, relay)
    made.on_lost(LossReason.EOF)
    assert not made.finish()
    take_up(intake)
    assert made.finish()
    assert events_of(intake) == {each.id for each in found}


def test_event_too_costly_to_parse_is_counted_and_the_page_ends(tmp_path: Path) -> None:
    """Of an allowed length in bytes, but for its tags, and beyond it; what is no event is no message."""
    clock = ManualClock(START * 1000)
    intake = Recording(tmp_path / "events.db", clock)
    long = Event(b"l" * 32, bytes(32), START - 20, 0, [], "x" * 700_000, bytes(64))
    tagged = Event(b"t" * 32, bytes(32), START - 30, 0, [["", ""]] * 200, "", bytes(64))
    small = event(START - 10 * SETTINGS.backfill, kind=0)
    relay, made = Answering([long, tagged, small]), made_of(intake, clock)
    made.open(Wakes())
    turn(made, relay)
    relay.answers.append(b'["NOTICE",' + b"[]," * 1_000 + b"[]]")
    turn(made, relay)
    assert dict(intake._aside) == {"too-large": 1, "too-many-tags": 1}
    assert events_of(intake) == {small.id}
    take_up(intake)
    assert any(batch.cursors for batch in intake.batches)


def take_up(intake: Recording) -> None:
    """Let the first of the batches with events be taken up."""
    taken = next(batch.taken for batch in intake.batches if batch.taken is not None)
    taken()


def test_connection_with_new_events_or_sweep_progress_is_productive(tmp_path: Path) -> None:
    """A tail that follows each connect is no reason to dial a relay again soon that ends every connection."""
    clock, crawl = ManualClock(START * 1000), new_crawl()
    intake = Recording(tmp_path / "events.db", clock)

    def is_of_use(found: Event) -> bool:
        relay, made = Answering([found]), made_of(intake, clock, crawl)
        made.open(Wakes())
        clock.advance(1.0)
        assert turn(made, relay) == 0
        clock.advance(1.0)
        assert turn(made, relay) >= 2
        return made.was_productive

    known, new = event(START - 10, kind=0), event(START - 9, kind=0)
    intake.committed.add_all([known.id])
    assert [is_of_use(each) for each in (known, known, new, known)] == [True, False, True, False]


def test_a_pause_in_reading_is_no_silence_of_the_relay(tmp_path: Path) -> None:
    clock = ManualClock(START * 1000)
    relay, made = Answering([]), made_of(Recording(tmp_path / "events.db", clock), clock)
    made.open(Wakes())
    turn(made, relay)
    made.pause()
    clock.advance(GIVE_UP_AFTER_S)
    made.resume(cast("WebSocket", relay))
    turn(made, relay)
    clock.advance(GIVE_UP_AFTER_S)
    with pytest.raises(ConnectionLost):
        turn(made, relay)


def connected(tmp_path: Path) -> tuple[ManualClock, "Pinged", Connection]:
    """A connection whose relay has been silent for as long as is usual between two messages."""
    clock = ManualClock(START * 1000)
    relay, made = Pinged([]), made_of(Recording(tmp_path / "events.db", clock), clock)
    relay.last_received = clock.monotonic()
    made.open(Wakes())
    turn(made, relay)
    clock.advance(QUIET_S)
    return clock, relay, made


class Pinged(Answering):
    """A relay that is asked whether it is there."""

    pings = 0

    def ping(self) -> None:
        self.pings += 1


def test_doubtful_path_is_pinged_and_lost_path_ends_the_connection(tmp_path: Path) -> None:
    _, relay, made = connected(tmp_path)
    made.on_path_doubtful(PathVerdict.PING)
    turn(made, relay)
    assert relay.pings == 1
    made.on_path_doubtful(PathVerdict.LOST)
    with pytest.raises(ConnectionLost) as caught:
        turn(made, relay)
    assert caught.value.reason is LossReason.UNREACHABLE


def test_loss_of_a_host_teaches_nothing_and_loss_by_the_relay_does(tmp_path: Path) -> None:
    clock, crawl = ManualClock(START * 1000), new_crawl()

    def teaches(reason: LossReason) -> bool:
        made = made_of(Recording(tmp_path / "events.db", clock), clock, crawl)
        made.open(Wakes())
        turn(made, Silent([]))
        return made.on_lost(reason)

    gone, reset = LossReason.UNREACHABLE, LossReason.EOF
    assert [teaches(each) for each in (*[gone] * 3 * MAX_FRUITLESS, *[reset] * MAX_FRUITLESS)] == [
        *[False] * (4 * MAX_FRUITLESS - 1), True,
    ]  # fmt: skip


class Silent(Answering):
    """A relay that answers nothing."""

    def send(self, *frames: str) -> None:
        """Nothing comes of it."""


def test_path_by_which_something_came_since_the_verdict_is_not_lost(tmp_path: Path) -> None:
    clock, relay, made = connected(tmp_path)
    made.on_path_doubtful(PathVerdict.LOST)
    relay.last_received = clock.monotonic()
    turn(made, relay)
    clock.advance(QUIET_S)
    turn(made, relay)


def test_relay_that_stops_in_the_middle_of_a_message_is_given_up_sooner(tmp_path: Path) -> None:
    clock, relay, made = connected(tmp_path)
    relay.is_midway = True
    turn(made, relay)
    clock.advance(PING_AFTER_S - QUIET_S)
    with pytest.raises(ConnectionLost) as caught:
        turn(made, relay)
    assert (caught.value.reason, relay.pings) == (LossReason.ERROR, 0)


def test_relay_that_is_not_read_while_the_intake_is_behind_is_not_given_up(tmp_path: Path) -> None:
    """Reading stops wherever it was, even in the middle of a message."""
    clock, crawl = ManualClock(START * 1000), new_crawl()
    crawl.pacing.costs = RelayCosts(lambda: 1_000, clock.monotonic())
    intake = Recording(tmp_path / "events.db", clock)
    found = [event(START - 10 - n, kind=0) for n in range(BATCH_EVENTS * (BATCHES_PER_RELAY + 1))]
    relay, made = Answering(found), made_of(intake, clock, crawl)
    made.open(Wakes())
    turn(made, relay)
    # The end of the page is yet to be read.
    del relay.answers[-1]
    turn(made, relay)
    assert is_full(made)
    relay.is_midway = True
    clock.advance(GIVE_UP_AFTER_S)
    told = next(batch.verified for batch in intake.batches if batch.verified is not None)
    told(Verified(genuine=1, stranger_events=1, stranger_bytes=1_000 * (BURST_S + 1)))
    assert turn(made, relay) == 0
    assert made.awaits_reply


def test_messages_are_counted_within_the_time_that_they_may_wait(tmp_path: Path) -> None:
    clock = ManualClock(START * 1000)
    relay, made = Answering([]), made_of(Recording(tmp_path / "events.db", clock), clock)
    made.open(Wakes())
    turn(made, relay)
    turn(made, relay)
    relay.answers.append(b'["EVENT","x",%s]' % event(START, kind=0).to_json())
    began = clock.monotonic()
    assert turn(made, relay) == 1
    assert made.next_time <= began + TELL_S


class Sending(Answering):
    """In the place of a channel: brings what it is given."""

    def __init__(self) -> None:
        super().__init__([])
        self.next: list[bytes | SkippedMessage] = []
        self.reads = 0

    def receive(self) -> list[bytes | SkippedMessage]:  # type: ignore[override]
        self.reads += 1
        messages, self.next = self.next, []
        return messages

    def send(self, *frames: str) -> None:
        """Answer nothing."""


def test_relay_whose_message_was_skipped_is_slowed_and_not_cut_off(tmp_path: Path) -> None:
    clock = ManualClock(START * 1000)
    intake = Recording(tmp_path / "events.db", clock)
    crawl = new_crawl()
    made, relay = made_of(intake, clock, crawl), Sending()
    made.open(lambda: None)
    turn(made, relay)
    size = LONG_MESSAGES.burst + int(LONG_MESSAGES.per_minute / 60)
    relay.next = [SkippedMessage(b'["EVENT","L1",{"created_at":5,', b"", size)]
    made.post_plan(plan_for())
    turn(made, relay)
    assert made.next_time == 1.0, "nothing but the time ends its pause"
    assert [(gap.reason, gap.since, gap.until) for gap in crawl.gaps] == [("oversized", 5, 5)]
    reads = relay.reads
    clock.advance(0.5)
    assert is_full(made)
    turn(made, relay)
    assert (relay.reads, made.next_time) == (reads, 1.0)
    clock.advance(0.5)
    turn(made, relay)
    assert relay.reads == reads + 1
    assert not is_full(made)


def test_invalid_messages_end_a_connection_only_if_nothing_else_comes(tmp_path: Path) -> None:
    clock = ManualClock(START * 1000)
    made, relay = made_of(Recording(tmp_path / "events.db", clock), clock), Sending()
    made.open(lambda: None)
    for _ in range(3):
        relay.next = [*[b"no JSON"] * MAX_INVALID_FRAMES, b'["NOTICE","still here"]']
        turn(made, relay)
    relay.next = [b"no JSON"] * (MAX_INVALID_FRAMES + 1)
    with pytest.raises(ConnectionLost):
        turn(made, relay)


def test_relay_of_long_messages_is_slowed_beyond_their_rate(tmp_path: Path) -> None:
    """Compressed, they may be a thousandth as long on the line, which does not bound them then."""
    clock = ManualClock(START * 1000)
    made, relay = made_of(Recording(tmp_path / "events.db", clock), clock), Sending()
    made.open(lambda: None)
    turn(made, relay)
    long = b'["NOTICE","' + b"x" * (LONG_MESSAGES.burst // 8) + b'"]'
    relay.next = [b'["NOTICE","' + b"x" * (LONG_BYTES // 2) + b'"]'] * 100
    turn(made, relay)
    for _ in range(7):
        relay.next = [long]
        turn(made, relay)
        assert not is_full(made)
    relay.next = [long] * 2
    turn(made, relay)
    assert is_full(made)
    clock.advance(2.0)
    turn(made, relay)
    assert not is_full(made)


def test_relay_of_malformed_events_is_cut_off_once_its_budget_is_spent(tmp_path: Path) -> None:
    clock = ManualClock(START * 1000)
    made, relay = made_of(Recording(tmp_path / "events.db", clock), clock), Sending()
    made.open(lambda: None)
    malformed = b'["EVENT","L1",{"id":"x"}]'
    for _ in range(FORGERIES.burst // 100):
        relay.next = [malformed] * 100
        turn(made, relay)
    relay.next = [malformed]
    turn(made, relay)
    with pytest.raises(ConnectionLost) as lost:
        turn(made, relay)
    assert lost.value.reason is LossReason.FORGED
