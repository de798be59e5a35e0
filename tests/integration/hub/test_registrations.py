"""Registrations and departures are at the hub before they are acknowledged, and come back from there."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.hub.registry import TIMEOUT_S
from pipeline.process.clock import SystemClock
from pipeline.store import user_acts, users
from pipeline.store.backup import back_up
from pipeline.store.database import Database
from pipeline.store.schema import open_database
from stages import hub as hub_stage
from tests.factories.events import authors
from tests.fakes.postgres import Hub
from tests.fakes.proxy import CountingProxy
from tests.integration.server.harness import Running, ask, running
from tests.integration.stages import support
from tests.integration.stages.support import World, wait_until

NOW = 1_700_000_000
ALICE, BOB, CAROL, DAVE, ERIN = authors(2511, 5)
AWAY = "error: the registration could not be stored, try again later"


@contextmanager
def server_at_home(directory: Path, url: str) -> Iterator[Running]:
    with running(directory, EVENTS_HUB=url, EVENTS_ROLE="home", EVENTS_SINK="none") as server:
        yield server


@contextmanager
def through_proxy(hub: Hub) -> Iterator[tuple[CountingProxy, str]]:
    """A line to the hub that can be cut or held up."""
    with CountingProxy("127.0.0.1", hub.server.port) as proxy:
        where = proxy.url.removeprefix("ws://").rstrip("/")
        yield proxy, hub.home.replace(f"127.0.0.1:{hub.server.port}", where)


def registered(database: Database) -> list[str]:
    with database.read() as tx:
        return sorted(user.public_key.hex() for user in users.registered(tx))


def kept(hub: Hub) -> list[tuple[str, str]]:
    """What the hub has, in order."""
    return [
        (str(kind), str(key)) for kind, key in hub.rows(
            "SELECT kind, encode(public_key, 'hex') FROM hub.user_acts ORDER BY number"
        )
    ]  # fmt: skip


def test_registration_and_departure_are_at_the_hub_before_their_ok(hub: Hub, tmp_path: Path) -> None:
    with server_at_home(tmp_path, hub.home) as server:
        event = ALICE.registration(NOW, ["wss://relay.example.com"])
        assert server.publish(event.raw) == ["OK", event.id, True, ""]
        assert kept(hub) == [("register", ALICE.pubkey)]
        assert server.publish(BOB.registration(NOW).raw)[2] is True
        assert server.publish(ALICE.sign(kind=5, tags=[["e", event.id]], created_at=NOW + 1).raw)[2] is True
        assert kept(hub) == [("register", ALICE.pubkey), ("register", BOB.pubkey), ("leave", ALICE.pubkey)]
        assert server.publish(event.raw)[3].startswith("invalid: ")
        assert len(kept(hub)) == 3, "what is refused is not kept"
        for later in range(1, 4):
            assert server.publish(BOB.registration(NOW + later).raw)[2] is True
        assert kept(hub)[-1] == ("register", BOB.pubkey)
        assert len(kept(hub)) == 3, "a newer one takes the place of the one before"
        with server.database() as database:
            assert registered(database) == [BOB.pubkey]


def test_registration_without_the_hub_is_refused_and_changes_nothing(hub: Hub, tmp_path: Path) -> None:
    with through_proxy(hub) as (proxy, url), server_at_home(tmp_path, url) as server:
        assert server.publish(ALICE.registration(NOW).raw)[2] is True
        with proxy.cut():
            assert server.publish(BOB.registration(NOW).raw)[2:] == [False, AWAY]
            # The second finds that the line was cut a moment ago.
            leaving = ALICE.sign(kind=5, tags=[["k", "6666"]], created_at=NOW + 1)
            assert server.publish(leaving.raw)[2:] == [False, AWAY]
            with server.database() as database:
                assert registered(database) == [ALICE.pubkey], "who is registered stays"
            assert server.get(f"/public-keys/{ALICE.pubkey}").status == 200
        wait_until(lambda: server.publish(BOB.registration(NOW).raw)[2] is True, "registered")
        assert kept(hub) == [("register", ALICE.pubkey), ("register", BOB.pubkey)]


def test_hub_that_hangs_holds_up_registrations_for_seconds_and_others_not(hub: Hub, tmp_path: Path) -> None:
    with through_proxy(hub) as (proxy, url), server_at_home(tmp_path, url) as server:
        assert server.publish(ALICE.registration(NOW).raw)[2] is True
        answers: list[Any] = []
        clients = [
            threading.Thread(target=lambda author=author: answers.append(server.publish(author.registration(NOW).raw)))
            for author in (BOB, CAROL, DAVE)
        ]
        with proxy.held():
            began = monotonic()
            for each in clients:
                each.start()
            asked = monotonic()
            assert server.get("/_live").status == 200
            assert server.get(f"/public-keys/{ALICE.pubkey}").status == 200
            took_s = monotonic() - asked
            for each in clients:
                each.join(60)
            waited_s = monotonic() - began
        assert [answer[2:] for answer in answers] == [[False, AWAY]] * 3
        # One waits for the hub, the others are refused without a try of their own.
        assert TIMEOUT_S <= waited_s < 3 * TIMEOUT_S
        assert took_s < TIMEOUT_S
        wait_until(lambda: server.publish(ERIN.registration(NOW).raw)[2] is True, "registered")


def test_new_epoch_of_home_is_no_reason_to_refuse(hub: Hub, tmp_path: Path) -> None:
    with server_at_home(tmp_path, hub.home) as server, server.websocket() as client:
        assert ask(client, f'["EVENT",{ALICE.registration(NOW).raw}]')[2] is True
        hub.rows("UPDATE hub.roles SET epoch = epoch + 1 RETURNING 1")
        assert ask(client, f'["EVENT",{BOB.registration(NOW).raw}]')[2] is True


def test_home_that_was_replaced_registers_nobody(hub: Hub, tmp_path: Path) -> None:
    with server_at_home(tmp_path, hub.home) as server:
        assert server.publish(ALICE.registration(NOW).raw)[2] is True
        hub.rows("UPDATE hub.roles SET epoch = epoch + 1, holder = 'another' RETURNING 1")
        assert server.publish(BOB.registration(NOW).raw)[2:] == [False, AWAY]
        with server.database() as database:
            assert registered(database) == [ALICE.pubkey]
    assert kept(hub) == [("register", ALICE.pubkey)]


def test_crawling_host_registers_nobody(hub: Hub, tmp_path: Path) -> None:
    env = {"EVENTS_HUB": hub.add_host("fra1"), "EVENTS_ROLE": "crawler", "EVENTS_HOST": "fra1"}
    with running(tmp_path, None, **env) as server:
        assert server.publish(ALICE.registration(NOW).raw)[2:] == [
            False, "restricted: this host takes no registrations, another one of this service does",
        ]  # fmt: skip
        with server.database() as database:
            assert registered(database) == []
        done = command({"EVENTS_DATABASE_PATH": str(server.config.database_path), **env}, "add", ALICE.pubkey)
        assert done.exit_code == 3
        assert "users are kept by the home host" in done.output


def command(env: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main, ["users", *arguments], env={"EVENTS_ENVIRONMENT": "DEVELOPMENT", **env})


def home_world(directory: Path, url: str) -> World:
    directory.mkdir()
    return World(directory, {"EVENTS_HUB": url, "EVENTS_ROLE": "home"})


def test_restored_copy_has_what_users_and_operator_did_since(hub: Hub, tmp_path: Path) -> None:
    with server_at_home(tmp_path, hub.home) as server:
        before = CAROL.registration(NOW)
        for event in (before, ERIN.registration(NOW)):
            assert server.publish(event.raw)[2] is True
        (tmp_path / "copy").mkdir()
        with server.database() as database:
            back_up(database, tmp_path / "copy" / "events.db", lambda _: None)
        assert server.publish(ALICE.registration(NOW, ["wss://alices.example.com"]).raw)[2] is True
        assert server.publish(CAROL.sign(kind=5, tags=[["e", before.id]], created_at=NOW + 1).raw)[2] is True
        env = {"EVENTS_DATABASE_PATH": str(server.config.database_path), "EVENTS_HUB": hub.home, "EVENTS_ROLE": "home"}
        assert command(env, "add", DAVE.pubkey, BOB.pubkey).exit_code == 0
        assert command(env, "remove", BOB.pubkey).exit_code == 0
        assert command(env, "block", ERIN.pubkey).output == f"{ERIN.pubkey} blocked, was registered\n"
        with server.database() as database:
            expected = registered(database)
    assert expected == sorted([ALICE.pubkey, DAVE.pubkey])
    copy = World(tmp_path / "copy", {"EVENTS_HUB": hub.home, "EVENTS_ROLE": "home"})
    assert registered(copy.database) == sorted([CAROL.pubkey, ERIN.pubkey])
    assert CliRunner().invoke(main, ["hub", "take-over"], env=copy.env).exit_code == 0
    with support.Running(copy.context("hub"), hub_stage.run):
        wait_until(lambda: registered(copy.database) == expected, "registered again")
    assert copy.value("SELECT count(*) FROM relays WHERE address = 'wss://alices.example.com' AND named_by_user") == 1
    with copy.database.read() as tx:
        assert [key.hex() for key, _ in users.blocked(tx)] == [ERIN.pubkey]
    # Nothing from before comes back.
    with running(tmp_path / "copy", EVENTS_HUB=hub.home, EVENTS_ROLE="home", EVENTS_SINK="none") as server:
        for old in (before, ERIN.registration(NOW), BOB.registration(NOW)):
            assert server.publish(old.raw)[2] is False
    copy.close()


def test_registration_whose_process_died_at_once_is_done_by_the_stage(hub: Hub, tmp_path: Path) -> None:
    home = home_world(tmp_path / "home", hub.home)
    event = ALICE.registration(NOW)
    hub.rows(
        "INSERT INTO hub.user_acts VALUES (1, 'register', decode(%s, 'hex'), %s, %s) RETURNING 1",
        ALICE.pubkey, NOW * 1000, event.raw.encode(),
    )  # fmt: skip
    hub.rows("UPDATE hub.user_act_numbers SET last = 1 RETURNING 1")
    with support.Running(home.context("hub"), hub_stage.run):
        wait_until(lambda: registered(home.database) == [ALICE.pubkey], "registered")
        wait_until(lambda: hub.rows("SELECT count(*) FROM hub.plan_authors WHERE subject = 1") == [(1,)], "planned")
    home.close()


def test_hub_that_went_back_numbers_above_what_home_has(hub: Hub, tmp_path: Path) -> None:
    with server_at_home(tmp_path, hub.home) as server:
        for author in (ALICE, BOB):
            assert server.publish(author.registration(NOW).raw)[2] is True
        hub.rows("DELETE FROM hub.user_acts RETURNING 1")
        hub.rows("UPDATE hub.user_act_numbers SET last = 0 RETURNING 1")
        assert server.publish(CAROL.registration(NOW).raw)[2] is True
        with server.database() as database, database.read() as tx:
            assert user_acts.position(tx) == 3
    assert hub.rows("SELECT number FROM hub.user_acts") == [(3,)]


@pytest.mark.parametrize("verb", ["add", "remove", "block"])
def test_command_without_the_hub_changes_nothing_and_says_so(hub: Hub, tmp_path: Path, verb: str) -> None:
    database = open_database(tmp_path / "events.db", SystemClock())
    with database.write() as tx:
        users.register(tx, bytes.fromhex(ALICE.pubkey), 1)
    with through_proxy(hub) as (proxy, url), proxy.cut():
        env = {"EVENTS_DATABASE_PATH": str(database.path), "EVENTS_HUB": url, "EVENTS_ROLE": "home"}
        done = command(env, verb, ALICE.pubkey if verb != "add" else BOB.pubkey)
    assert done.exit_code == 1
    assert "is left as it was: hub: " in done.output
    assert registered(database) == [ALICE.pubkey]
    database.close()
