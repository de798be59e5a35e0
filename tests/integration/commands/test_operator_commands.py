"""The commands of an operator, run as child processes on a real database."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.nostr.nip19 import encode_npub
from pipeline.process.clock import SystemClock
from pipeline.process.doorbell import Doorbell
from pipeline.store import events, inbox, outbox, users
from pipeline.store.database import Database
from pipeline.store.events import Accepted
from pipeline.store.inbox import Arrival
from pipeline.store.lease import DeadLetter
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName
from tests.factories.events import Author
from tests.fakes.net import free_port
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import settings
from tests.support.stored import store_with_payloads

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def run(path: Path) -> Run:
    """Runs `event-service` with arguments and further settings."""

    def run(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        full = os.environ | settings(EVENTS_DATABASE_PATH=str(path)) | env
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        return subprocess.run(command, env=full, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
def database(path: Path) -> Database:
    return open_database(path, SystemClock())


def _dead_inbox_row(database: Database, author: Author) -> bytes:
    event = author.sign("poison", kind=1, created_at=1_700_000_000)
    event_id = bytes.fromhex(event.id)
    with database.write() as tx:
        inbox.append(tx, [Arrival(event_id, event.raw.encode(), 1, 1, event.created_at)])
        (row,) = inbox.claim(tx, now=10, lease=1000, limit=1)
        inbox.queue.dead_letter(tx, [DeadLetter(row.receipt, "ValueError: it hurts")], 20)
    return event_id


def _dead_outbox_row(database: Database, author: Author) -> bytes:
    event = author.sign("undeliverable", kind=1, created_at=1_700_000_000)
    event_id = bytes.fromhex(event.id)
    with database.write() as tx:
        store_with_payloads(tx, [Accepted(7, event_id, event.created_at, 1, 1, event.raw.encode(), 1, 1, 1)])
        outbox.append(tx, SinkName.PUBSUB, [7], 1)
        (row,) = outbox.claim(tx, SinkName.PUBSUB, now=10, lease=1000, limit=1)
        outbox.queue.dead_letter(tx, [DeadLetter(row.receipt, "too many claims")], 20)
    return event_id


def test_change_of_users_wakes_the_crawlers(run: Run, database: Database) -> None:
    bell = Doorbell.hang(database.path, "crawler-0")
    key = Author.from_seed(1, 0).pubkey
    for command in ("add", "remove", "block"):
        assert run("users", command, key).returncode == 0
        assert bell.silence(), command
    run("users", "list")
    assert not bell.silence()
    bell.close()


def test_users_come_and_go(run: Run, database: Database) -> None:
    key = Author.from_seed(1, 1).pubkey
    npub = encode_npub(bytes.fromhex(key))
    assert run("users", "add", key.upper()).stdout == f"{key} registered\n"
    assert run("users", "add", npub).stdout == f"{key} was registered already\n"
    assert run("users", "list").stdout.split()[:2] == [key, npub]
    with database.read() as tx:
        assert users.count(tx) == 1
    assert run("users", "remove", npub).stdout == f"{key} removed\n"
    assert run("users", "remove", npub).stdout == f"{key} was not registered\n"
    assert run("users", "add", npub).stdout == f"{key} registered\n"
    assert run("users", "block", npub).stdout == f"{key} blocked, was registered\n"
    assert run("users", "block", npub).stdout == f"{key} blocked\n"
    assert run("users", "list", "--blocked").stdout.startswith(f"{key} {npub} ")
    assert json.loads(run("users", "list", "--blocked", "--json").stdout)["public_key"] == key
    assert run("users", "list").stdout == ""


@pytest.mark.parametrize("key", ["", "xyz", "npub1qqqq", "ab" * 31])
def test_a_key_that_is_none_is_refused(run: Run, key: str) -> None:
    done = run("users", "add", key)
    assert done.returncode == 2
    assert "Invalid value" in done.stderr


def test_dead_rows_are_listed_shown_and_put_back(run: Run, database: Database) -> None:
    author = Author.from_seed(1, 2)
    event_id = _dead_inbox_row(database, author)
    listed = run("dead", "list").stdout
    assert listed.startswith(f"inbox 1 {event_id.hex()} claims=1 failures=0 ")
    assert listed.endswith("ValueError: it hurts\n")
    assert '"content":"poison"' in run("dead", "show", "inbox", "1").stdout
    assert run("dead", "show", "inbox", "2").returncode == 1
    assert run("dead", "retry", "--reason", "other").stdout == "0 rows requeued\n"
    assert run("dead", "retry", "--reason", "IT HURTS").stdout == "1 row requeued\n"
    assert run("dead", "list").stdout == ""
    with database.read() as tx:
        assert inbox.waiting(tx) == 1


def test_dead_rows_are_dropped_only_when_meant(run: Run, database: Database) -> None:
    event_id = _dead_outbox_row(database, Author.from_seed(1, 3))
    assert event_id.hex() in run("dead", "list", "--queue", "pubsub").stdout
    assert run("dead", "list", "--queue", "relay").stdout == ""
    assert run("dead", "drop").returncode == 1, "without --yes it asks"
    assert run("dead", "drop", "--queue", "pubsub", "--yes").stdout == "1 row dropped\n"
    with database.write() as tx:
        now = SystemClock().now_ms()
        assert outbox.dead(tx, SinkName.PUBSUB) == 0
        dropped = events.drop_delivered(tx, after=0, done_before=now, limit=10)
        assert dropped.dropped == 1, "retention may let go of the payload now"


def test_old_rows_are_chosen_by_age(run: Run, database: Database) -> None:
    _dead_inbox_row(database, Author.from_seed(1, 4))
    assert run("dead", "list", "--older", "1d").stdout != ""
    assert run("dead", "list", "--older", "36500d").stdout == ""
    assert run("dead", "list", "--older", "soon").returncode == 2


def test_status_tells_queues_and_relays(run: Run, database: Database) -> None:
    _dead_inbox_row(database, Author.from_seed(1, 5))
    text = run("status").stdout
    assert "no stage runs" in text
    assert "inbox          0 pending, 1 dead letter" in text
    found = json.loads(run("status", "--json").stdout)
    assert found["queues"][0] == {"name": "inbox", "waiting": 0, "oldest_ms": None, "dead": 1, "bytes": 0}
    assert found["registered_users"] == 0


def test_check_warns_of_secrets_that_everybody_may_read(run: Run, tmp_path: Path) -> None:
    key, settings = tmp_path / "nostr.key", tmp_path / "settings"
    key.write_text("11" * 32)
    settings.write_text("EVENTS_PYROSCOPE_BASIC_AUTH_PASSWORD=hidden\n")
    for path in (key, settings):
        path.chmod(0o644)
    found = run("check", "--env-file", str(settings), EVENTS_SECRET_KEY_PATH=str(key))
    assert found.returncode == 0
    assert f"warning: EVENTS_SECRET_KEY_PATH {key} can be read by every user" in found.stderr
    assert f"chmod 600 {key}" in found.stderr
    assert f"EVENTS_PYROSCOPE_BASIC_AUTH_PASSWORD in {settings} can be read" in found.stderr
    for path in (key, settings):
        path.chmod(0o640)
    assert "can be read" not in run("check", "--env-file", str(settings), EVENTS_SECRET_KEY_PATH=str(key)).stderr


def test_what_a_command_makes_is_not_for_everybody(run: Run, database: Database, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert run("backup", str(copy)).returncode == 0
    assert copy.stat().st_mode & 0o027 == 0


def test_check_online_finds_what_cannot_be_reached(run: Run) -> None:
    closed = f"ws://127.0.0.1:{free_port()}"
    with ScriptedRelay() as relay:
        good = run("check", "--online", EVENTS_TARGET_RELAY=relay.url, EVENTS_BOOTSTRAP_RELAYS=relay.url)
        assert good.returncode == 0
        assert f"ok     target relay {relay.url}: answers" in good.stdout
        bad = run("check", "--online", EVENTS_TARGET_RELAY=closed, EVENTS_BOOTSTRAP_RELAYS=relay.url)
    assert bad.returncode == 1
    assert f"FAILED target relay {closed}: refused" in bad.stdout


@pytest.mark.parametrize("sink", [SinkName.PUBSUB, SinkName.RELAY])
def test_backlog_of_a_sink_that_is_off_is_dropped_on_demand(run: Run, database: Database, sink: SinkName) -> None:
    """And of no sink that is on; payloads may go then, as every delivery has its end."""
    now = SystemClock().now_ms()
    with database.write() as tx:
        for number in range(1, 1201):
            event_id = number.to_bytes(32, "big")
            store_with_payloads(tx, [Accepted(number, event_id, 1, 1, 1, b"{}", 1, now - 10_000, 1)])
            outbox.append(tx, sink, [number], now)
    on = {"EVENTS_SINK": "stdout", "EVENTS_TARGET_RELAY": "ws://127.0.0.9:9"}
    off = {"EVENTS_SINK": "none", "EVENTS_TARGET_RELAY": ""}
    refused = run("dead", "drop", "--sink", sink, "--yes", **on)
    assert refused.returncode == 2
    assert "is on" in refused.stderr
    assert run("dead", "drop", "--sink", sink, "--older", "1h", "--yes", **off).stdout == "0 rows dropped\n"
    assert run("dead", "drop", "--sink", sink, "--yes", **off).stdout == "1,200 rows dropped\n"
    with database.read() as tx:
        assert outbox.waiting(tx, sink) == 0
        assert tx.execute("SELECT DISTINCT outcome FROM deliveries").fetchall() == [("dropped",)]
