"""Home is lost: its newest copy takes its place elsewhere by the steps of operating.md, and the lost one comes back."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

import pytest

from tests.factories.events import Author, SignedEvent, authors
from tests.fakes.postgres import PostgresServer, hub_in, programs_or_skip
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService, settings
from tests.integration.stages.support import wait_until

PATIENCE_S = 300.0
BACK_WITHIN_S = 120.0
ALICE, BOB, CAROL, DAVE, ERIN = authors(513, 5)


@dataclass
class _World:
    directory: Path
    relay: ScriptedRelay
    home: EventService
    standby: EventService
    expected: set[str]
    listed_at: int = 0

    def publish(self, author: Author, *texts: str, ago_s: int = 0) -> list[str]:
        """Have events that must be delivered at the relay, dated so long ago."""
        made = [author.sign(text, kind=1, created_at=int(time()) - ago_s) for text in texts]
        return self.publish_events(*made)

    def publish_events(self, *events: SignedEvent) -> list[str]:
        self.relay.publish(*events)
        self.expected.update(event.id for event in events)
        return [event.id for event in events]

    def follow(self, *followees: Author) -> None:
        """Let Alice follow these, by the newest list: of two of the same second the lower id would count."""
        self.listed_at = max(int(time()), self.listed_at + 1)
        self.publish_events(ALICE.contact_list(followees, self.listed_at))

    def command(self, service: EventService, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        return subprocess.run(command, env=service.env, capture_output=True, text=True, check=False)


@contextmanager
def _world(directory: Path) -> Iterator[_World]:
    with ExitStack() as stack:
        server = PostgresServer(programs_or_skip())
        stack.callback(server.close)
        server.start()
        hub = stack.enter_context(hub_in(server))
        relay = stack.enter_context(ScriptedRelay())
        at_home = settings(relays=[relay.url], EVENTS_HUB=hub.home, EVENTS_ROLE="home")
        home, standby = (EventService(directory / name, at_home) for name in ("home", "standby"))
        crawling = settings(
            EVENTS_HUB=hub.add_host("fra1"), EVENTS_ROLE="crawler", EVENTS_HOST="fra1", EVENTS_CRAWLERS="1"
        )
        edge = EventService(directory / "fra1", crawling)
        for each in (home, standby, edge):
            stack.callback(each.close)
        home.start()
        edge.start()
        yield _World(directory, relay, home, standby, set())


def _delivered(service: EventService) -> Counter[str]:
    if not service.sink_path.exists():
        return Counter()
    return Counter(json.loads(line)["id"] for line in service.sink_path.read_bytes().split(b"\n")[:-1])


def _wait_delivered(service: EventService, ids: list[str] | set[str]) -> None:
    wait_until(lambda: _delivered(service).keys() >= set(ids), "delivered", PATIENCE_S)


def _signal_all(service: EventService, number: signal.Signals) -> None:
    """The supervisor is stopped first and goes on last, so that it misses none of its stages."""
    pids = [each.pid for each in service.processes()]
    for pid in pids if number is signal.SIGSTOP else reversed(pids):
        os.kill(pid, number)


def _back_up(world: _World) -> Path:
    folder = world.directory / "backups"
    folder.mkdir()
    done = world.command(world.home, "backup", "--keep", "2", str(folder))
    assert done.returncode == 0, done.stderr
    (copy,) = folder.iterdir()
    return copy


def _restore(world: _World, copy: Path) -> float:
    """Follow the steps of operating.md; return the seconds until it is healthy."""
    began = monotonic()
    world.standby.directory.mkdir()
    shutil.copyfile(copy, world.standby.database)
    refusals = []

    def has_taken_over() -> bool:
        done = world.command(world.standby, "hub", "take-over")
        refusals.append(done.stderr)
        return done.returncode == 0

    wait_until(has_taken_over, "taken over", PATIENCE_S)
    assert all("is home and running" in each for each in refusals[:-1])
    world.standby.start(timeout_s=PATIENCE_S)
    return monotonic() - began


@pytest.mark.timeout(900)
def test_lost_home_is_replaced_by_its_newest_copy_and_fenced(tmp_path: Path) -> None:
    with _world(tmp_path) as world:
        home, standby = world.home, world.standby
        # What is followed later is there before, so that only a look-back finds it.
        older = [author.sign("older", kind=1, created_at=int(time()) - 3_600) for author in (CAROL, DAVE)]
        world.relay.publish(*older)
        assert home.register(ALICE) == (True, "")
        _wait_delivered(home, world.publish(ALICE, "before the copy"))
        copy = _back_up(world)
        in_copy = set(_delivered(home))

        assert home.register(BOB) == (True, "")
        world.follow(CAROL)
        world.expected.add(older[0].id)
        world.publish(BOB, "after the copy")
        _wait_delivered(home, world.expected)

        _signal_all(home, signal.SIGSTOP)
        lost_at = monotonic()
        world.publish(ALICE, *(f"while home is away {number}" for number in range(50)))
        world.publish(CAROL, "by a followee of after the copy")
        world.follow(CAROL, DAVE)
        world.expected.add(older[1].id)
        healthy_s = _restore(world, copy)
        away = world.expected - in_copy
        _wait_delivered(standby, away)
        back_s = monotonic() - lost_at
        assert healthy_s < BACK_WITHIN_S
        for author in (ALICE, BOB):
            assert author.pubkey in world.command(standby, "users", "list").stdout, (
                "registered before and after the copy"
            )
        assert standby.register(ERIN) == (True, "")

        before = set(_delivered(home))
        _signal_all(home, signal.SIGCONT)
        wait_until(lambda: "this database is not home" in home.log_text(), "fenced", PATIENCE_S)
        accepted, why = home.register(DAVE)
        assert (accepted, why.partition(":")[0]) == (False, "error")
        late = world.publish(ERIN, "after the lost home is back")
        _wait_delivered(standby, late)
        told_twice = {each for each, count in (_delivered(home) + _delivered(standby)).items() if count > 1}
        assert set(_delivered(home)) == before, "it takes nothing"
        assert world.expected <= _delivered(home).keys() | _delivered(standby).keys()
        assert told_twice <= before - in_copy, "only what was delivered after the copy comes again"
        print(f"healthy {healthy_s:.1f} s after the first step, all delivered {back_s:.1f} s after the loss,")
        print(f"lost 0 of {len(world.expected)} events and 0 of 3 registrations, {len(told_twice)} events twice")
