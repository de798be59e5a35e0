"""Clients that others wrote, on the same relay: what they get by plain questions, without knowing the book."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from subprocess import DEVNULL, Popen, TimeoutExpired
from time import monotonic

from tests.fakes.child import ROOT
from tests.fakes.procs import kill_session
from tests.fakes.proxy import CountingProxy
from tests.tools.completeness.foreign.registry import NODE_ENVIRONMENT, OUR_ENVIRONMENT, PEERS
from tests.tools.completeness.foreign.result import Cost, Missing, Phase
from tests.tools.completeness.foreign.subject import Subject
from tests.tools.completeness.world import World

TIMEOUT_S = 180.0
_GLOBAL_KINDS = [0, 2, 3, 10002]


@dataclass(frozen=True, slots=True)
class Client:
    """A program that is called with URL, a file of filters and the earliest time; it prints ids, one a line."""

    name: str
    command: Sequence[str]
    needs: Path
    env: Mapping[str, str]

    @property
    def is_installed(self) -> bool:
        """Whether it can be started."""
        return self.needs.exists()


CLIENTS = (
    Client(
        "nostr-fetch", ("node", f"{ROOT}/tests/peers/nostr_fetch.js"), PEERS / "node/node_modules/nostr-fetch",
        NODE_ENVIRONMENT,
    ),
    Client("nostr-sdk", (sys.executable, f"{ROOT}/tests/peers/sdk_fetch.py"), Path(sys.executable), OUR_ENVIRONMENT),
)  # fmt: skip


def fetch(client: Client, subject: Subject, world: World, reach_s: int, folder: Path) -> tuple[Phase, set[str]]:
    """Let it ask for what the service wants; what came of it, and the ids that it got."""
    filters = folder / "filters.json"
    filters.write_text(json.dumps(_filters(world)))
    output = folder / f"{client.name}.ids"
    began, cpu = monotonic(), _children_cpu_s()
    with CountingProxy(*subject.target) as proxy, output.open("wb") as out:
        process = Popen(
            [*client.command, proxy.url, str(filters), str(world.now - reach_s)],
            stdout=out, stderr=DEVNULL, env=os.environ | dict(client.env), start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(TIMEOUT_S)
        except TimeoutExpired:
            kill_session(process.pid)
            process.wait()
        traffic = proxy.traffic
    seconds, cpu_s = monotonic() - began, _children_cpu_s() - cpu
    due = {event_id for event_id in subject.book() if world.is_wanted(subject.accepted[event_id])}
    got = due & set(output.read_text().split())
    missing = [Missing(event_id, 0, 0, "", is_told=True) for event_id in due - got]
    cost = Cost(traffic.sent, traffic.received, dict(traffic.messages), cpu_s, cpu_s)
    return Phase(client.name, len(due), missing, {}, seconds, cost), got


def _filters(world: World) -> list[dict[str, list[str] | list[int]]]:
    authors = [author.pubkey for author in (*world.users, *world.followees)]
    return [{"authors": authors}, {"#p": [user.pubkey for user in world.users]}, {"kinds": _GLOBAL_KINDS}]


def _children_cpu_s() -> float:
    usage = getrusage(RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
