"""The sweeper stage: what it forgets and when, for how long it holds the write lock, and the length of the log."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from pipeline.process.clock import Clock, ManualClock
from pipeline.process.logs import get_logger
from pipeline.process.stop import Stop
from pipeline.store import (
    contact_slices,
    contacts,
    disk,
    relay_mentions,
    relay_pruning,
    relays,
    retractions,
    shares,
    users,
    wanted_authors,
)
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.database import Database, Tx
from pipeline.store.database_file import wal_bytes
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinksChanged, enroll
from pipeline.sweeper import retention, table_walk, upkeep
from stages import sweeper
from tests.integration.stages.support import NOW, PATIENCE_S, Running, World, dying_after, wait_until
from tests.support.seeds import seeds

HOUR, DAY = 3_600_000, 86_400_000
NOW_MS = NOW * 1000
PUT_EVENT = "INSERT INTO events (event, event_id, relay, received_at, sinks) VALUES (?, randomblob(32), 1, ?, ?)"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_MS)


@pytest.fixture
def world(tmp_path: Path, clock: ManualClock) -> Iterator[World]:
    made = World(tmp_path, clock=clock)
    yield made
    made.close()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps without rest."""
    monkeypatch.setattr(sweeper, "_TURN_S", 0.001)
    monkeypatch.setattr(table_walk, "REST_S", 0.0)
    monkeypatch.setattr(retention, "SEEN_PACE_S", 0.0)


def put_event(world: World, number: int, *, sinks: int, received_at: int = NOW_MS - 9 * DAY, **delivered: int) -> None:
    """An event that owes `sinks` deliveries, some of them made at a time."""
    world.execute("INSERT INTO payloads VALUES (?, x'aa')", number)
    world.execute(PUT_EVENT, number, received_at, sinks)
    for sink, at in delivered.items():
        world.execute("INSERT INTO deliveries VALUES (?, ?, 'delivered', ?)", number, sink, at)


def stored(world: World) -> set[int]:
    numbers = {number for (number,) in world.query("SELECT event FROM events")}
    assert numbers == {number for (number,) in world.query("SELECT event FROM payloads")}
    return numbers


def sweep(world: World, rounds: int = 4, **settings: str) -> Running:
    """Let it go over everything some times."""
    with Running(world.context("sweeper", settings), sweeper.run) as running:
        calls = {"handlerName": "cleanupProcessedEvents", "result": "success"}
        wait_until(lambda: running.metric("application_handler_calls_total", **calls) >= rounds)
    return running


def test_a_payload_stays_until_every_sink_has_had_it_for_an_hour(world: World, eager: None) -> None:
    """The time of the last delivery counts; what was never delivered stays for ever."""
    old, recent = NOW_MS - HOUR - 1, NOW_MS - HOUR + 60_000
    put_event(world, 1, sinks=1, pubsub=old)
    put_event(world, 2, sinks=1, pubsub=recent)
    put_event(world, 3, sinks=2, pubsub=old)
    put_event(world, 4, sinks=2, pubsub=old, relay=recent)
    put_event(world, 5, sinks=2, pubsub=old, relay=old)
    put_event(world, 6, sinks=1)
    put_event(world, 7, sinks=2, relay=old)
    put_event(world, 8, sinks=1, pubsub=NOW_MS)
    running = sweep(world)
    assert stored(world) == {2, 3, 4, 6, 7, 8}
    assert running.metric("event_service_stage_discarded_total", stage="sweeper", reason="expired-event") == 2


def test_payloads_are_deleted_once_delivered_if_the_database_is_too_large(world: World, eager: None) -> None:
    put_event(world, 1, sinks=1, pubsub=NOW_MS)
    put_event(world, 2, sinks=2, pubsub=NOW_MS)
    put_event(world, 3, sinks=1)
    with world.database.read() as tx:
        used = disk.used_bytes(tx)
    sweep(world, EVENTS_MAX_DATABASE_BYTES=f"{2 * used}")
    assert stored(world) == {1, 2, 3}
    sweep(world, EVENTS_MAX_DATABASE_BYTES=f"{used // 2}")
    assert stored(world) == {2, 3}


def test_a_payload_goes_when_its_time_comes(world: World, clock: ManualClock, eager: None) -> None:
    """Without a restart."""
    put_event(world, 1, sinks=1, pubsub=NOW_MS)
    with Running(world.context("sweeper"), sweeper.run) as running:
        calls = {"handlerName": "cleanupProcessedEvents", "result": "success"}
        wait_until(lambda: running.metric("application_handler_calls_total", **calls) > 5)
        assert stored(world) == {1}
        clock.advance(3_599)
        clock.advance(2)
        wait_until(lambda: stored(world) == set())


def test_the_payload_of_a_buried_row_stays_for_whoever_puts_it_back(world: World, eager: None) -> None:
    """Longer than the retention of ids, and also when it was delivered elsewhere; afterwards it goes as any other."""
    put_event(world, 1, sinks=2, received_at=NOW_MS - 90 * DAY, pubsub=NOW_MS - 90 * DAY)
    world.execute("INSERT INTO outbox_dead VALUES (1, 1, 'relay', 51, 50, 'too many claims', ?, 2)", NOW_MS - 80 * DAY)
    sweep(world)
    assert stored(world) == {1}
    world.execute("INSERT INTO deliveries VALUES (1, 'relay', 'delivered', ?)", NOW_MS - 2 * HOUR)
    sweep(world)
    assert stored(world) == set()


def test_backlog_of_a_sink_that_is_off_goes_with_the_ids(world: World, eager: None) -> None:
    """Here the target relay's; Pub/Sub's, which is on, waits for ever. Payloads are pinned no longer."""
    for number, age in ((1, 31), (2, 29), (3, 31)):
        put_event(world, number, sinks=1, received_at=NOW_MS - age * DAY)
        sink = "pubsub" if number == 3 else "relay"
        world.execute("INSERT INTO outbox (event, sink, ready_at) VALUES (?, ?, 0)", number, sink)
    sweep(world)
    assert world.query("SELECT event, sink FROM outbox ORDER BY event") == [(2, "relay"), (3, "pubsub")]
    assert world.query("SELECT event, outcome FROM deliveries") == [(1, "dropped: sink off")]


def test_backlog_of_a_sink_taken_out_pins_no_payload_for_ever(world: World, eager: None) -> None:
    """Of several; counted under its name. What the other one is owed stays."""
    enroll(world.database, ("jsonl", "nats"), world.clock, get_logger("test"))
    for number, age, sink in ((1, 31, "nats"), (2, 29, "nats"), (3, 31, "jsonl")):
        put_event(world, number, sinks=1, received_at=NOW_MS - age * DAY)
        world.execute("INSERT INTO outbox (event, sink, ready_at) VALUES (?, ?, 0)", number, sink)
    running = sweep(world)
    assert world.query("SELECT event, sink FROM outbox ORDER BY event") == [(2, "nats"), (3, "jsonl")]
    expired = {"stage": "sweeper", "reason": "expired-outbox-nats"}
    assert running.metric("event_service_stage_discarded_total", **expired) == 1
    world.execute("UPDATE deliveries SET at = ?", NOW_MS - 2 * HOUR)
    sweep(world)
    assert stored(world) == {2, 3}


def test_outbox_that_is_that_of_another_sink_by_now_is_left_alone(world: World, eager: None) -> None:
    """It had the rows of a sink that was off; its name is that of Pub/Sub now, which is on."""
    put_event(world, 1, sinks=1, received_at=NOW_MS - 31 * DAY)
    enroll(world.database, ("jsonl",), world.clock, get_logger("test"))
    with Running(world.context("sweeper", {"EVENTS_SINK": "none"}), sweeper.run) as running:
        calls = {"handlerName": "cleanupProcessedEvents", "result": "success"}
        wait_until(lambda: running.metric("application_handler_calls_total", **calls) >= 1)
        enroll(world.database, ("jsonl", "pubsub"), world.clock, get_logger("test"))
        world.execute("INSERT INTO outbox (event, sink, ready_at) VALUES (1, 'pubsub', 0)")
        assert isinstance(running.wait_over(), SinksChanged)
    assert world.query("SELECT event, sink FROM outbox") == [(1, "pubsub")]


def test_ids_and_outcomes_are_forgotten_after_thirty_days(world: World, eager: None) -> None:
    for number in range(1, 61):
        at = NOW_MS - number * DAY
        world.execute("INSERT INTO seen VALUES (randomblob(32), ?, ?, 5, 0, 1)", number, at)
        world.execute("INSERT INTO deliveries VALUES (?, 'pubsub', 'delivered', ?)", number, at)
    running = sweep(world)
    assert {event for (event,) in world.query("SELECT event FROM seen")} == set(range(1, 31))
    assert {event for (event,) in world.query("SELECT event FROM deliveries")} == set(range(1, 31))
    discarded = "event_service_stage_discarded_total"
    assert running.metric(discarded, stage="sweeper", reason="expired-seen") == 30
    assert running.metric(discarded, stage="sweeper", reason="expired-delivery") == 30


@pytest.mark.parametrize(("used", "days"), [(1_125, 30), (1_150, 24), (1_187, 17), (1_250, 4), (9_000, 4)])
def test_ids_are_forgotten_the_sooner_the_fuller_the_database_is(
    world: World, eager: None, monkeypatch: pytest.MonkeyPatch, used: int, days: int
) -> None:
    """A day more than sweeps go back at least, however full it is."""
    monkeypatch.setattr(disk, "used_bytes", lambda _: used)
    for number, age in enumerate(range(1, 40)):
        at = NOW_MS - age * DAY + HOUR
        world.execute("INSERT INTO seen VALUES (randomblob(32), ?, ?, 5, 0, 1)", number, at)
        world.execute("INSERT INTO deliveries VALUES (?, 'pubsub', 'delivered', ?)", number, at)
    sweep(world, EVENTS_MAX_DATABASE_BYTES="1000", EVENTS_RESWEEP_WINDOW="72h", EVENTS_SEEN_RETENTION="720h")
    assert world.value("SELECT count(*) FROM seen") == days
    assert world.value("SELECT count(*) FROM deliveries") == days


def test_what_was_taken_back_is_forgotten_in_time(world: World, eager: None) -> None:
    """Deletions as late as ids; who has vanished after a year, unless they are wanted."""
    with world.database.write() as tx:
        for number in range(1, 61):
            retractions.delete(tx, [number.to_bytes(32)], number, NOW_MS - number * DAY)
            retractions.vanish(tx, number, 5, NOW_MS - (335 + number) * DAY)
        wanted_authors.acquire(tx, [55, 60], NOW_MS)
        wanted_authors.acquire(tx, [56], NOW_MS)
        wanted_authors.release(tx, [56])
    running = sweep(world, rounds=9)
    assert {author for (author,) in world.query("SELECT author FROM deletions")} == set(range(1, 31))
    assert {author for (author,) in world.query("SELECT author FROM vanished")} == {*range(1, 31), 55, 60}
    discarded = "event_service_stage_discarded_total"
    assert running.metric(discarded, stage="sweeper", reason="expired-deletion") == 30
    assert running.metric(discarded, stage="sweeper", reason="expired-vanished") == 28


def test_what_is_taken_back_again_is_kept_for_longer(world: World, eager: None) -> None:
    with world.database.write() as tx:
        for at in (NOW_MS - 90 * DAY, NOW_MS - DAY):
            retractions.delete(tx, [bytes(32)], 1, at)
            retractions.vanish(tx, 1, 5, at - 335 * DAY)
    sweep(world, rounds=9)
    assert world.value("SELECT count(*) FROM deletions") == 1
    assert world.value("SELECT count(*) FROM vanished") == 1


def test_old_outcomes_go_past_those_that_stay(world: World, eager: None) -> None:
    """A late delivery of an old event is not in the way of younger ones that are due."""
    with world.database.write() as tx:
        tx.executemany("INSERT INTO deliveries VALUES (?, 'pubsub', 'x', ?)", ((n, NOW_MS) for n in range(1, 3_001)))
        old = NOW_MS - 31 * DAY
        tx.executemany("INSERT INTO deliveries VALUES (?, 'pubsub', 'x', ?)", ((n, old) for n in range(3_001, 6_001)))
    with Running(world.context("sweeper"), sweeper.run):
        wait_until(lambda: world.value("SELECT count(*) FROM deliveries") == 3_000)


def test_retention_is_a_setting(world: World, eager: None) -> None:
    world.env |= {"EVENTS_EVENT_RETENTION": "1s", "EVENTS_SEEN_RETENTION": "1m"}
    put_event(world, 1, sinks=1, pubsub=NOW_MS - 2_000)
    put_event(world, 2, sinks=1, pubsub=NOW_MS - 100)
    world.execute("INSERT INTO seen VALUES (randomblob(32), 1, ?, 5, 0, 1)", NOW_MS - 61_000)
    world.execute("INSERT INTO seen VALUES (randomblob(32), 2, ?, 5, 0, 1)", NOW_MS - 59_000)
    sweep(world)
    assert stored(world) == {2}
    assert world.query("SELECT event FROM seen") == [(2,)]


@pytest.mark.parametrize("seed", seeds(3))
def test_random_tables_against_a_naive_reading(world: World, eager: None, seed: int) -> None:
    rng = random.Random(seed)
    times = [NOW_MS - rng.choice([0, HOUR - 1, HOUR + 1, DAY, 29 * DAY]) for _ in range(400)]
    kept = set()
    with world.database.write() as tx:
        for number, received_at in enumerate(times, 1):
            sinks = rng.randint(1, 2)
            made = rng.sample(["pubsub", "relay"], rng.randint(0, sinks))
            at = [min(NOW_MS, received_at + rng.choice([0, 1000, HOUR])) for _ in made]
            tx.execute("INSERT INTO payloads VALUES (?, x'aa')", (number,))
            tx.execute(PUT_EVENT, (number, received_at, sinks))
            tx.executemany(
                "INSERT INTO deliveries VALUES (?, ?, 'x', ?)", [(number, *one) for one in zip(made, at, strict=True)]
            )
            if len(made) < sinks or max(at) > NOW_MS - HOUR:
                kept.add(number)
    sweep(world, rounds=8)
    assert stored(world) == kept, f"seed {seed}"


class Timed(Database):
    """Notes for how long each of its transactions held the write lock."""

    __slots__ = ("clock", "held")
    clock: Clock
    held: list[float]

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Tx]:
        began = 0.0
        with super().write(durable=durable) as tx:
            began = self.clock.monotonic()
            yield tx
        self.held.append(self.clock.monotonic() - began)


# Instructions of SQLite's virtual machine between two looks at the clock.
STEPS: Final = 100


@contextmanager
def machine_of(steps_per_s: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ManualClock, list[float]]]:
    """A clock that moves by the work of the sweeper's statements alone, as on a machine of this speed.

    Beside it, in seconds by that clock: how long each transaction held the write lock.
    """
    clock, times = ManualClock(NOW_MS), list[float]()

    def opener(path: Path, clock_: Clock, *_: object) -> Database:
        plain = open_database(path, clock_)
        timed = Timed(plain.path, plain._connection)
        timed.clock, timed.held = clock, times

        def work() -> bool:
            clock.advance(STEPS / steps_per_s)
            return False

        plain._connection.set_progress_handler(work, STEPS)
        return timed

    monkeypatch.setattr(sweeper, "open_database", opener)
    yield clock, times


def fill(world: World, rows: int, *, received_at: int, delivered_at: int | None) -> None:
    """So many events of 700 bytes, their ids and maybe their deliveries."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    world.execute(f"{numbers} INSERT INTO payloads SELECT i, randomblob(700) FROM n")
    world.execute(
        f"{numbers} INSERT INTO events (event, event_id, relay, received_at, sinks)"
        " SELECT i, randomblob(32), 1, ?, 1 FROM n",
        received_at,
    )
    world.execute(f"{numbers} INSERT INTO seen SELECT randomblob(32), i, ?, 5, 0, 1 FROM n", received_at)
    if delivered_at is not None:
        world.execute(f"{numbers} INSERT INTO deliveries SELECT i, 'pubsub', 'x', ? FROM n", delivered_at)


@pytest.mark.parametrize("age", ["fresh", "undelivered", "due"])
@pytest.mark.parametrize(
    ("steps_per_s", "rows"), [(10_000_000, 100_000), (200_000, 5_000)], ids=["quick-machine", "slow-machine"]
)
def test_the_write_lock_is_held_for_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: str, steps_per_s: float, rows: int
) -> None:
    """Whether rows go or stay. Slices fit themselves to the machine."""
    monkeypatch.setattr(sweeper, "_TURN_S", 0.001)
    monkeypatch.setattr(retention, "SEEN_PACE_S", 0.0)
    with machine_of(steps_per_s, monkeypatch) as (clock, held):
        world = World(tmp_path, clock=clock)
        received_at = {"fresh": NOW_MS, "undelivered": NOW_MS - 31 * DAY, "due": NOW_MS - 31 * DAY}[age]
        delivered_at = {"fresh": NOW_MS, "undelivered": None, "due": NOW_MS - 2 * HOUR}[age]
        fill(world, rows, received_at=received_at, delivered_at=delivered_at)
        with Running(world.context("sweeper"), sweeper.run):
            if age == "fresh":
                wait_until(lambda: len(held) > 100)
            else:
                wait_until(lambda: world.value("SELECT count(*) FROM (SELECT 1 FROM seen LIMIT 1)") == 0, timeout_s=60)
            if age == "due":
                wait_until(
                    lambda: world.value("SELECT count(*) FROM (SELECT 1 FROM events LIMIT 1)") == 0, timeout_s=60
                )
        assert world.value("SELECT count(*) FROM events") == (0 if age == "due" else rows)
        world.close()
    times = sorted(held)
    assert len(times) > 50, "in slices"
    assert times[len(times) * 95 // 100] <= 0.05
    # Before it knows the machine.
    assert times[-1] <= 0.25


class Interrupted(Stop):
    """Ends each rest of the sweeper once another has written, or when it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.rests, self.written = threading.Semaphore(0), threading.Semaphore(0)

    def wait(self, timeout_s: float | None = None) -> bool:
        self.rests.release()
        while not self.written.acquire(timeout=0.05) and not self.is_set():
            pass
        return self.is_set()


def test_others_write_while_it_sweeps(tmp_path: Path) -> None:
    """A writer gets the lock between any two slices."""
    world, stop = World(tmp_path), Interrupted()
    fill(world, 30_000, received_at=world.clock.now_ms() - 2 * DAY, delivered_at=world.clock.now_ms() - DAY)
    left: list[object] = []
    with Running(replace(world.context("sweeper"), stop=stop), sweeper.run):
        while left[-1:] != [0]:
            assert stop.rests.acquire(timeout=PATIENCE_S)
            with world.database.write() as tx:
                left.append(tx.execute("SELECT count(*) FROM events").fetchall()[0][0])
                tx.execute("UPDATE generations SET latest = latest")
            stop.written.release()
    assert len(set(left)) > 8
    world.close()


@contextmanager
def snapshot(path: Path, clock: Clock) -> Iterator[None]:
    """A reader that stays in the middle of its reading, in a thread of its own."""
    begun, over = threading.Event(), threading.Event()

    def read() -> None:
        with open_database(path, clock) as database, database.read() as tx:
            tx.execute("SELECT count(*) FROM seen").fetchall()
            begun.set()
            over.wait(60)

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(PATIENCE_S)
    yield
    over.set()
    thread.join()


def write_seen(world: World) -> None:
    """One transaction of 400 ids."""
    with world.database.write() as tx:
        rows = ((random.randbytes(32), number, 10**15) for number in range(400))
        tx.executemany("INSERT INTO seen VALUES (?, ?, ?, 5, 0, 1)", rows)


def bound_log(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let the sweeper look all the time whether the log is larger than `size`."""
    monkeypatch.setattr(sweeper, "_TURN_S", 0.01)
    monkeypatch.setattr(upkeep, "JOURNAL_SIZE_LIMIT", size)
    monkeypatch.setattr("pipeline.store.database_file.JOURNAL_SIZE_LIMIT", size)


def test_the_log_is_cut_back_when_a_long_reader_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the snapshot is held the log can only grow; the sweeper keeps trying while others write."""
    bound_log(monkeypatch, 1 << 20)
    world = World(tmp_path)

    with Running(world.context("sweeper"), sweeper.run):
        with snapshot(world.path, world.clock):
            while wal_bytes(world.path) < 8 << 20:
                write_seen(world)
            peak = wal_bytes(world.path)

        # One more commit begins the log anew, which is cut back to its limit.
        def is_short() -> bool:
            write_seen(world)
            return wal_bytes(world.path) <= 3 << 20

        wait_until(is_short)
    assert peak >= 8 << 20
    world.close()


def test_the_log_stays_short_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With readers that come and go all the time it is cut back again and again."""
    bound_log(monkeypatch, 4 << 20)
    world = World(tmp_path)
    stop = threading.Event()

    def read() -> None:
        with open_database(world.path, world.clock) as database:
            while not stop.is_set():
                with database.read() as tx:
                    tx.execute("SELECT count(*) FROM (SELECT 1 FROM seen LIMIT 5000)").fetchall()
                stop.wait(0.005)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    cuts = before = 0
    deadline = monotonic() + PATIENCE_S
    with Running(world.context("sweeper"), sweeper.run):
        while cuts < 8 and monotonic() < deadline:
            write_seen(world)
            size = wal_bytes(world.path)
            cuts, before = cuts + (size < before), size
    stop.set()
    for reader in readers:
        reader.join()
    assert cuts == 8
    world.close()


def test_a_log_that_was_begun_anew_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its size, which must not be taken for something to do at each turn."""
    bound_log(monkeypatch, 1 << 20)
    restarts: list[int] = []
    restart = Database.restart_log

    def counted(self: Database) -> bool:
        done = restart(self)
        if done:
            restarts.append(wal_bytes(self.path))
        return done

    monkeypatch.setattr(Database, "restart_log", counted)
    world = World(tmp_path)

    with Running(world.context("sweeper"), sweeper.run):
        while wal_bytes(world.path) <= 1 << 20:
            write_seen(world)
        wait_until(lambda: bool(restarts))
        write_seen(world)
        before = len(restarts)
        for _ in range(5):
            wait_until(lambda: wal_bytes(world.path) <= 1 << 20)
            assert not threading.Event().wait(0.05)
        assert len(restarts) <= before + 1
    world.close()


def test_an_idle_sweeper_rests(world: World) -> None:
    """With nothing to do it takes the write lock a few times in a while only."""
    with Running(world.context("sweeper"), sweeper.run) as running:
        calls = {"handlerName": "cleanupProcessedEvents", "result": "success"}
        wait_until(lambda: running.metric("application_handler_calls_total", **calls) >= 1)
        before = running.metric("application_handler_calls_total", **calls)
        running.ctx.stop.wait(0.5)
        assert running.metric("application_handler_calls_total", **calls) == before


@pytest.mark.usefixtures("eager")
def test_rows_that_a_wrong_clock_put_off_are_called_back(world: World) -> None:
    """Queued, leased or backing off while the clock was ahead; a true lease or backoff, however long, is kept."""
    world.env["EVENTS_TARGET_RELAY"] = "ws://127.0.0.9:9"
    rows = (
        (NOW_MS, 0, NOW_MS),
        (NOW_MS + 200_000, 0, NOW_MS + 200_000),
        (NOW_MS + HOUR // 2, 0, NOW_MS),
        (NOW_MS + HOUR + HOUR // 3, 6, NOW_MS + HOUR + HOUR // 3),
        (NOW_MS + 3 * HOUR, 6, NOW_MS),
    )
    for number, (ready_at, failures, _) in enumerate(rows):
        world.execute(
            "INSERT INTO inbox (event, event_id, relay, received_at, ready_at, failures)"
            " VALUES (?1, randomblob(32), 1, ?1, ?2, ?3)",
            number, ready_at, failures,
        )  # fmt: skip
        for sink in ("pubsub", "relay"):
            world.execute(
                "INSERT INTO outbox (event, sink, ready_at, failures) VALUES (?, ?, ?, ?)",
                number,
                sink,
                ready_at,
                failures,
            )
    sweep(world)
    expected = [ready_at for _, _, ready_at in rows]
    assert [ready_at for (ready_at,) in world.query("SELECT ready_at FROM inbox ORDER BY seq")] == expected
    for sink in ("pubsub", "relay"):
        found = world.query("SELECT ready_at FROM outbox WHERE sink = ? ORDER BY seq", sink)
        assert [ready_at for (ready_at,) in found] == expected


def test_relay_addresses_beyond_the_bounds_are_forgotten(
    world: World, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slice by slice: one author's surplus, and what never answered."""
    monkeypatch.setattr(upkeep, "_RELAYS_PER_SLICE", 70)
    monkeypatch.setattr(relay_pruning, "MAX_UNANSWERED", 100)
    surplus, others = 150, 60
    with world.database.write() as tx:
        for number in range(relay_pruning.MAX_MENTIONED + surplus):
            relay_mentions.record_mention(
                tx, f"wss://r{number}.example", source="hint", author=1, is_user=True, now=NOW_MS
            )
        for author in range(2, 2 + others):
            relay_mentions.record_mention(
                tx, f"wss://a{author}.example", source="hint", author=author, is_user=False, now=NOW_MS + 1
            )
    discarded = "event_service_stage_discarded_total"
    unanswered = relay_pruning.MAX_MENTIONED + others - 100
    with Running(world.context("sweeper"), sweeper.run) as running:
        wait_until(
            lambda: (
                running.metric(discarded, stage="sweeper", reason="surplus-relay-naming") == surplus
                and running.metric(discarded, stage="sweeper", reason="unanswered-relay") == unanswered
            )
        )
    with world.database.read() as tx:
        assert relays.count(tx) == 100
        assert all(relays.find(tx, f"wss://a{author}.example") is not None for author in range(2, 2 + others))


def test_followees_yield_where_too_many_are_wanted(world: World) -> None:
    """By as many as it takes; the user stays one."""
    with world.database.write() as tx:
        authors = Authors()
        user, *followees = (authors.intern(tx, number.to_bytes(32)) for number in range(1_000))
        users.register(tx, bytes(32), NOW_MS)
        contacts.replace(tx, ContactList(user, bytes(32), 1, followees), NOW_MS)
    with Running(world.context("sweeper", {"EVENTS_MAX_WANTED_AUTHORS": "600"}), sweeper.run):
        wait_until(lambda: world.value("SELECT count(*) FROM wanted WHERE refs > 0") < 600)
    waiting = {followee for (followee,) in world.query("SELECT followee FROM contacts WHERE waiting")}
    assert waiting == set(followees[: len(waiting)]), "those who were followed first"
    assert world.value("SELECT waiting FROM monitored WHERE removed_at IS NULL") == len(waiting)


def test_followees_of_one_who_has_left_are_released_and_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next sweeper too, where one dies in the middle of it."""
    with world.database.write() as tx:
        authors = Authors()
        user, *followees = (authors.intern(tx, number.to_bytes(32)) for number in range(2_600))
        users.register(tx, bytes(32), NOW_MS)
        contacts.replace(tx, ContactList(user, bytes(32), 1, followees), NOW_MS)
        users.remove(tx, bytes(32), NOW_MS)
    left = world.value("SELECT count(*) FROM wanted WHERE refs > 0")
    assert left == 2_599 - contact_slices.SIZE
    with monkeypatch.context() as patched:
        patched.setattr(shares, "let_go", dying_after(shares.let_go, 2))
        with Running(world.context("sweeper"), sweeper.run) as running:
            assert isinstance(running.wait_over(), RuntimeError)
    reason = "followee-of-departed-user"
    released = running.metric("event_service_stage_discarded_total", stage="sweeper", reason=reason)
    assert world.value("SELECT count(*) FROM wanted WHERE refs > 0") == left - released == left - shares.EDGES_PER_STEP
    with Running(world.context("sweeper"), sweeper.run) as running:
        wait_until(lambda: not world.value("SELECT count(*) FROM wanted WHERE refs > 0"))
    assert world.value("SELECT count(*) FROM contacts") == 2_599
