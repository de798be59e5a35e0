"""How long the hub keeps what home has taken, on a real PostgreSQL: until a backup has it, within bounds."""

from pathlib import Path

import pytest

from pipeline.hub.connection import HubConnection
from pipeline.store.backup import back_up
from stages import hub as hub_stage
from tests.fakes.postgres import Hub
from tests.integration.hub.hosts import Edge, edge_of, home_of
from tests.integration.hub.test_accidents import notes, send
from tests.integration.stages.support import Running, wait_until

DAY_MS = 86_400_000
GIB = 1 << 30


def sent(hub: Hub, directory: Path, count: int) -> Edge:
    """A host that has handed over so many parcels of one event."""
    edge = edge_of(hub, directory)
    for number in range(count):
        send(edge, notes(number, number + 1))
    # The newest hundred are kept in any case.
    hub.rows("UPDATE hub.streams SET is_open = false, taken = last RETURNING 1")
    return edge


def age(hub: Hub, ms: int) -> None:
    hub.rows("UPDATE hub.parcels SET at = hub.now_ms() - %s RETURNING 1", ms)


def prune(hub: Hub, keep_bytes: int = 4 * GIB) -> tuple[int, int]:
    with HubConnection.open(hub.home) as home:
        ((dropped, unbacked),) = home.call("prune_log_v1", 2 * DAY_MS, 14 * DAY_MS, keep_bytes, 1_000)
    return dropped, unbacked


def test_parcels_stay_until_a_backup_has_them_and_two_days_longer(hub: Hub, tmp_path: Path) -> None:
    edge = sent(hub, tmp_path, 4)
    age(hub, 3 * DAY_MS)
    assert prune(hub) == (0, 0)
    ((stream,),) = hub.rows("SELECT stream FROM hub.streams")
    with HubConnection.open(hub.home) as home:
        home.call("backed_up_v1", [stream], [3], 0, 0)
        # An older copy that was restored has less.
        home.call("backed_up_v1", [stream], [1], 0, 0)
    age(hub, DAY_MS)
    assert prune(hub) == (0, 0)
    age(hub, 3 * DAY_MS)
    assert prune(hub) == (3, 0)
    edge.close()


@pytest.mark.parametrize("bound", ["days", "bytes"])
def test_bounds_hold_without_a_backup_and_are_counted(hub: Hub, tmp_path: Path, bound: str) -> None:
    edge = sent(hub, tmp_path, 4)
    if bound == "days":
        age(hub, 15 * DAY_MS)
        assert prune(hub) == (4, 4)
    else:
        dropped, unbacked = prune(hub, keep_bytes=1)
        assert dropped == unbacked > 0
    edge.close()


def test_parcels_that_home_has_not_taken_are_never_dropped(hub: Hub, tmp_path: Path) -> None:
    edge = sent(hub, tmp_path, 2)
    hub.rows("UPDATE hub.streams SET taken = 0, backed_up = 2 RETURNING 1")
    age(hub, 99 * DAY_MS)
    assert prune(hub, keep_bytes=1) == (0, 0)
    edge.close()


def test_acts_of_users_stay_as_long(hub: Hub, tmp_path: Path) -> None:
    with HubConnection.open(hub.home) as home:
        for number in range(3):
            home.call("put_user_act_v1", "add", bytes([number]) * 32, 1, None, 0)
        prune(hub)
        assert hub.rows("SELECT count(*) FROM hub.user_acts") == [(3,)]
        home.call("backed_up_v1", [], [], 2, 0)
        prune(hub)
        assert hub.rows("SELECT number FROM hub.user_acts") == [(3,)]
        assert home.call("dropped_user_acts_v1") == [(2,)]


def test_stage_reports_what_the_newest_backup_has(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.hub.log_keeping._PRUNE_EVERY_S", 0.0)
    edge, home = edge_of(hub, tmp_path), home_of(hub, tmp_path)
    send(edge, notes(0, 10))
    with Running(home.context("hub"), hub_stage.run) as running:
        wait_until(lambda: home.inbox_size() == 10, "taken")
        assert hub.rows("SELECT backed_up FROM hub.streams") == [(0,)]
        back_up(home.database, tmp_path / "copy.db", lambda _: None)
        wait_until(lambda: hub.rows("SELECT backed_up = last FROM hub.streams") == [(True,)], "reported")
        assert hub.rows("SELECT hub.now_ms() - at < 600000 FROM hub.home_backup") == [(True,)]
        hub.rows("UPDATE hub.streams SET backed_up = 0, is_open = false RETURNING 1")
        age(hub, 15 * DAY_MS)
        errors = "event_service_stage_errors_total"
        wait_until(lambda: running.metric(errors, stage="hub", kind="unbacked-parcels") >= 1, "counted")
    edge.close()
    home.close()
