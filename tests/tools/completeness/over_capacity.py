"""So many wanted authors that relays have no room for them by query: those that can be are asked for everything."""

import os
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from time import monotonic, time

from pipeline.process.clock import SystemClock
from pipeline.store import wanted_authors
from pipeline.store.authors import Authors
from pipeline.store.schema import open_database
from tests.fakes.behaviour import Behaviour, Filters, How, Refusal
from tests.fakes.net import pause
from tests.fakes.relay import ScriptedRelay
from tests.tools.completeness.behaviours import HONEST_CASE, Case
from tests.tools.completeness.run import Peer, Row, Run
from tests.tools.completeness.world import World

CROWD = 4_000
_STEPS = 6
_STEP_S = 1.0
_ASKED = "SELECT address, asked FROM relays"


def _is_broad(filters: Filters) -> bool:
    return any(not {"authors", "kinds", "ids", "#p"} & set(each) for each in filters)


# Room for a few chunks of the sixteen or more that there are.
NARROW = Behaviour(max_subscriptions=3, max_filters=2, cap=100)
CASES: Mapping[str, tuple[Case, str]] = {
    "narrow": (Case(NARROW), "whole"),
    "narrow-capped": (Case(NARROW | Behaviour(cap=20, until_exclusive=True)), "whole"),
    "narrow-lossy": (Case(NARROW | Behaviour(live_loses_every=3)), "whole"),
    "narrow-dense": (
        Case(NARROW | Behaviour(cap=50), extra=lambda world: world.one_second(130, world.now - 1800)), "query"
    ),
    "narrow-closes-broad": (
        Case(NARROW | Behaviour(refusals=(Refusal(How.CLOSED, "blocked: no empty filters", when=_is_broad),))), "query"
    ),
    "narrow-silent-broad": (
        Case(NARROW | Behaviour(refusals=(Refusal(How.EOSE, when=_is_broad),))), "query"
    ),
    "narrow-no-broad": (Case(NARROW | Behaviour(min_filter_score=1)), "query"),
    "roomy": (HONEST_CASE, "query"),
}  # fmt: skip


def run(seed: int, timeout_s: float, *, keep: Path | None = None) -> list[Row]:
    """Play it; the name of each row says how the relay is asked in the end."""
    world = World.make(seed)
    peers = [_peer(world, name, case, seed) for name, (case, _) in CASES.items()]
    lists = Peer("(contact lists)", HONEST_CASE, ScriptedRelay(events=world.contact_lists))
    with tempfile.TemporaryDirectory(prefix="event-service-completeness-") as scratch:
        service = Run(keep or Path(scratch), world, [lists, *peers])
        service.service.directory.mkdir(parents=True, exist_ok=True)
        _want_crowd(service.service.database)
        began = time()
        with service.started():
            for _ in range(_STEPS):
                pause(_STEP_S)
                for peer in peers:
                    live, late = world.fresh(6), world.stored(2)
                    peer.relay.publish(*live)
                    peer.relay.hold(late)
                    peer.offer(world, [*live, *late])
            service.wait_complete(timeout_s)
            asked = _wait_asked(service, timeout_s)
            rows = service.rows(began)[1:]
            return [_named(row, asked[peer.relay.url]) for row, peer in zip(rows, peers, strict=True)]


def wrongly_asked(rows: list[Row]) -> list[str]:
    """The names of rows whose relay is asked in another way than it should be."""
    expected = {f"{name}: {way}" for name, (_, way) in CASES.items()}
    return [row.name for row in rows if row.name not in expected]


def _named(row: Row, way: str) -> Row:
    return Row(
        f"{row.name}: {way}", row.wanted, row.got, row.beyond, row.gaps, row.pages, row.connections, row.seconds,
        row.cannot, row.loses,
    )  # fmt: skip


def _peer(world: World, name: str, case: Case, seed: int) -> Peer:
    stored = [*world.stored(case.stored), *case.extra(world)]
    peer = Peer(name, case, ScriptedRelay(case.behaviour, events=stored, seed=seed))
    peer.offer(world, stored)
    return peer


def _want_crowd(database: Path) -> None:
    """Followees that nobody has heard of, as if registered users had named them."""
    keys = [os.urandom(32) for _ in range(CROWD)]
    with open_database(database, SystemClock()) as opened, opened.write() as tx:
        wanted_authors.acquire(tx, Authors().intern_all(tx, keys), round(time() * 1000))


def _wait_asked(service: Run, timeout_s: float) -> dict[str, str]:
    """Return how each relay is asked once that is as it should be or the time is up; it may be after the last event."""
    expected = {peer.relay.url: CASES[peer.name][1] for peer in service.peers if peer.name in CASES}
    deadline = monotonic() + timeout_s
    while not expected.items() <= (asked := _asked(service.service.database)).items() and monotonic() < deadline:
        pause(_STEP_S)
    return asked


def _asked(database: Path) -> dict[str, str]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
        return dict(opened.execute(_ASKED).fetchall())
