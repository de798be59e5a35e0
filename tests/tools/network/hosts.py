"""`bin/network --hosts N`: the same network from N hosts and one that joins; a part bans one of them, and one dies.

Hosts are network namespaces, so that relays tell them apart by their addresses.
"""

import argparse
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from tests.fakes.child import Child
from tests.fakes.host_network import HostPlace, NamespaceNetwork, can_make_namespaces
from tests.fakes.net import free_port, pause
from tests.fakes.postgres import Hub, PostgresServer, find_programs, hub_in
from tests.fakes.service import EventService, settings
from tests.tools.network.home import due, have, register
from tests.tools.network.world import BOOTSTRAP, Network

LEASE_S = 30.0
MOST_UNASKED_S = 60.0
AGAIN_WITHIN_S = LEASE_S + 5.0
NEW_HOST_SHARE = 1.5
"""Times what is left for it, one part of N + 1."""
_LOOK_S = 1.0
_SAY_EVERY_S = 30.0
_STEADY_LOOKS = 10
_START_S = 600.0
# For relays of the host that died, beyond the time of the run.
_GRACE_S = 120.0
# Shares of the time: when a host joins, and when one dies.
_JOIN_AT, _DEATH_AT = 0.35, 0.6


class CannotTellHosts(Exception):
    """There can be no network namespaces here, or no PostgreSQL."""


@dataclass
class _Host:
    name: str
    place: HostPlace
    service: EventService


def play(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """The figures of one run; raises `CannotTellHosts`."""
    programs = find_programs()
    if not can_make_namespaces() or programs is None:
        raise CannotTellHosts("--hosts needs root, ip, nsenter and unshare, and PostgreSQL")
    with ExitStack() as stack:
        network = stack.enter_context(NamespaceNetwork())
        server = PostgresServer(
            programs, listen=[network.hub], access=[f"host all all {network.clients} scram-sha-256"]
        )
        stack.callback(server.close)
        server.start()
        hub = stack.enter_context(hub_in(server))
        hosts = [_host(directory, hub, network.add_host(), f"host{number}") for number in range(options.hosts + 1)]
        world = Network.make(
            options.seed, relays=options.relays, people=options.people, users=options.users, wanted=options.wanted,
            base=network.relays,
        )  # fmt: skip
        relays, port = stack.enter_context(_relays(options, directory, world, hosts[0].place.listen))
        urls = [f"ws://{world.address(number)}:{port}" for number in range(BOOTSTRAP)]
        home = EventService(directory / "home", settings(
            relays=urls, EVENTS_DISCOVER_RELAYS="true", EVENTS_MAX_RELAYS="1100", EVENTS_SINK="none",
            EVENTS_HUB=hub.home, EVENTS_ROLE="home", **_REACH,
        ))  # fmt: skip
        register(home, world)
        for each in (home, *(host.service for host in hosts)):
            stack.callback(each.close)
        home.start()
        for host in hosts[: options.hosts]:
            host.service.start(wait=False)
        return _Run(options, hub, home, hosts, relays, directory / "expected").watch()


_REACH = {"EVENTS_NEW_AUTHOR_LOOKBACK": "2h", "EVENTS_BACKFILL": "2h"}


def _host(directory: Path, hub: Hub, place: HostPlace, name: str) -> _Host:
    env = settings(
        EVENTS_HUB=place.hub_url(hub.add_host(name)), EVENTS_ROLE="crawler", EVENTS_HOST=name, EVENTS_CRAWLERS="1",
        **_REACH,
    )  # fmt: skip
    return _Host(name, place, EventService.placed(directory / name, env, place.command, place.listen))


def _relays(options: argparse.Namespace, directory: Path, world: Network, banned: str) -> "_Playing":
    port, seconds = free_port(world.address(0)), options.minutes * 60
    numbers = {name: getattr(options, name) for name in ("seed", "relays", "people", "users", "wanted", "stored")}
    arguments = [f"--{name}={value}" for name, value in {**numbers, "port": port}.items()]
    child = Child.module(
        "tests.tools.network.relays", *arguments, f"--seconds={int(seconds * 0.75)}", f"--rate={options.rate}",
        f"--expected={directory / 'expected'}", f"--base={world.base}", f"--banned={banned}",
        log=directory / "relays.log",
    )  # fmt: skip
    return _Playing(child, port)


class _Playing:
    """The process of all relays, once it is ready."""

    def __init__(self, child: Child, port: int) -> None:
        self._child, self._port = child, port

    def __enter__(self) -> tuple[Child, int]:
        self._child.__enter__()
        self._child.wait_line("ready", _START_S)
        return self._child, self._port

    def __exit__(self, *error: object) -> None:
        self._child.close()


class _Run:
    def __init__(
        self,
        options: argparse.Namespace,
        hub: Hub,
        home: EventService,
        hosts: list[_Host],
        relays: Child,
        expected: Path,
    ) -> None:
        self._hub, self._home, self._relays, self._expected = hub, home, relays, expected
        self._hosts, self._count = hosts, options.hosts
        self._seconds = options.minutes * 60
        self._found: dict[str, Any] = {}

    def watch(self) -> dict[str, Any]:
        """Let a host join, let one die, and return all figures at the end."""
        began, said_at = monotonic(), 0.0
        todo = [(_JOIN_AT, self._join), (_DEATH_AT, self._die)]
        while True:
            pause(_LOOK_S)
            elapsed = monotonic() - began
            if todo and elapsed > todo[0][0] * self._seconds:
                todo.pop(0)[1]()
            stats = self._stats("stats")
            missing = due(self._expected) - have(self._home.database)
            if elapsed - said_at > _SAY_EVERY_S:
                said_at = elapsed
                print(
                    f"{elapsed:5.0f} s: asked by {stats['asked_by']}, {stats['unasked']} relays are not asked, "
                    f"{len(missing):,} events are not there yet",
                    flush=True,
                )
            if elapsed > self._seconds + _GRACE_S * bool(stats["still_gone"]) or (
                not todo and not stats["publishing"] and not missing and not stats["still_gone"]
            ):
                return self._figures(stats, elapsed)

    def _join(self) -> None:
        before = self._shares()
        self._hosts[-1].service.start(wait=False)
        new = self._hosts[-1].name
        steady, last = 0, -1
        while steady < _STEADY_LOOKS:
            pause(_LOOK_S)
            count = sum(wished == new for wished in self._shares().values())
            steady, last = (steady + 1 if count == last and count else 0), count
        after = self._shares()
        moved = sum(key in before and wished != before[key] and wished != new for key, wished in after.items())
        self._found |= {
            "relays of the new host": last,
            "of a fair part, times": round(last / (len(after) / (self._count + 1)), 3),
            "relays that moved between others": moved,
        }

    def _die(self) -> None:
        dead = self._hosts[1]
        self._found["relays of the host that died"] = self._stats("stats")["asked_by"].get(dead.place.listen, 0)
        self._stats(f"gone {dead.place.listen}")
        dead.service.close()

    def _shares(self) -> dict[str, str]:
        rows = self._hub.rows("SELECT host_key, wished FROM hub.shares WHERE wished IS NOT NULL")
        return {str(key): str(wished) for key, wished in rows}

    def _stats(self, line: str) -> dict[str, Any]:
        self._relays.say(line)
        found: dict[str, Any] = json.loads(self._relays.wait_line(r"^\{.*\}", 120.0)[0])
        return found

    def _figures(self, stats: dict[str, Any], elapsed: float) -> dict[str, Any]:
        wanted = due(self._expected)
        again = stats["asked_again_s"]
        return {
            "recall": len(wanted & have(self._home.database)) / len(wanted) if wanted else 0.0,
            "events due": len(wanted),
            "seconds": round(elapsed),
            "relays asked, by host": ", ".join(f"{host} {count}" for host, count in stats["asked_by"].items()),
            "handshakes that a ban refused": stats["banned"],
            "a relay was not asked for at most, s": round(stats["unasked_s"], 1),
            **self._found,
            "of these asked again": len(again),
            "not asked again": stats["still_gone"],
            "asked again after at most, s": round(max(again, default=0.0), 1),
        }


def failures(found: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    checks = {
        "recall": found["recall"] == 1.0,
        "a relay was not asked for too long": found["a relay was not asked for at most, s"] <= MOST_UNASKED_S,
        "relays of a host that died are asked again too late": found["asked again after at most, s"] <= AGAIN_WITHIN_S,
        "relays of a host that died are not asked again": not found["not asked again"],
        "a new host takes too many relays": found["of a fair part, times"] <= NEW_HOST_SHARE,
    }
    return [text for text, holds in checks.items() if not holds]
