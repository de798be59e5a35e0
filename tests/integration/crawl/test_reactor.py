"""Many connections in one thread, over real sockets."""

import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import pytest

from pipeline.crawl import connection as connection_module
from pipeline.crawl import reactor as reactor_module
from pipeline.crawl.connection import Connection
from pipeline.crawl.context import CrawlContext
from pipeline.crawl.fence import Fence
from pipeline.crawl.flow_control import BATCHES_PER_RELAY, Backpressure, Marks, TransactionBatcher
from pipeline.crawl.ingester import BATCH_EVENTS, Batch, Ingester
from pipeline.crawl.path_watch import LOST_AFTER_S
from pipeline.crawl.reactor import Reactor
from pipeline.crawl.reconnect import ConnectionResult
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.crawl.sync.cursors import CursorTable
from pipeline.crawl.sync.relay_sync import RelaySync
from pipeline.crawl.sync.timing import Horizon
from pipeline.nostr.address import parse_address
from pipeline.nostr.event import Event
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.process.clock import SystemClock
from pipeline.process.logs import Logger, RateLimitedLogger
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.relay.errors import LossReason
from pipeline.relay.host_backoff import HostBackoff
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.tcp_path import TcpPath
from pipeline.relay.websocket import WebSocket
from pipeline.rules.acceptance import EventLimits
from pipeline.store.counters import StageCounters
from pipeline.store.lease import QueueSize
from pipeline.store.relay_status import RelayState
from pipeline.store.schema import open_database
from tests.integration.delivery.support import wait_until
from tests.integration.relay.peers import CLOSE, PATIENCE_S, TEXT, FrameSource, frame
from tests.simulation.simulation import SETTINGS, START
from tests.support.plans import event, plan_for

CLOCK = SystemClock()
# So long is waited for what must not come.
_MOMENT_S = 0.3


class Taking(Ingester):
    """An intake that commits when it is told to."""

    def __init__(self, path: Path) -> None:
        counters = StageCounters(Slot("crawler", 0), Metrics())
        super().__init__(lambda: open_database(path, CLOCK), EventLimits(10**6, 100), CLOCK, counters)
        self.taken: SimpleQueue[Batch] = SimpleQueue()

    def submit(self, *batches: Batch) -> None:
        for batch in batches:
            self.taken.put(batch)

    def next_events(self) -> Batch:
        """The next batch that brings events."""
        while not (batch := self.taken.get(timeout=PATIENCE_S)).events:
            pass
        return batch

    def take_until(self, found: Event) -> list[bytes]:
        """The ids of all events that come, each batch taken, up to `found`; how they fall into batches is chance."""
        ids: list[bytes] = []
        while found.id not in ids:
            batch = self.next_events()
            ids.extend(each.id for each in batch.events)
            take(batch)
        return ids

    def take_all(self) -> list[Batch]:
        """The batches with events that wait, each of them taken."""
        found: list[Batch] = []
        while not self.taken.empty():
            if (batch := self.taken.get()).events:
                take(batch)
                found.append(batch)
        return found

    def is_quiet(self) -> bool:
        """Whether no batch that brings events waits."""
        while not self.taken.empty():
            if self.taken.get_nowait().events:
                return False
        return True

    def wait_state(self, state: RelayState) -> None:
        """Until a relay is said to be in `state`."""
        while (status := self.taken.get(timeout=PATIENCE_S).status) is None or status.state is not state:
            pass


def take(*batches: Batch) -> None:
    """Say that the intake has them."""
    for batch in batches:
        assert batch.taken is not None
        batch.taken()


def ids_of(batches: list[Batch]) -> list[bytes]:
    return [each.id for batch in batches for each in batch.events]


@dataclass
class Desk:
    """A reactor at work, and how its connections ended."""

    intake: Taking
    backpressure: Backpressure
    reactor: Reactor
    thread: threading.Thread
    endings: SimpleQueue[ConnectionResult]

    def connect(self, relay: int = 1) -> tuple[Connection, socket.socket]:
        """A connection that is served, and the relay's end of its socket."""
        ours, theirs = socket.socketpair()
        address = f"wss://relay{relay}.example"
        sync = RelaySync(
            cursors=CursorTable(relay, ()),
            limits=LearnedLimits(RelayLimits()),
            horizon=Horizon(SETTINGS, START),
            plan=plan_for(),
        )
        made = Connection(
            relay, parse_address(address), sync, HostBackoff(random.Random(1)),
            RelayMetrics(Metrics(), address, self.intake.count_dropped), self.reactor.context,
        )  # fmt: skip
        self.reactor.register(made, WebSocket(ours, CLOCK), self.endings.put)
        return made, theirs

    def finish(self) -> None:
        self.reactor.finish()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def idle(path: Path, fence: Fence | None = None) -> Desk:
    """A reactor that is not at work yet."""
    intake, gate = Taking(path), Backpressure(Marks(10, 5, 1 << 30))
    log = RateLimitedLogger(Logger(logging.getLogger("test")), CLOCK)
    bounds = FrameBounds(10**6, 100)
    reactor = Reactor(CrawlContext(CLOCK, intake, TransactionBatcher(intake), gate, log, bounds, fence=fence))
    return Desk(intake, gate, reactor, threading.Thread(target=reactor.run, daemon=True), SimpleQueue())


@contextmanager
def working(path: Path, fence: Fence | None = None) -> Iterator[Desk]:
    desk = idle(path, fence)
    desk.thread.start()
    try:
        yield desk
    finally:
        desk.finish()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with working(tmp_path / "events.db") as made:
        yield made


def sent(found: Event) -> bytes:
    return frame(TEXT, b'["EVENT","any",' + found.to_json() + b"]")


def events(count: int, first: int = 0) -> list[Event]:
    return [event(START - n, kind=0) for n in range(first, first + count)]


def test_what_relays_send_is_handed_over_and_what_we_ask_is_sent(desk: Desk) -> None:
    for relay, found in enumerate(events(20)):
        _, theirs = desk.connect(relay)
        with theirs:
            opcode, request = FrameSource(theirs).next()
            assert (opcode, request[:7]) == (TEXT, b'["REQ",')
            theirs.sendall(sent(found))
            batch = desk.intake.next_events()
            assert batch.relay == relay
            assert [each.id for each in batch.events] == [found.id]
            take(batch)
        assert desk.endings.get(timeout=PATIENCE_S).was_productive


def test_what_comes_during_a_turn_is_read_before_the_turns_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reactor_module, "_LOOK_S", 0.0)
    desk = idle(tmp_path / "events.db")
    connections = [desk.connect(relay) for relay in (1, 2, 3)]
    registered = {entry.connection: entry for entry in desk.reactor._answer_calls()}
    entries = [registered[made] for made, _ in connections]
    # From then on they are polled.
    desk.reactor._step_all(dict.fromkeys(entries), CLOCK.monotonic())
    turns: list[int] = []

    def stepped(relay: int, turn: Callable[[WebSocket], int]) -> Callable[[WebSocket], int]:
        def step(websocket: WebSocket) -> int:
            if not turns:
                connections[2][1].sendall(sent(events(1)[0]))
            turns.append(relay)
            return turn(websocket)

        return step

    for relay, (made, _) in enumerate(connections, 1):
        monkeypatch.setattr(made, "step", stepped(relay, made.step))
    desk.reactor._step_all(dict.fromkeys(entries), CLOCK.monotonic())
    assert turns == [1, 3, 2]
    assert desk.intake.next_events().relay == 3
    for (_, theirs), entry in zip(connections, entries, strict=True):
        entry.websocket.close()
        theirs.close()


def test_relay_whose_batches_wait_is_not_read_and_delays_no_other(desk: Desk) -> None:
    room = BATCH_EVENTS * BATCHES_PER_RELAY
    found = events(room + 1)
    _, full = desk.connect(1)
    _, other = desk.connect(2)
    with full, other:
        full.sendall(b"".join(map(sent, found[:room])))
        batches = [desk.intake.next_events() for _ in range(BATCHES_PER_RELAY)]
        full.sendall(sent(found[-1]))
        other.sendall(sent(events(1, first=5_000)[0]))
        assert desk.intake.next_events().relay == 2
        assert desk.intake.is_quiet()
        take(*batches)
        rest = desk.intake.take_until(found[-1])
        assert ids_of(batches) + rest == [each.id for each in found]


def test_a_relay_that_is_full_and_gone_costs_nothing_until_there_is_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """epoll(7) tells of a hang-up whatever it is asked for; the thread must not turn round it."""
    room = BATCH_EVENTS * BATCHES_PER_RELAY
    made, theirs = desk.connect()
    turns: list[None] = []
    turn = made.step

    def counted(websocket: WebSocket) -> int:
        turns.append(None)
        return turn(websocket)

    found = events(room + 1)
    theirs.sendall(b"".join(map(sent, found)))
    batches = [desk.intake.next_events() for _ in range(BATCHES_PER_RELAY)]
    monkeypatch.setattr(made, "step", counted)
    theirs.close()
    assert not threading.Event().wait(_MOMENT_S)
    assert len(turns) < 10
    take(*batches)
    rest = desk.intake.take_until(found[-1])
    assert ids_of(batches) + rest == [each.id for each in found]
    assert desk.endings.get(timeout=PATIENCE_S).was_productive


def test_nothing_is_read_while_the_gate_is_closed(desk: Desk) -> None:
    _, theirs = desk.connect()
    with theirs:
        desk.intake.wait_state(RelayState.CONNECTED)
        desk.backpressure.update(QueueSize(100, 0))
        # It may be waiting for something to come.
        theirs.sendall(frame(TEXT, b'["NOTICE","x"]'))
        desk.intake.wait_state(RelayState.BACKPRESSURED)
        found = events(1)[0]
        theirs.sendall(sent(found))
        assert not threading.Event().wait(_MOMENT_S)
        assert desk.intake.is_quiet()
        desk.backpressure.update(QueueSize(0, 0))
        desk.intake.wait_state(RelayState.CONNECTED)
        batch = desk.intake.next_events()
        assert [each.id for each in batch.events] == [found.id]
        take(batch)


def test_a_connection_may_be_closed_while_the_gate_is(desk: Desk) -> None:
    made, theirs = desk.connect()
    with theirs:
        desk.intake.wait_state(RelayState.CONNECTED)
        desk.backpressure.update(QueueSize(100, 0))
        theirs.sendall(frame(TEXT, b'["NOTICE","x"]'))
        desk.intake.wait_state(RelayState.BACKPRESSURED)
        made.close()
        assert desk.endings.get(timeout=PATIENCE_S).by_request


def test_connection_that_leads_nowhere_ends_and_the_others_go_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reactor_module, connection_module):
        monkeypatch.setattr(module, "QUIET_S", 0.0)
    lost: set[int] = set()
    dead = TcpPath(silent_s=LOST_AFTER_S, probes=1, unacknowledged=1, resent=9)
    monkeypatch.setattr(WebSocket, "path", property(lambda each: dead if each.fileno() in lost else TcpPath()))
    gone, theirs = desk.connect(1)
    _, other = desk.connect(2)
    with theirs, other:
        for each in (theirs, other):
            assert FrameSource(each).next()[0] == TEXT
        lost.add(next(number for number, each in desk.reactor._entries.items() if each.connection is gone))
        assert desk.endings.get(timeout=PATIENCE_S).reason == LossReason.UNREACHABLE
        other.sendall(sent(event(START, kind=0)))
        assert desk.intake.next_events().relay == 2
        assert desk.endings.empty()


@pytest.mark.parametrize("where", ["step", "on_lost"])
def test_one_connection_that_fails_fails_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    broken, theirs = desk.connect(1)
    _, other = desk.connect(2)

    def fail(*_: WebSocket) -> int:
        raise ZeroDivisionError

    with theirs, other:
        desk.intake.wait_state(RelayState.CONNECTED)
        desk.intake.wait_state(RelayState.CONNECTED)
        monkeypatch.setattr(broken, where, fail)
        # It may have failed already, as soon as anything was due.
        with suppress(OSError):
            theirs.sendall(frame(TEXT, b"x"))
            theirs.shutdown(socket.SHUT_WR)
        assert desk.endings.get(timeout=PATIENCE_S).detail == "ZeroDivisionError"
        other.sendall(sent(events(1)[0]))
        batch = desk.intake.next_events()
        assert batch.relay == 2
        take(batch)


def fence_around(*relays: int) -> tuple[Fence, list[float]]:
    """A fence with the right to ask these relays for 700 s, and its clock."""
    now = [0.0]
    fence = Fence(lambda: now[0])
    fence.right = fence.right.granted({f"relay{relay}.example" for relay in relays}, 0.0, 1_000.0)
    return fence, now


def test_relay_that_the_right_does_not_cover_is_asked_nothing(tmp_path: Path) -> None:
    fence, _ = fence_around(2)
    with working(tmp_path / "events.db", fence) as desk:
        _, other = desk.connect(1)
        with other:
            assert desk.endings.get(timeout=PATIENCE_S).reason == "lapsed"
            assert FrameSource(other).next()[0] == CLOSE
        _, covered = desk.connect(2)
        with covered:
            assert FrameSource(covered).next()[0] == TEXT


@pytest.mark.parametrize("is_paused", [False, True])
def test_connections_end_unread_once_the_right_is_over(tmp_path: Path, *, is_paused: bool) -> None:
    fence, now = fence_around(1, 2)
    with working(tmp_path / "events.db", fence) as desk:
        pairs = [desk.connect(relay) for relay in (1, 2)]
        for _, theirs in pairs:
            assert FrameSource(theirs).next()[0] == TEXT
        desk.intake.wait_state(RelayState.CONNECTED)
        if is_paused:
            desk.backpressure.update(QueueSize(100, 0))
            # The reactor may be waiting for something to come.
            pairs[0][1].sendall(frame(TEXT, b'["NOTICE","x"]'))
            desk.intake.wait_state(RelayState.BACKPRESSURED)
        now[0] = 700.0
        for _, theirs in pairs:
            # The first one wakes the reactor, which may have ended both by now.
            with suppress(OSError):
                theirs.sendall(sent(events(1)[0]))
        endings = [desk.endings.get(timeout=PATIENCE_S) for _ in pairs]
        assert [each.reason for each in endings] == ["lapsed", "lapsed"]
        assert all(each.by_request for each in endings)
        assert desk.intake.is_quiet()
        for _, theirs in pairs:
            theirs.close()


def test_right_that_runs_out_within_a_step_lets_nothing_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence, now = fence_around(1)
    take_plans = Connection._take_plans

    def slow(connection: Connection) -> None:
        take_plans(connection)
        now[0] = 700.0

    monkeypatch.setattr(Connection, "_take_plans", slow)
    with working(tmp_path / "events.db", fence) as desk:
        _, theirs = desk.connect(1)
        with theirs:
            assert FrameSource(theirs).next()[0] == CLOSE
            assert desk.endings.get(timeout=PATIENCE_S).by_request


def test_the_end_waits_until_what_came_is_taken(tmp_path: Path) -> None:
    found = events(BATCH_EVENTS * BATCHES_PER_RELAY + 1)
    with working(tmp_path / "events.db") as desk:
        made, theirs = desk.connect()
        with theirs:
            theirs.sendall(b"".join(map(sent, found)))
            taken = [desk.intake.next_events() for _ in range(BATCHES_PER_RELAY)]
            wait_until(lambda: made.is_blocked, "more was read than there is room for")
            desk.reactor.finish()
            desk.thread.join(_MOMENT_S)
            assert desk.thread.is_alive()
            take(*taken)
            # How much more had been read, and in how many batches it comes, is chance; the rest is left to the relay.
            more: list[Batch] = []

            def has_ended() -> bool:
                is_over = not desk.thread.is_alive()
                more.extend(desk.intake.take_all())
                return is_over

            wait_until(has_ended)
        ids = ids_of([*taken, *more])
        assert len(ids) > len(ids_of(taken))
        assert ids == [each.id for each in found[: len(ids)]]


def test_who_comes_after_the_end_is_closed(tmp_path: Path) -> None:
    with working(tmp_path / "events.db") as desk:
        desk.finish()
        _, theirs = desk.connect()
        with closing(theirs):
            theirs.settimeout(PATIENCE_S)
            while theirs.recv(1000):
                pass
