"""`event-service hub` as an operator types it."""

import json
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from pipeline import __version__
from pipeline.cli import main
from pipeline.hub.connection import HubConnection
from tests.fakes.postgres import Hub, PostgresServer


def run(*arguments: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    unset: dict[str, str | None] = {"EVENTS_HUB": None, "EVENTS_HUB_OWNER": None}
    done = CliRunner().invoke(main, ["hub", *arguments], env={**unset, **(env or {})})
    assert done.exit_code == code, done.output
    return done.output


def settings_in(output: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in output.splitlines())


def test_hub_is_set_up_by_two_commands(postgres: PostgresServer) -> None:
    with postgres.database() as name:
        owner = postgres.url(name)
        home = settings_in(run("init", "--owner", owner))
        assert home["EVENTS_ROLE"] == "home"
        edge = settings_in(run("add-host", "fra1", env={"EVENTS_HUB_OWNER": owner}))
        assert (edge["EVENTS_ROLE"], edge["EVENTS_HOST"]) == ("crawler", "fra1")
        assert run("migrate", "--owner", owner) == "applied: nothing new\n"
        assert run("hosts", env=home) == (
            "fra1 - never called, clock +0.0 s, 0 events and 0 parcels pending there, 0 parcels pending for home\n"
        )
        with HubConnection.open(edge["EVENTS_HUB"]) as connection:
            ((host, drains),) = connection.call("report_v1", __version__, 0, 5, 2)
            assert (host, drains) == ("fra1", False)
        (line,) = run("hosts", "--json", env=home).splitlines()
        shown = json.loads(line)
        assert (shown["host"], shown["version"], shown["is_draining"]) == ("fra1", __version__, False)
        assert (shown["waiting_events"], shown["waiting_parcels"], shown["untaken_parcels"]) == (5, 2, 0)
        assert shown["clock_skew_ms"] < -(10**9)
        assert run("drain", "fra1", env=home) == "fra1 drains\n"
        assert ", draining," in run("hosts", env=home)
        assert run("drain", "fra1", "--stop", env=home) == "fra1 crawls again\n"
        assert "there is no host ams1" in run("drain", "ams1", env=home, code=1)


def test_new_password_replaces_the_old_one(hub: Hub) -> None:
    first = hub.add_host("fra1")
    second = settings_in(run("add-host", "fra1", "--owner", hub.owner))["EVENTS_HUB"]
    assert urlsplit(first).username == urlsplit(second).username
    assert urlsplit(first).password != urlsplit(second).password
    HubConnection.open(second).close()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["init"], 2, "--owner is required"),
        (["init", "--owner", "mysql://x/y"], 2, "must be the address of a PostgreSQL database"),
        (["add-host", "Fra 1", "--owner", "postgresql://x/y"], 2, "lowercase"),
        (["hosts"], 2, "EVENTS_HUB is required"),
        (["hosts", "--hub", "postgresql://x:y@127.0.0.1:1/z"], 1, "hub: "),
    ],
)
def test_mistake_is_named(arguments: list[str], code: int, said: str) -> None:
    assert said in run(*arguments, code=code)


def test_newer_hub_is_left_alone(hub: Hub) -> None:
    hub.rows("INSERT INTO hub.migrations VALUES ('9999_later', 0) RETURNING 1")
    assert "newer event-service (9999_later)" in run("migrate", "--owner", hub.owner, code=3)


def test_host_is_no_owner(hub: Hub) -> None:
    assert "event-service: hub: " in run("migrate", "--owner", hub.add_host("fra1"), code=3)
