"""The bound of what waits for the target relay, by way of the saver."""

import pytest

from pipeline.saver import outbox_limit
from pipeline.saver.outbox_limit import OUTCOME, RECOUNT_MS, RECOUNT_ROWS, OutboxBounds, OutboxLimit
from pipeline.store import outbox
from pipeline.store.lease import QueueSize
from pipeline.store.sinks import SinkName
from stages import saver
from tests.factories.events import Author, SignedEvent
from tests.integration.stages.support import NOW, Running, World, wait_until

ALICE = Author.from_seed(44, 0)
TARGET = "ws://127.0.0.9:9"


def profiles(count: int, *, first: int = 0) -> list[SignedEvent]:
    return [ALICE.sign(f"{number}", kind=0, created_at=NOW + number) for number in range(first, first + count)]


def settings(most: int) -> dict[str, str]:
    return {"EVENTS_TARGET_RELAY": TARGET, "EVENTS_TARGET_RELAY_BACKLOG": f"{most}"}


def given_up(world: World) -> set[str]:
    found = world.query("SELECT event_id FROM deliveries JOIN seen USING (event) WHERE outcome = ?", OUTCOME)
    return {event_id.hex() for (event_id,) in found}


def test_the_oldest_are_given_up_for_what_is_new(world: World) -> None:
    """Counted and told of each; the other sink has them all."""
    events = profiles(130)
    with Running(world.context("saver", settings(50)), saver.run) as running:
        for start in range(0, 130, 10):
            world.put(events[start : start + 10])
            world.wait_saved()
        ignored = {"sink": "relay", "reason": "backlog-full"}
        wait_until(lambda: running.metric("event_service_sink_ignored_total", **ignored) == 80)
        by_form = {"address": TARGET, "decision": "ignore", "result": "success"}
        assert running.metric("events_sent_to_relay_counter_total", **by_form) == 0
    assert world.queued("relay") == sorted(event.id for event in events[80:])
    assert given_up(world) == {event.id for event in events[:80]}
    assert world.queued("pubsub") == sorted(event.id for event in events)


def test_up_to_the_bound_nothing_is_given_up(world: World) -> None:
    with Running(world.context("saver", settings(50)), saver.run):
        world.put(profiles(50))
        world.wait_saved()
    assert len(world.queued("relay")) == 50
    assert given_up(world) == set()


def test_without_a_bound_all_wait(world: World) -> None:
    with Running(world.context("saver", settings(0)), saver.run):
        world.put(profiles(300))
        world.wait_saved()
    assert len(world.queued("relay")) == 300


def test_what_the_sender_holds_is_its_own(world: World) -> None:
    """It may be under way; the next oldest go instead."""
    events = profiles(30)
    with Running(world.context("saver", settings(20)), saver.run):
        world.put(events[:20])
        world.wait_saved()
        with world.database.write() as tx:
            held = outbox.claim(tx, SinkName.RELAY, now=world.clock.now_ms(), lease=60_000, limit=5, holder="sender-0")
        for event in events[20:]:
            world.put([event])
            world.wait_saved()
    kept = {row.event_id.hex() for row in held}
    assert kept <= set(world.queued("relay"))
    assert len(given_up(world)) == 10
    assert given_up(world) <= {event.id for event in events[:20]} - kept
    assert len(world.queued("relay")) == 20


def test_a_further_sink_is_bounded_and_the_first_is_not(world: World) -> None:
    """Counted under its name, also by the next process of the saver."""
    events = profiles(130)
    env = {"EVENTS_SINK": f"stdout,jsonl:{world.directory / 'x.jsonl'}", "EVENTS_SINK_BACKLOG": "50"}
    lost = {"sink": "jsonl", "reason": "backlog-full"}
    with Running(world.context("saver", env), saver.run) as running:
        for start in range(0, 130, 10):
            world.put(events[start : start + 10])
            world.wait_saved()
        wait_until(lambda: running.metric("event_service_sink_ignored_total", **lost) == 80)
        assert running.metric("event_service_sink_ignored_total", sink="relay", reason="backlog-full") == 0
    assert world.queued("jsonl") == sorted(event.id for event in events[80:])
    assert given_up(world) == {event.id for event in events[:80]}
    assert world.queued("stdout") == sorted(event.id for event in events)
    with Running(world.context("saver", env), saver.run) as running:
        wait_until(lambda: running.metric("event_service_sink_ignored_total", **lost) == 80)


class Box:
    """The outbox of the target relay, and a bound that is asked by hand."""

    def __init__(self, world: World, most: int) -> None:
        self.world = world
        self.most = most
        self.most_bytes = 0
        self.backlog = OutboxLimit(SinkName.RELAY, lambda: OutboxBounds(self.most, self.most_bytes))
        self.now = NOW * 1000
        self.number = 0

    def add(self, count: int, size: int = 0) -> int:
        with self.world.database.write() as tx:
            found = self.backlog.make_room(tx, QueueSize(count, count * size), self.now)
            outbox.append(tx, SinkName.RELAY, range(self.number, self.number + count), self.now)
            tx.execute("UPDATE outbox SET bytes = ? WHERE event >= ?", (size, self.number))
        self.number += count
        return found

    def waiting(self) -> int:
        return self.world.value("SELECT count(*) FROM outbox WHERE sink = 'relay'")

    def send(self, count: int) -> None:
        self.world.execute("DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox ORDER BY seq LIMIT ?)", count)


def test_room_that_the_relay_made_is_seen_after_a_while(world: World) -> None:
    """Counting costs, so it is not done for each batch."""
    box = Box(world, 100)
    assert box.add(100) == 0
    assert box.add(10) == 10
    box.send(50)
    assert box.add(10) == 10, "not seen yet"
    box.now += RECOUNT_MS
    assert box.add(10) == 0
    assert box.add(20) == 0
    assert box.waiting() == 80


def test_room_is_looked_for_after_so_many_were_given_up(world: World) -> None:
    box = Box(world, 2 * RECOUNT_ROWS)
    box.add(2 * RECOUNT_ROWS)
    assert box.add(RECOUNT_ROWS) == RECOUNT_ROWS
    box.send(1_500)
    assert box.add(RECOUNT_ROWS) == 0
    assert box.waiting() == 1_500


def test_what_was_rolled_back_is_counted_again(world: World) -> None:
    box = Box(world, 100)
    box.add(90)
    with world.database.write() as tx:
        assert box.backlog.make_room(tx, QueueSize(10, 0), box.now) == 0
    box.backlog.forget()
    assert box.add(10) == 0
    assert box.waiting() == 100


def test_a_bound_that_is_lowered_is_reached_step_by_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction takes long over it."""
    monkeypatch.setattr(outbox_limit, "STEP", 30)
    box = Box(world, 0)
    assert box.add(150) == 0
    box.most = 40
    assert [box.add(1) for _ in range(6)] == [30, 30, 30, 24, 1, 1]
    assert box.waiting() == 40


def test_bytes_of_the_backlog_are_bounded_too(world: World) -> None:
    """Some rows more may go than must, as little is known of their size before."""
    box = Box(world, 0)
    box.most_bytes = 100_000
    assert box.add(100, size=1_000) == 0
    assert 5 <= box.add(5, size=1_000) <= 10
    assert 0 < (gone := box.add(1, size=50_000)) <= 60
    assert box.waiting() <= 106 - 5 - gone
    assert box.world.value("SELECT sum(bytes) FROM outbox") <= 100_000
    assert box.add(1, size=100) == 0


def test_saver_bounds_the_backlog_by_the_bytes_of_payloads(world: World) -> None:
    large = [ALICE.sign("x" * 10_000 + f"{number}", kind=0, created_at=NOW + number) for number in range(40)]
    bound = {"EVENTS_TARGET_RELAY_BACKLOG_BYTES": "200000"}
    with Running(world.context("saver", settings(1_000) | bound), saver.run):
        for first in range(0, 40, 4):
            world.put(large[first : first + 4])
            world.wait_saved()
    assert world.value("SELECT sum(bytes) FROM outbox WHERE sink = 'relay'") <= 200_000
    assert large[-1].id in world.queued("relay")
    assert len(world.queued("pubsub")) == 40
