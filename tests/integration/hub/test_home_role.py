"""Which database is home, on a real PostgreSQL: one at a time, whatever stands still, comes back or is restored."""

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.hub.connection import HubConnection, NotHome
from pipeline.hub.home_role import LEASE_S, HomeRole, own_identity
from pipeline.process.clock import SystemClock
from pipeline.process.heartbeat import MAX_STATUS_BYTES, read_heartbeat
from pipeline.process.logs import get_logger
from pipeline.store.backup import back_up
from pipeline.store.database import Database
from pipeline.store.schema import open_database
from stages import hub as hub_stage
from tests.fakes.postgres import Hub
from tests.integration.hub.hosts import edge_of, home_of, inbox_ids
from tests.integration.hub.test_accidents import notes, send
from tests.integration.stages.support import Running, World, wait_until

# What decides who is home, and what an operator does by command, whichever database is home.
_NOT_FENCED = {"clear_unfit_v1", "drain_v1", "enter_home_v1", "hold_home_v1", "leave_home_v1", "take_home_v1"}


@dataclass
class Candidate:
    """A database that is or would be home, with a connection and a clock of its own."""

    database: Database
    connection: HubConnection
    role: HomeRole
    now: float = 1_000.0

    def turn(self) -> bool:
        return self.role.turn(self.connection, self.database)


class Candidates:
    """Databases in folders, all on one machine."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self._hub = hub
        self._directory = directory
        self._open: list[Candidate] = []

    def at(self, name: str) -> Candidate:
        path = self._directory / name / "events.db"
        path.parent.mkdir(exist_ok=True)
        made = Candidate(
            open_database(path, SystemClock()), HubConnection.open(self._hub.home),
            HomeRole(lambda: made.now, get_logger("test")),
        )  # fmt: skip
        self._open.append(made)
        return made

    def copy(self, candidate: Candidate, name: str) -> Candidate:
        """A backup of its database, put into another folder."""
        (self._directory / name).mkdir()
        back_up(candidate.database, self._directory / name / "events.db", lambda _: None)
        return self.at(name)

    def close(self) -> None:
        for each in self._open:
            each.connection.close()
            each.database.close()


@pytest.fixture
def candidates(hub: Hub, tmp_path: Path) -> Iterator[Candidates]:
    made = Candidates(hub, tmp_path)
    yield made
    made.close()


def lapse(hub: Hub) -> None:
    hub.rows("UPDATE hub.roles SET until = 0 RETURNING 1")


def test_role_is_held_for_less_than_the_lease_from_before_the_request(candidates: Candidates) -> None:
    home = candidates.at("a")
    home.role.boot_time = iter([1_000.0, 1_020.9]).__next__
    assert home.turn(), "asked at 1000, answered just before the end"
    home.role.boot_time = lambda: 1_000 + 0.7 * LEASE_S
    assert not home.role.is_held


def test_other_database_waits_even_after_the_lease_and_names_home(hub: Hub, candidates: Candidates) -> None:
    home = candidates.at("a")
    assert home.turn()
    other = candidates.at("b")
    assert not other.turn()
    lapse(hub)
    other.now += 10
    assert not other.turn()
    assert re.search(r"another database is home, at .*/a/events\.db", other.role.problem)
    assert len(other.role.problem.encode()) <= MAX_STATUS_BYTES
    home.now += 10
    assert home.turn(), "the one that was away is home again"


def test_restarted_home_goes_on_and_its_copy_in_place_after_the_lease(
    hub: Hub, candidates: Candidates, tmp_path: Path
) -> None:
    assert candidates.at("a").turn()
    again = candidates.at("a")
    assert again.turn(), "the same database, though the lease of the process before lasts"
    candidates.copy(again, "copy")
    shutil.copy(tmp_path / "copy" / "events.db", tmp_path / "copied.db")
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").mkdir()
    shutil.copy(tmp_path / "copied.db", tmp_path / "a" / "events.db")
    restored = candidates.at("a")
    assert not restored.turn()
    assert "end of the lease" in restored.role.problem
    lapse(hub)
    restored.now += 10
    assert restored.turn()
    assert not restored.role.problem


def test_home_that_stood_still_changes_nothing_after_a_takeover(hub: Hub, candidates: Candidates) -> None:
    zombie = candidates.at("a")
    assert zombie.turn()
    other = candidates.copy(zombie, "b")
    own = own_identity(other.database)
    assert own.id != own_identity(zombie.database).id
    ((held, _, left_ms),) = other.connection.call("take_home_v1", own.id, "b")
    assert held is None, "its lease lasts"
    assert left_ms > 0
    lapse(hub)
    ((held, _, _),) = other.connection.call("take_home_v1", own.id, "b")
    assert held is not None
    assert other.turn()
    nothing: list[object] = []
    for function, arguments in {
        "taken_v1": (nothing, nothing),
        "prune_log_v1": (1, 1, 1, 1),
        "backed_up_v1": (nothing, nothing, 0, 0),
        "put_user_act_v1": ("add", bytes(32), 0, None, 0),
        "put_authors_v1": (0, *[nothing] * 5),
        "put_lists_v1": (*[nothing] * 3, 0),
        "publish_plan_v1": (1,),
        "wish_relays_v1": [nothing] * 3,
        "wish_shares_v1": [nothing] * 2,
    }.items():
        with pytest.raises(NotHome, match="another connection is home"):
            zombie.connection.call(function, *arguments)
        other.connection.call(function, *arguments)
    zombie.now += 10
    assert not zombie.turn()
    other.now += 10
    assert other.turn()


def test_each_function_of_home_that_changes_anything_is_fenced(hub: Hub) -> None:
    rows = hub.rows(
        "SELECT p.proname, p.prosrc FROM pg_proc p WHERE p.pronamespace = 'hub'::regnamespace AND p.provolatile = 'v'"
        " AND has_function_privilege(%s::name, p.oid, 'EXECUTE')",
        f"{hub.name}_at_home",
    )
    assert len(rows) > 10
    assert {str(name) for name, body in rows if "require_home()" not in str(body)} == _NOT_FENCED


def test_change_that_is_under_way_ends_before_another_is_home(hub: Hub, candidates: Candidates) -> None:
    """Else it would be seen after what the other did first."""
    home, other = candidates.at("a"), candidates.at("b")
    assert home.turn()
    lapse(hub)
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
    with psycopg.connect(hub.home) as changing, ThreadPoolExecutor(1) as pool:
        changing.execute("SELECT set_config('hub.home_epoch', %s, false)", (str(own_identity(home.database).epoch),))
        changing.execute("SELECT hub.publish_plan_v1(7)")
        taken = pool.submit(other.connection.call, "take_home_v1", own_identity(other.database).id, "b")
        wait_until(lambda: hub.rows(waits) == [(1,)], "waiting")
        changing.commit()
        assert taken.result()[0][0] is not None
    assert hub.rows("SELECT generation FROM hub.plan") == [(7,)]


def test_second_home_takes_nothing_until_it_takes_over(hub: Hub, tmp_path: Path) -> None:
    edge, home = edge_of(hub, tmp_path), home_of(hub, tmp_path)
    send(edge, notes(0, 10))
    (tmp_path / "other").mkdir()
    with Running(home.context("hub"), hub_stage.run):
        wait_until(lambda: home.inbox_size() == 10, "taken")
        back_up(home.database, tmp_path / "other" / "events.db", lambda _: None)
        other = World(tmp_path / "other", {"EVENTS_HUB": hub.home, "EVENTS_ROLE": "home"})
        refused = _take_over(other)
        assert "is home and running: stop it" in refused.output
        assert refused.exit_code == 1
        with Running(other.context("hub"), hub_stage.run) as running:
            wait_until(lambda: "another database is home" in status(running), "told")
            send(edge, notes(10, 20))
            wait_until(lambda: home.inbox_size() == 20, "taken")
            assert other.inbox_size() == 10
    # It ended in order, so that its lease is over.
    assert _take_over(other).exit_code == 0
    with Running(other.context("hub"), hub_stage.run), Running(home.context("hub"), hub_stage.run) as zombie:
        send(edge, notes(20, 30))
        wait_until(lambda: other.inbox_size() == 30, "taken")
        wait_until(lambda: "another database is home" in status(zombie), "told")
    assert len(set(inbox_ids(other))) == 30
    assert home.inbox_size() == 20
    for each in (edge, home, other):
        each.close()


def status(running: Running) -> str:
    found = read_heartbeat(running.ctx.config.runtime_directory, running.ctx.slot.name, SystemClock())
    return "" if found is None else found.status


def _take_over(world: World) -> Result:
    return CliRunner().invoke(main, ["hub", "take-over"], env=world.env)
