"""The service on a simulated network: a thousand relays on loopback, fifty thousand people with relay lists.

It begins with a few of the relays, learns of the others from what it reads, and must have everything wanted that any of
them holds. Exit code 1 when it does not. The machine that plays the relays is the one that is measured: figures of CPU
and memory are those of the service's own processes.
"""

import argparse
import json
import os
import random
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tests.fakes.child import Child
from tests.fakes.net import free_port, pause
from tests.fakes.procs import Process
from tests.fakes.service import EventService, settings
from tests.tools.network import hosts
from tests.tools.network.home import due, have, register
from tests.tools.network.world import BOOTSTRAP, Network

_SAY_EVERY_S = 30.0
_LOOK_EVERY_S = 2.0
_ASKED = "SELECT asked, count(*) FROM relays WHERE state = 'connected' GROUP BY asked"


@dataclass(slots=True)
class Usage:
    """What the service's processes have used; those that ended count as they last were."""

    cpu_s: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    peak_bytes: int = 0

    def look(self, processes: list[Process]) -> None:
        """Take note of the processes as they are now."""
        for each in processes:
            self.cpu_s[each.pid] = each.cpu_s
            self.names[each.pid] = _name(each)
        self.peak_bytes = max(self.peak_bytes, sum(each.resident_bytes for each in processes))

    def by_name(self) -> dict[str, float]:
        """CPU seconds by stage."""
        found: dict[str, float] = {}
        for pid, seconds in self.cpu_s.items():
            found[self.names[pid]] = found.get(self.names[pid], 0.0) + seconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def main() -> int:
    """Play it and print what came of it."""
    parser = argparse.ArgumentParser(prog="bin/network", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="how long, the end included (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--relays", type=int, default=1_000, help="%(default)s")
    parser.add_argument("--people", type=int, default=50_000, help="with relay lists (%(default)s)")
    parser.add_argument("--users", type=int, default=100, help="registered (%(default)s)")
    parser.add_argument("--wanted", type=int, default=30_000, help="followed by them (%(default)s)")
    parser.add_argument("--stored", type=int, default=30_000, help="events there are before (%(default)s)")
    parser.add_argument("--rate", type=float, default=20.0, help="events a second (%(default)s)")
    parser.add_argument(
        "--hosts", type=int, metavar="N", help="crawl from N hosts; a fifth of the relays ban one of them"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="event-service-network-") as scratch:
        try:
            found = (play if options.hosts is None else hosts.play)(options, Path(scratch))
        except hosts.CannotTellHosts as error:
            parser.error(str(error))
    for name, value in found.items():
        print(f"{name:<44} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    failed = [] if options.hosts is None else hosts.failures(found)
    for text in failed:
        print(f"FAILED: {text}")
    return 1 if failed or found["recall"] != 1.0 else 0


def play(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """The figures of one run."""
    network = Network.make(
        options.seed, relays=options.relays, people=options.people, users=options.users, wanted=options.wanted
    )
    port, expected = free_port(network.address(0)), directory / "expected"
    seconds = options.minutes * 60
    # What is written last must have time to come in, also where it is only found by looking again.
    written_s = int(seconds * 0.75)
    numbers = {name: getattr(options, name) for name in ("seed", "relays", "people", "users", "wanted", "stored")}
    arguments = [f"--{name}={value}" for name, value in {**numbers, "port": port, "seconds": written_s}.items()]
    relays = Child.module(
        "tests.tools.network.relays", *arguments, f"--rate={options.rate}", f"--expected={expected}",
        log=directory / "relays.log",
    )  # fmt: skip
    with relays:
        print(f"making {options.people:,} people, their lists and {options.stored:,} events …", flush=True)
        relays.wait_line("ready", 600.0)
        bootstrap = [f"ws://{network.address(number)}:{port}" for number in range(BOOTSTRAP)]
        env = settings(
            relays=bootstrap, EVENTS_DISCOVER_RELAYS="true", EVENTS_MAX_RELAYS="1100", EVENTS_SINK="none",
            EVENTS_NEW_AUTHOR_LOOKBACK="2h", EVENTS_BACKFILL="2h", EVENTS_CRAWLERS="2",
        )  # fmt: skip
        service = EventService(directory / "service", env)
        register(service, network)
        with service:
            return _watch(service, relays, expected, seconds)


def _watch(service: EventService, relays: Child, expected: Path, seconds: float) -> dict[str, Any]:
    began, said_at, usage = monotonic(), 0.0, Usage()
    while True:
        pause(_LOOK_EVERY_S)
        elapsed = monotonic() - began
        usage.look(service.processes())
        if elapsed - said_at >= _SAY_EVERY_S or elapsed > seconds:
            said_at = elapsed
            stats = _stats(relays)
            wanted, had = due(expected), have(service.database)
            missing = len(wanted - had)
            print(
                f"{elapsed:5.0f} s: {stats['connected']} connected, {len(wanted):,} due, {missing:,} not there yet, "
                f"{sum(usage.cpu_s.values()) / elapsed:.2f} cores, {usage.peak_bytes >> 20} MiB at most",
                flush=True,
            )
            if elapsed > seconds or (not stats["publishing"] and not missing):
                return _figures(service, usage, stats, wanted, had, elapsed)


def _figures(
    service: EventService, usage: Usage, stats: dict[str, Any], wanted: set[str], had: set[str], elapsed: float
) -> dict[str, Any]:
    novel = len(wanted & had)
    with closing(sqlite3.connect(f"file:{service.database}?mode=ro", uri=True)) as database:
        asked = dict(database.execute(_ASKED).fetchall())
    return {
        "recall": novel / len(wanted) if wanted else 0.0,
        "events due": len(wanted),
        "copies of an event, mean": round(stats["copies"] / stats["published"], 2),
        "seconds": round(elapsed),
        "relays connected": stats["connected"],
        "relays asked by query, whole": f"{asked.get('query', 0)}, {asked.get('whole', 0)}",
        "dials that were answered": stats["dials"],
        "requests, of them for everything": f"{stats['requests']:,}, {stats['broad_requests']:,}",
        "bytes received for each novel event": round(stats["sent_bytes"] / max(novel, 1)),
        "bytes sent for each novel event": round(stats["received_bytes"] / max(novel, 1)),
        "events received for each novel one": round(stats["sent_events"] / max(novel, 1), 2),
        "cores": round(sum(usage.cpu_s.values()) / elapsed, 3),
        "CPU seconds by stage": ", ".join(f"{name} {used:.1f}" for name, used in usage.by_name().items()),
        "CPU for each novel event, ms": round(1000 * sum(usage.cpu_s.values()) / max(novel, 1), 3),
        "resident memory at most, MiB": usage.peak_bytes >> 20,
        "load average of the machine": round(os.getloadavg()[0], 1),
    }


def _stats(relays: Child) -> dict[str, Any]:
    relays.say("stats")
    found: dict[str, Any] = json.loads(relays.wait_line(r"^\{.*\}", 120.0)[0])
    return found


def _name(process: Process) -> str:
    words = list(process.command)
    return words[words.index("stage") + 1] if "stage" in words else "supervisor"


if __name__ == "__main__":
    sys.exit(main())
