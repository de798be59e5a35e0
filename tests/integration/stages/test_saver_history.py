"""The saver against a naive model over a long history: it dies between any two statements, users come and go meanwhile.

`TEST_FULL=1 bin/test tests/integration/stages/test_saver_history.py` takes 200,000 events.
"""

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from pipeline.process.clock import Clock, ManualClock
from pipeline.process.stage import StageContext
from pipeline.store import inbox, users
from pipeline.store.database import Database, Row
from pipeline.store.schema import open_database
from stages import saver
from tests.factories.events import SignedEvent
from tests.integration.stages.saver_events import Chance
from tests.integration.stages.saver_model import SaverModel, check
from tests.integration.stages.support import NOW, PATIENCE_S, World, arrival, wait_until
from tests.support.scale import size
from tests.support.seeds import seeds

EVENTS = size(3_000, 200_000)
PEOPLE = 40
BATCH = 400
STATEMENTS_BETWEEN_DEATHS = size(3_000, 8_000)
CHECK_EVERY = size(1_000, 20_000)


class Death(BaseException):
    """What nothing in a process catches, as SIGKILL."""


class Move(NamedTuple):
    """Somebody registered, or ended a registration."""

    user: str
    joins: bool


@dataclass
class Journal:
    """What was committed, in the order of the commits: rows that left the inbox, and who registered or went."""

    commits: list[tuple[int, ...] | Move] = field(default_factory=list)

    def watch(self, connection: apsw.Connection) -> None:
        """Note which rows of the inbox each transaction of `connection` removes."""
        left: list[int] = []

        def note_row(operation: int, _: str, table: str, row: int) -> None:
            if table == "inbox" and operation == apsw.SQLITE_DELETE:
                left.append(row)

        def note_commit() -> bool:
            # Whoever commits holds the write lock, so that the order here is that of the commits.
            if left:
                self.commits.append(tuple(left))
            left.clear()
            return False

        connection.set_update_hook(note_row)
        connection.set_commit_hook(note_commit)
        connection.set_rollback_hook(left.clear)


class MortalSaver:
    """Savers one after another, each until it dies before a statement that chance has chosen."""

    def __init__(self, world: World, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal = Journal()
        self.deaths = 0
        self.error: BaseException | None = None
        self._world = world
        self._rng = rng
        self._ended = threading.Event()
        self._context: StageContext | None = None
        self._thread = threading.Thread(target=self._live, name="savers")
        monkeypatch.setattr(saver, "open_database", self._open)

    def __enter__(self) -> "MortalSaver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._context is not None:
            self._context.stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert self.error is None or isinstance(self.error, Death)

    def _live(self) -> None:
        while not self._ended.is_set():
            self._context = context = self._world.context("saver")
            try:
                saver.run(context)
            except Death:
                self.deaths += 1
            except BaseException as error:
                self.error = error
                return
            finally:
                context.heartbeat.close()

    def _open(self, path: Path, clock: Clock, *_: object) -> Database:
        database = open_database(path, clock)
        connection = database._connection
        left = self._rng.randrange(1, 2 * STATEMENTS_BETWEEN_DEATHS)

        def count(*_: object) -> bool:
            nonlocal left
            left -= 1
            if left == 0:
                raise Death
            return True

        self.journal.watch(connection)
        connection.set_exec_trace(count)
        return database


class Players:
    """Puts events into the inbox, registers users and lets them go, and replays for the model what came of it."""

    def __init__(self, world: World, journal: Journal, chance: Chance) -> None:
        self.model = SaverModel(NOW)
        self.people_moved = 0
        self._world, self._journal, self._chance = world, journal, chance
        self._rows: dict[int, SignedEvent] = {}
        self._last = 0

    def put(self) -> int:
        """Append a batch; returns how many events it had."""
        batch = self._chance.batch(BATCH)
        by_id = {event.id: event for event in batch}
        with self._world.database.write() as tx:
            inbox.append(tx, map(arrival, batch))
            rows: list[Row] = tx.execute("SELECT seq, event_id FROM inbox WHERE seq > ?", (self._last,)).fetchall()
        self._rows |= {seq: by_id[event_id.hex()] for seq, event_id in rows}
        self._last = max(self._rows, default=0)
        return len(batch)

    def move(self) -> None:
        """Somebody registers, or ends a registration."""
        user = self._chance.person().pubkey
        joins = self._chance.rng.random() < 0.6
        with self._world.database.write() as tx:
            step = users.register if joins else users.remove
            step(tx, bytes.fromhex(user), self._world.clock.now_ms())
            # With the write lock held, as savers do it.
            self._journal.commits.append(Move(user, joins))
        self.people_moved += 1

    def wait_fewer(self, rows: int) -> None:
        """Wait until fewer rows are in the inbox; what somebody died with is ready again before long."""

        def few() -> bool:
            left = self._world.inbox_size()
            if left and self._world.value("SELECT coalesce(min(ready_at), 0) FROM inbox") > NOW * 1000:
                self._world.leases_run_out()
            return left < rows

        wait_until(few, f"fewer than {rows} rows in the inbox")

    def check(self) -> None:
        """Once the inbox is empty: replay what was committed, and compare."""
        self.wait_fewer(1)
        for commit in self._journal.commits:
            if not isinstance(commit, Move):
                self.model.save(self._rows.pop(row) for row in commit)
            elif commit.joins:
                self.model.register(commit.user)
            else:
                self.model.registered.discard(commit.user)
        self._journal.commits.clear()
        check(self._world, self.model)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, {"EVENTS_TARGET_RELAY": "ws://127.0.0.9:9"}, ManualClock(NOW * 1000))
    yield made
    made.close()


@pytest.mark.timeout(size(120, 3600))
@pytest.mark.parametrize("seed", seeds(size(2, 3)))
def test_a_long_history_with_deaths(world: World, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Contacts, who is wanted, what was taken back, relays, what is seen and what is queued are the model's."""
    chance = Chance(seed, people=PEOPLE, events=EVENTS, span_s=EVENTS // 4)
    put = 0
    checked = CHECK_EVERY
    with MortalSaver(world, random.Random(seed), monkeypatch) as savers:
        players = Players(world, savers.journal, chance)
        while put < EVENTS:
            put += players.put()
            if chance.rng.random() < 0.3:
                players.move()
            # A few batches ahead of the saver, so that they do meet.
            players.wait_fewer(3 * BATCH)
            if put >= checked:
                checked += CHECK_EVERY
                players.check()
        players.check()
    print(
        f"seed {seed}: {put} events put, {savers.deaths} deaths, {players.people_moved} users moved, "
        f"{len(players.model.seen)} seen, {len(players.model.deleted)} deleted, {len(players.model.vanished)} vanished"
    )
    assert world.value("SELECT count(*) FROM inbox_dead") == 0
    assert savers.deaths > 3
    assert len(players.model.seen) > put // 10
