"""What the login of a crawling host may do, and what home believes of it: everything else is tried."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pipeline.hub.connection import HubConnection, HubRefused, HubUnavailable
from pipeline.hub.parcel import ParcelNotes, SentCursor, SentEvent, encode_events
from stages import hub as hub_stage
from tests.factories.events import authors
from tests.fakes.postgres import Hub
from tests.integration.hub.hosts import RECEIVED_AT, RELAY, home_of, inbox_ids
from tests.integration.stages.support import NOW, Running, wait_until

(ALICE,) = authors(74, 1)
STREAM, OTHER_STREAM = "a" * 32, "b" * 32
NOTHING: tuple[list[str], ...] = ([], [], [], [], [], [])
EDGE_MAY_CALL = {
    "authors_v1", "changed_relays_v1", "confirm_v1", "cursors_v1", "hand_over_v1", "known_v1", "leave_v1", "limits_v1",
    "lists_v1",
    "open_stream_v1", "plan_v1", "relays_v1", "release_shares_v1", "renew_shares_v1", "report_unfit_v1", "report_v1",
    "backfills_v1", "report_state_v1", "my_backfills_v1", "unwanted_v1",
}  # fmt: skip
HOME_MAY_CALL = {
    "authors_v1", "backed_up_v1", "confirm_v1", "cursors_v1", "drain_v1", "dropped_user_acts_v1", "enter_home_v1",
    "hold_home_v1", "home_lists_v1", "home_v1", "hosts_v1", "leave_home_v1", "limits_v1", "ordered_relays_v1",
    "parcels_v1", "plan_v1", "prune_log_v1", "publish_plan_v1", "put_authors_v1", "put_lists_v1", "put_user_act_v1",
    "shares_v1", "streams_v1", "take_home_v1", "taken_v1", "tell_known_v1", "unfit_v1", "user_acts_v1",
    "wish_relays_v1", "wish_shares_v1",
    "keep_backfills_v1", "put_backfill_v1", "backfills_v1", "clear_unfit_v1", "states_v1", "put_unwanted_v1",
}  # fmt: skip


def hand_over(
    edge: HubConnection, number: int, before: bytes = b"", body: bytes = b"x", notes: bytes = b"", stream: str = STREAM
) -> tuple[object, bytes]:
    """The answer, and the digest."""
    ((answer, _, digest, *_),) = edge.call("hand_over_v1", stream, number, before, body, notes, *NOTHING)
    return answer, digest


@pytest.fixture
def url(hub: Hub) -> str:
    hub.add_host("ams1")
    return hub.add_host("fra1")


@pytest.fixture
def raw(url: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def _may_execute(hub: Hub, role: str) -> set[str]:
    rows = hub.rows(
        "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'hub'::regnamespace"
        " AND has_function_privilege(%s::name, p.oid, 'EXECUTE')",
        role,
    )
    return {str(name) for (name,) in rows}


def test_logins_may_call_the_functions_of_their_role_only(hub: Hub, url: str) -> None:
    assert _may_execute(hub, f"{hub.name}_at_host_fra1") == EDGE_MAY_CALL
    assert _may_execute(hub, f"{hub.name}_at_home") == HOME_MAY_CALL
    ((others,),) = hub.rows(
        "SELECT count(*) FROM pg_namespace WHERE nspname = 'hub' AND has_schema_privilege('public', oid, 'USAGE')"
    )
    assert others == 0


@pytest.mark.parametrize("verb", ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"])
def test_host_has_no_right_to_any_table(hub: Hub, url: str, verb: str) -> None:
    tables = [str(name) for (name,) in hub.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'hub'")]
    assert len(tables) >= 7
    for role in (f"{hub.name}_at_host_fra1", f"{hub.name}_at_home"):
        for table in tables:
            ((may,),) = hub.rows("SELECT has_table_privilege(%s::name, %s, %s)", role, f"hub.{table}", verb)
            assert not may, (role, table)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM hub.parcels",
        "INSERT INTO hub.hosts VALUES ('x', 'x', 0)",
        "UPDATE hub.streams SET last = 0",
        "SELECT hub.hosts_v1()",
        "SELECT hub.taken_v1('{}', '{}')",
        "SELECT hub.prune_log_v1(0, 0, 0, 1000)",
        "SELECT hub.user_acts_v1(0, 1000)",
        "SELECT event FROM hub.user_acts",
        "SELECT hub.take_home_v1('mine', 'here')",
        "SELECT hub.drain_v1('ams1', true)",
        "SELECT hub.permit('hosts_v1', 'edge')",
        "CREATE TABLE hub.mine (x int)",
        "CREATE FUNCTION hub.caller(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "CREATE TEMPORARY TABLE mine (x int)",
        "CREATE TABLE public.mine (x int)",
        "CREATE DATABASE mine",
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('.')",
        "SELECT hub.lock_shares()",
        "SELECT hub.lock_home()",
        "SELECT * FROM hub.locks FOR UPDATE",
        "DO $$ BEGIN LOCK TABLE hub.locks; END $$",
        "COPY hub.parcels TO STDOUT",
        "COPY hub.parcels FROM STDIN",
        "COPY (SELECT 1) TO '/tmp/mine'",
        "ALTER ROLE CURRENT_USER CONNECTION LIMIT 100",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'owner'",
        "SET log_statement = 'all'",
        "ALTER SYSTEM SET fsync = off",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SET SESSION AUTHORIZATION owner",
        "SET ROLE owner",
    ],
)
def test_host_can_do_nothing_else(raw: "psycopg.Connection[tuple[object, ...]]", statement: str) -> None:
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue)):
        raw.execute(statement.encode())


def test_host_cannot_hold_up_others(hub: Hub, raw: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Every login may take advisory locks: no function waits for one."""
    raw.execute("SELECT pg_advisory_lock(number) FROM generate_series(0, 100) AS n (number)")
    with HubConnection.open(hub.add_host("ams1")) as other:
        assert other.call("renew_shares_v1", 30_000, -1, 1, 0, True)
        other.call("leave_v1")


def test_host_cannot_take_all_connections(hub: Hub, url: str) -> None:
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(HubConnection.open(url))
        with pytest.raises((HubRefused, HubUnavailable), match="too many connections for role"):
            HubConnection.open(url)


def test_host_that_shadows_names_changes_nothing(hub: Hub, raw: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Functions run with their owner's rights, and so must find no table or function of the caller's."""
    # Where the owner lets everybody make temporary tables again.
    with psycopg.connect(hub.owner) as owner:
        owner.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO PUBLIC").format(sql.Identifier(hub.name)))
    raw.execute("CREATE TEMPORARY TABLE hosts (host text, login name, is_draining boolean)")
    raw.execute("INSERT INTO hosts VALUES ('ams1', current_user, false)")
    raw.execute("SET search_path = pg_temp, hub, public")
    row = raw.execute("SELECT host FROM hub.report_v1('x', 0, 0, 0)").fetchone()
    assert row == ("fra1",)


def test_host_cannot_use_the_stream_of_another(hub: Hub, url: str) -> None:
    with HubConnection.open(url) as mine, HubConnection.open(hub.add_host("ams1")) as other:
        other.call("open_stream_v1", OTHER_STREAM, "")
        with pytest.raises(HubRefused, match="another host"):
            mine.call("open_stream_v1", OTHER_STREAM, "")
        with pytest.raises(HubRefused, match="not open"):
            hand_over(mine, 1, stream=OTHER_STREAM)
        mine.call("open_stream_v1", STREAM, OTHER_STREAM)
        assert other.call("open_stream_v1", OTHER_STREAM, "")[0][3], "it stays open"


def test_host_cannot_fill_the_hub_with_streams(url: str) -> None:
    with HubConnection.open(url) as mine:
        for number in range(100):
            name = f"{number:032x}"
            mine.call("open_stream_v1", name, "")
            hand_over(mine, 1, stream=name)
        with pytest.raises(HubRefused, match="100 streams"):
            mine.call("open_stream_v1", STREAM, "")


def test_parcel_larger_than_home_reads_is_refused(url: str) -> None:
    with HubConnection.open(url) as mine:
        mine.call("open_stream_v1", STREAM, "")
        with pytest.raises(HubRefused, match="larger than any"):
            hand_over(mine, 1, body=bytes((16 << 20) + 1))
        many = ["x"] * 100_001
        with pytest.raises(HubRefused, match="larger than any"):
            mine.call("hand_over_v1", STREAM, 1, b"", b"x", b"", [], [], [], [], many, many)
        assert hand_over(mine, 1)[0] == "taken"


def test_cursor_beyond_now_is_clamped(hub: Hub, url: str) -> None:
    with HubConnection.open(url) as mine:
        mine.call("open_stream_v1", STREAM, "")
        mine.call("hand_over_v1", STREAM, 1, b"", b"x", b"", [RELAY], ["q"], [2**60], [1], [], [])
        ((until, now),) = hub.rows("SELECT complete_until, hub.now_ms() / 1000 FROM hub.cursors")
    assert isinstance(until, int)
    assert isinstance(now, int)
    assert until <= now + 900


def test_wrong_password_is_named(url: str) -> None:
    with pytest.raises((HubRefused, HubUnavailable), match="password authentication failed"):
        HubConnection.open(url.replace(":", ":x", 2).replace(":x//", "://"))


def test_hub_without_a_function_that_is_needed_is_refused(hub: Hub, url: str) -> None:
    with HubConnection.open(url) as mine:
        mine.require(["hand_over_v1"])
        with pytest.raises(HubRefused, match=r"lacks hand_over_v2.*update the home host first"):
            mine.require(["hand_over_v1", "hand_over_v2"])


def test_home_takes_no_forged_event_and_goes_on(hub: Hub, url: str, tmp_path: Path) -> None:
    good, other = (ALICE.sign(text, kind=1, created_at=NOW) for text in ("good", "other"))
    late = ALICE.sign("late", kind=1, created_at=2**40)
    raws = {
        "invalid-signature": good.raw.replace(good.sig, other.sig),
        "invalid-hash": good.raw.replace("good", "evil"),
        "invalid-json": "{",
        "invalid-shape": "[]",
        "invalid-content": good.raw.replace('"good"', "7"),
        "future": late.raw,
    }
    cursors = (SentCursor(RELAY, "authors/0", 2**60, 1), SentCursor(RELAY, "authors/1", NOW, 1))
    parcels = [
        (
            encode_events([SentEvent(raw.encode(), RELAY, RECEIVED_AT) for raw in [*raws.values(), good.raw]]),
            ParcelNotes(cursors).encode(),
        ),
        (b"no parcel", b""),
        (encode_events([SentEvent(other.raw.encode(), RELAY, 2**50)]), b"no notes"),
    ]
    home = home_of(hub, tmp_path)
    with HubConnection.open(url) as mine:
        mine.call("open_stream_v1", STREAM, "")
        digest = b""
        for number, (body, notes) in enumerate(parcels, 1):
            _, digest = hand_over(mine, number, digest, body, notes)
    with Running(home.context("hub"), hub_stage.run) as running:

        def errors(kind: str) -> float:
            return running.metric("event_service_stage_errors_total", stage="hub", kind=kind)

        wait_until(lambda: home.inbox_size() == 2 and errors("unread-notes") == 1, "taken")
        for reason in raws:
            assert running.metric("event_service_stage_discarded_total", stage="hub", reason=reason) == 1, reason
        for kind in ("unread-parcel", "unread-notes"):
            assert errors(kind) == 1, kind
    assert inbox_ids(home) == [good.id, other.id]
    assert home.query("SELECT query FROM cursors") == [("authors/1",)]
    assert home.value("SELECT max(received_at) FROM inbox") < 2**50
    home.close()


def test_driver_is_not_imported_without_a_hub() -> None:
    script = (
        "import importlib, os, sys\n"
        "from pipeline import cli\n"
        "from pipeline.settings.config import Config\n"
        "config = Config.from_env({'EVENTS_DATABASE_PATH': '/tmp/x.db', 'EVENTS_SINK': 'none'})\n"
        "cli._import_stages(config)\n"
        "print([name for name in sys.modules if name.startswith(('psycopg', 'pipeline.hub', 'stages.hub'))])\n"
        "print([spec.name for spec in cli._specs(config)])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", str(["crawler", "saver", "forwarder", "sender", "server", "sweeper"])]


def test_names_are_quoted_where_they_become_statements(hub: Hub) -> None:
    with HubConnection.open(hub.home) as home, pytest.raises(HubRefused, match="does not exist"):
        home.call('hosts_v1"(); DROP SCHEMA hub CASCADE; --')
    with psycopg.connect(hub.owner) as owner:
        found = owner.execute(sql.SQL("SELECT count(*) FROM hub.hosts")).fetchone()
    assert found == (0,)
