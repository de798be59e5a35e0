"""Commands that look at a service where none has run, or none runs any more."""

import subprocess
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.process.heartbeat import Heartbeat
from pipeline.process.page_token import make_page_token
from pipeline.process.slots import heartbeats_directory
from pipeline.store.schema import open_database
from tests.integration.commands.operator import Operator

LOOKING = [
    ("status",), ("status", "--url"), ("explain", "ab" * 32), ("coverage", "ab" * 32), ("users", "list"),
    ("relays", "list"), ("relays", "show", "ws://127.0.0.1:1"), ("dead", "list"), ("backfill", "--list"),
]  # fmt: skip


CHANGING = [
    ("users", "remove", "ab" * 32), ("users", "block", "ab" * 32), ("relays", "add", "ws://127.0.0.1:1"),
    ("relays", "ask", "whole", "ws://127.0.0.1:1"), ("dead", "retry"), ("dead", "drop", "--yes"),
    ("dead", "drop", "--sink", "relay", "--yes"), ("backfill", "--since", "1h"), ("audit", "--author", "ab" * 32),
    ("replay", "--since", "1h"),
]  # fmt: skip


@pytest.mark.parametrize("command", [*LOOKING, *CHANGING], ids=" ".join)
def test_missing_database_is_named_and_not_created(command: tuple[str, ...], tmp_path: Path) -> None:
    operator = Operator(tmp_path / "typo.db")
    said = operator.fail(*command, code=3)
    assert f"there is no database {tmp_path}/typo.db: correct EVENTS_DATABASE_PATH" in said
    assert list(tmp_path.iterdir()) == []


def test_command_that_may_come_before_the_first_start_says_what_it_made(tmp_path: Path) -> None:
    operator, said = Operator(tmp_path / "new.db"), f"made a new database, {tmp_path}/new.db"
    assert said in operator.run("users", "add", "ab" * 32).stderr
    assert operator.run("users", "add", "ab" * 32).stderr == ""
    assert "1 registered" in operator.run("status").stdout


def test_status_url_is_that_of_a_web_server_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tmp_path / "run"
    heartbeats_directory(runtime).mkdir(parents=True)
    monkeypatch.setenv("EVENTS_RUNTIME_DIRECTORY", str(runtime))
    open_database(tmp_path / "events.db", SystemClock()).close()
    operator = Operator(tmp_path / "events.db")
    # It stays from one run to the next.
    token = make_page_token(runtime)
    assert "no web server runs; start event-service supervise" in operator.fail("status", "--url")
    heartbeat = Heartbeat(runtime, "server-0", SystemClock())
    assert operator.succeed("status", "--url").strip().endswith(f"/?token={token}")
    heartbeat.close()
    assert "no web server runs; start event-service supervise" in operator.fail("status", "--url")


def test_status_without_the_settings_of_the_service_names_no_project(tmp_path: Path) -> None:
    open_database(tmp_path / "events.db", SystemClock()).close()
    operator = Operator(tmp_path / "events.db")
    env = operator.env | {"EVENTS_ENVIRONMENT": "PRODUCTION", "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": ""}
    done = subprocess.run(operator.command("status"), env=env, capture_output=True, text=True, check=False)
    assert "topic nostr-events; EVENTS_GOOGLE_PUBSUB_PROJECT_ID is not set here" in done.stdout
    assert "None" not in done.stdout
