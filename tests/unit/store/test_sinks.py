"""Which outbox is whose, through every change of `EVENTS_SINK`; and what the version before leaves in the middle."""

import random
from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from pipeline.process.logs import get_logger
from pipeline.store import dead, outbox, replay_queue, replays, sinks
from pipeline.store.database import Database
from pipeline.store.dead import DeadQueue
from pipeline.store.lease import DeadLetter
from pipeline.store.migrations import MIGRATIONS
from pipeline.store.outbox import Settled
from pipeline.store.replays import ReplayScope
from pipeline.store.schema import migrate
from pipeline.store.sinks import EnrolledSinks, SinkName, SinksChanged
from tests.support.seeds import seeds

LOG = get_logger("test")
CLOCK = ManualClock(now_ms=1_000)
PUBSUB, RELAY = SinkName.PUBSUB, SinkName.RELAY


def enroll(db: Database, *names: str) -> tuple[str, ...]:
    return sinks.enroll(db, names, CLOCK, LOG).outboxes


def known(db: Database) -> tuple[str, ...]:
    with db.read() as tx:
        return sinks.known(tx)


@pytest.mark.parametrize("name", ["pubsub", "jsonl", "nats"])
def test_a_sink_that_was_always_alone_goes_by_pubsub(db: Database, name: str) -> None:
    assert enroll(db, name) == ("pubsub",)
    assert known(db) == ("pubsub", "relay")


def test_a_sink_in_place_of_the_only_one_takes_over_its_outbox(db: Database) -> None:
    for name in ("jsonl", "pubsub", "nats"):
        assert enroll(db, name) == ("pubsub",)


@pytest.mark.parametrize("names", [("jsonl", "nats"), ("nats", "jsonl")])
def test_the_outbox_of_one_alone_gets_its_name_when_another_joins(db: Database, names: tuple[str, ...]) -> None:
    enroll(db, "jsonl")
    assert enroll(db, *names) == names
    assert set(known(db)) == {"jsonl", "nats", "relay"}


def test_pubsub_keeps_its_name_wherever_it_stands(db: Database) -> None:
    enroll(db, "pubsub")
    for names in (("pubsub", "jsonl"), ("jsonl", "pubsub"), ("pubsub",), ("nats", "pubsub", "jsonl")):
        assert enroll(db, *names) == names
    assert known(db) == ("pubsub", "relay", "jsonl", "nats"), "in the order in which they came"


def test_a_sink_that_was_one_of_several_keeps_its_outbox_alone(db: Database) -> None:
    """What it is still owed must reach it, and what another was owed must not."""
    enroll(db, "pubsub", "nats")
    assert enroll(db, "nats") == ("nats",)
    assert enroll(db, "jsonl") == ("jsonl",)
    assert known(db) == ("pubsub", "relay", "nats", "jsonl")


def test_none_changes_nothing(db: Database) -> None:
    enroll(db, "pubsub", "nats")
    assert enroll(db) == ()
    assert known(db) == ("pubsub", "relay", "nats")


def test_reading_finds_what_enrolling_would_note_and_notes_nothing(db: Database) -> None:
    enroll(db, "jsonl")
    with db.read() as tx:
        assert sinks.outboxes(tx, ("pubsub", "jsonl")) == ("pubsub", "jsonl")
    assert known(db) == ("pubsub", "relay")


@pytest.mark.parametrize("seed", seeds(20))
def test_however_the_setting_changes_rows_stay_with_their_sink(db: Database, seed: int) -> None:
    """But for one alone that is replaced, whose backlog the other takes over."""
    rng = random.Random(seed)
    everyone = ["pubsub", "jsonl", "stdout", "nats"]
    # By event, the sink that it is owed to.
    owed: dict[int, str] = {}
    for turn in range(12):
        names = rng.sample(everyone, rng.randint(0, 3))
        found = dict(zip(names, enroll(db, *names), strict=True))
        assert len(set(found.values())) == len(names)
        if len(names) == 1 and known(db) == ("pubsub", "relay"):
            owed = dict.fromkeys(owed, names[0])
        with db.write() as tx:
            for number, (name, box) in enumerate(found.items(), 1):
                event = turn * 10 + number
                owed[event] = name
                outbox.append(tx, SinkName(box), [event], turn)
        with db.read() as tx:
            for name, box in found.items():
                rows = {event for (event,) in tx.execute("SELECT event FROM outbox WHERE sink = ?", (box,))}
                assert rows == {event for event, sink in owed.items() if sink == name}, (turn, name, names)


def test_work_of_the_version_before_goes_on_when_a_sink_joins(tmp_path: Path, clock: ManualClock) -> None:
    """Claimed rows, a row that failed and a dead letter: of a file, which was called `pubsub` then."""
    now = clock.now_ms()
    before = [migration.name for migration in MIGRATIONS].index("0035-sinks")
    with Database.open(tmp_path / "old.db") as db:
        migrate(db, clock, MIGRATIONS[:before])
        with db.write() as tx:
            for event in range(1, 7):
                tx.execute("INSERT INTO events (event, event_id, relay, received_at, sinks) VALUES (?, ?, 1, 7, 1)",
                           (event, bytes([event]) * 32))  # fmt: skip
                tx.execute("INSERT INTO payloads VALUES (?, ?)", (event, b"{}"))
            outbox.append(tx, PUBSUB, range(1, 6), now)
            claimed = outbox.claim(tx, PUBSUB, now=now, lease=60_000, limit=3, holder="forwarder-0")
            outbox.queue.dead_letter(tx, [DeadLetter(claimed[2].receipt, "no")], now)
        migrate(db, clock)
        # The first named is taken for the one that the version before had.
        assert enroll(db, "jsonl", "pubsub") == ("jsonl", "pubsub")
        with db.write() as tx:
            assert outbox.waiting(tx, PUBSUB) == 0
            assert outbox.waiting(tx, SinkName("jsonl")) == 4
            # A process that was under way settles by its receipts.
            assert outbox.settle(tx, [Settled(row, "delivered") for row in claimed[:1]], now) == 1
            assert outbox.queue.release_all(tx, "forwarder-0", now) == 1
            rest = outbox.claim(tx, SinkName("jsonl"), now=now, lease=1, limit=9)
            assert [row.event for row in rest] == [2, 4, 5]
            (letter,) = dead.find_newest(tx, DeadQueue("jsonl"), 9)
            assert dead.retry(tx, letter.queue, [letter.seq], now) == 1
            (again,) = outbox.claim(tx, SinkName("jsonl"), now=now, lease=1, limit=9)
            assert again.event == 3


def test_process_for_all_sinks_sees_that_an_outbox_was_renamed_or_added(db: Database) -> None:
    alone = sinks.enroll(db, ["jsonl"], CLOCK, LOG)
    assert sinks.enroll(db, ["nats"], CLOCK, LOG) == EnrolledSinks(("nats",), (PUBSUB,), (PUBSUB, RELAY))
    with db.read() as tx:
        alone.check(tx)
    enroll(db, "nats", "jsonl")
    with db.read() as tx, pytest.raises(SinksChanged):
        alone.check(tx)
    both = sinks.enroll(db, ["nats", "jsonl"], CLOCK, LOG)
    enroll(db, "nats", "stdout")
    with db.read() as tx, pytest.raises(SinksChanged):
        both.check(tx)


def test_process_of_one_sink_sees_that_its_outbox_is_that_of_another(db: Database) -> None:
    """Renamed, with the old name given to another sink; or taken over. What joins it is no matter."""
    pubsub = sinks.enroll(db, ["pubsub"], CLOCK, LOG)
    enroll(db, "pubsub", "nats")
    with db.read() as tx:
        pubsub.check_one(tx, 0)


@pytest.mark.parametrize("names", [("jsonl", "pubsub"), ("pubsub", "jsonl"), ("nats",)])
def test_outbox_of_one_alone_is_no_longer_its_own(db: Database, names: tuple[str, ...]) -> None:
    alone = sinks.enroll(db, ["jsonl"], CLOCK, LOG)
    enroll(db, *names)
    with db.read() as tx, pytest.raises(SinksChanged):
        alone.check_one(tx, 0)


def test_row_renamed_while_it_is_claimed_is_settled_under_its_new_name(db: Database) -> None:
    enroll(db, "jsonl")
    with db.write() as tx:
        outbox.append(tx, PUBSUB, [1], 5)
        rows = outbox.claim(tx, PUBSUB, now=5, lease=100, limit=9)
    enroll(db, "pubsub", "jsonl")
    with db.write() as tx:
        assert outbox.settle(tx, [Settled(row, "delivered") for row in rows], 6) == 1
        assert tx.execute("SELECT sink, outcome FROM deliveries").fetchall() == [("jsonl", "delivered")]


def test_replay_that_goes_on_after_a_rename_queues_under_the_new_name(db: Database) -> None:
    enroll(db, "jsonl")
    with db.write() as tx:
        before = replays.add(tx, ReplayScope(PUBSUB, 0, 10), 2, 5)
        replay_queue.append(tx, before.job, [1], 5)
    enroll(db, "pubsub", "jsonl")
    with db.write() as tx:
        replay_queue.append(tx, before.job, [2], 5)
        assert tx.execute("SELECT event, sink FROM replay_queue").fetchall() == [(1, "jsonl"), (2, "jsonl")]


def test_rows_that_a_wrong_clock_put_off_are_found_for_every_sink(db: Database) -> None:
    enroll(db, "pubsub", "nats")
    far = 10**15
    with db.write() as tx:
        outbox.append(tx, SinkName("nats"), [1], far)
        assert outbox.has_future_rows(tx, 1)
        assert outbox.reset_future_rows(tx, 1) == 1
        assert not outbox.has_future_rows(tx, 1)
