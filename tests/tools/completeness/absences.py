"""Relays that were away, and what lies further back than a first start reaches: had at once, not by the next resweep.

Late arrivals are looked for every six hours here, so that nothing comes by chance.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import time

from pipeline.crawl.reconnect import HEALTHY_S
from pipeline.process.clock import SystemClock
from pipeline.store import events as store_events
from pipeline.store import relay_candidates, relay_status, relays, wanted_authors
from pipeline.store.authors import Authors
from pipeline.store.events import Accepted
from pipeline.store.schema import open_database
from tests.factories.events import SignedEvent
from tests.fakes.behaviour import Behaviour, Upgrade
from tests.fakes.net import pause
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Other
from tests.fakes.relay_store import MemoryStore
from tests.fakes.tcp import TcpServer, say_nothing
from tests.tools.completeness.asked_again import asked_again_fault
from tests.tools.completeness.behaviours import DEMANDING, HONEST_CASE, BehaviourMatrix, Case
from tests.tools.completeness.run import Peer, Row, Run
from tests.tools.completeness.silences import Silences
from tests.tools.completeness.world import World

_HOUR_S, _DAY_S = 3600, 86_400
_SETTINGS = {"EVENTS_RESWEEP_EVERY": "6h"}
_AWAY_S = 8.0
_STORED = 120
_LIST_AGE_S = 30 * _HOUR_S
_AGAIN_S = 5.0
# What is younger is not compared.
_LAG_S = 900
# Numbers of events that none of the run gets.
_NUMBERED_FROM = 1 << 40


@dataclass(frozen=True, slots=True)
class Absence:
    """What comes to a relay while it is away. `forgets`: it comes back without what it had.

    `is_mute`: its host accepts connections all the while, and does not upgrade them.

    `returns` is what it does for once when it is back, `again`: it is lost once more soon after. `compares`: most of
    what it has is known before the start, and must be compared.
    """

    name: str
    comes: Callable[[World], list[SignedEvent]]
    case: Case = HONEST_CASE
    forgets: bool = False
    is_mute: bool = False
    returns: Upgrade | None = None
    again: bool = False
    compares: bool = False
    stored: int = _STORED


def _wraps(world: World) -> list[SignedEvent]:
    """Gift wraps for users, dated up to two days back (NIP-59)."""
    return [
        world.strangers[number % len(world.strangers)].sign(
            f"wrap {number}", kind=1059, created_at=world.now - 2 * _HOUR_S * number - 60,
            tags=[("p", world.users[number % len(world.users)].pubkey)],
        )
        for number in range(22)
    ]  # fmt: skip


ABSENCES = (
    Absence("away", lambda world: world.stored(60)),
    Absence("away-capped", lambda world: world.stored(60), Case(Behaviour(cap=20))),
    Absence("away-any-order", lambda world: world.stored(60), Case(Behaviour(cap=60, until_exclusive=True))),
    Absence("away-wraps", _wraps),
    Absence("away-other-store", lambda world: world.stored(_STORED), forgets=True),
    Absence("away-gateway", lambda world: world.stored(60), returns=Upgrade(502, times=2)),
    Absence("away-busy", lambda world: world.stored(60), returns=Upgrade(503, (("Retry-After", "5"),), times=1)),
    Absence("away-mute", lambda world: world.stored(60), is_mute=True),
    Absence("away-twice", lambda world: world.stored(60), again=True),
    Absence(
        "away-compared", lambda world: world.stored(20), Case(Behaviour(negentropy=True)), compares=True, stored=300
    ),
    *(Absence(f"away-{name}", lambda world: world.stored(60), BehaviourMatrix().cases[name]) for name in DEMANDING),
)


def run(seed: int, timeout_s: float, *, keep: Path | None = None) -> list[Row]:
    """Play all at once; the time of a row counts from the return of the relays."""
    world = World.make(seed)
    away = [_peer(world, each.name, each.case, world.stored(each.stored)) for each in ABSENCES]
    followed, listed = _peer(world, "list-date", HONEST_CASE, []), _peer(world, "relay-lists", HONEST_CASE, [])
    lists = Peer("(contact lists)", HONEST_CASE, ScriptedRelay(events=world.contact_lists))
    _hold(listed, [_relay_list(world, number) for number in range(20)])
    silences = Silences(world)
    with tempfile.TemporaryDirectory(prefix="event-service-completeness-") as scratch:
        service = Run(keep or Path(scratch), world, [lists, *away, followed, listed, *silences.peers], _SETTINGS)
        _crawl_since(service, followed, world.now - 3 * _DAY_S)
        _know(service, world, away)
        with service.started():
            silences.begin()
            # The loss of a younger connection counts as one that failed.
            pause(HEALTHY_S + 2.0)
            _be_away(world, away)
            returned, asked = time(), {peer.name: _comparisons(peer) for peer in away}
            silences.end()
            _follow_stranger(world, lists, followed)
            _be_away_again(world, away)
            service.wait_complete(timeout_s)
            compared = {peer.name for peer in away if _comparisons(peer) > asked[peer.name]}
            wrong = {each.name: "not compared" for each in ABSENCES if each.compares and each.name not in compared}
            rows = service.rows(returned)[1:]
            wrong |= {peer.name: fault for peer in away if (fault := asked_again_fault(peer.relay.journal))}
            return [replace(row, fault=wrong.get(row.name) or silences.fault(service, row.name)) for row in rows]


def _peer(world: World, name: str, case: Case, stored: Sequence[SignedEvent]) -> Peer:
    peer = Peer(name, case, ScriptedRelay(case.behaviour, events=stored))
    peer.offer(world, stored)
    return peer


def _comparisons(peer: Peer) -> int:
    """How often the relay was asked to compare sets (NIP-77)."""
    return sum(other.label == "NEG-OPEN" for other in peer.relay.journal.of(Other))


def _know(service: Run, world: World, peers: Sequence[Peer]) -> None:
    """Let what relays have that compare sets be known from others, and its authors be wanted before the start."""
    known = [
        event
        for peer, absence in zip(peers, ABSENCES, strict=True)
        if absence.compares
        for event in peer.relay.stored()
        if world.is_by_wanted_author(event) and event.created_at < world.now - _LAG_S
    ]
    numbers, now = Authors(), world.now * 1000
    with open_database(service.service.database, SystemClock()) as database, database.write() as tx:
        authors = {event.pubkey: numbers.intern(tx, bytes.fromhex(event.pubkey)) for event in known}
        wanted_authors.acquire(tx, authors.values(), now)
        rows = [
            Accepted(
                _NUMBERED_FROM + number, bytes.fromhex(event.id), event.created_at, event.kind,
                authors[event.pubkey], b"", 1, now, 0,
            )
            for number, event in enumerate(known)
        ]  # fmt: skip
        store_events.accept(tx, rows, now)


def _crawl_since(service: Run, peer: Peer, since: int) -> None:
    """Let a relay be one that was crawled long before somebody is followed."""
    service.service.directory.mkdir(parents=True, exist_ok=True)
    with open_database(service.service.database, SystemClock()) as database, database.write() as tx:
        relays.set_bootstrap(tx, [peer.address], since * 1000)
        relay_status.start_crawling(
            tx, [each.relay for each in relay_candidates.candidates(tx, discovered=False, limit=1)], since * 1000
        )


def _hold(peer: Peer, events: Sequence[SignedEvent]) -> None:
    """Give it events that must come although they lie beyond what a world's events do."""
    peer.relay.hold(events)
    peer.due |= {event.id: time() for event in events}


def _be_away(world: World, peers: Sequence[Peer]) -> None:
    for peer in peers:
        peer.relay.stop()
    for peer, absence in zip(peers, ABSENCES, strict=True):
        if absence.forgets:
            peer.relay.store = MemoryStore()
        if absence.returns is not None:
            peer.relay.behaviour = absence.case.behaviour | Behaviour(upgrade=absence.returns)
        _arrive(world, peer, absence.comes(world))
    with ExitStack() as stack:
        for peer, absence in zip(peers, ABSENCES, strict=True):
            if absence.is_mute:
                host, _, port = peer.relay.url.removeprefix("ws://").partition(":")
                stack.enter_context(TcpServer(say_nothing, address=host, port=int(port)))
        pause(_AWAY_S)
    for peer in peers:
        peer.relay.start()


def _be_away_again(world: World, peers: Sequence[Peer]) -> None:
    """Lose some once more, as soon as they are being swept for what they were away for."""
    again = [peer for peer, absence in zip(peers, ABSENCES, strict=True) if absence.again]
    for peer in again:
        peer.relay.stop()
        # Live ones, as back-dated ones are owed for an hour then.
        _arrive(world, peer, [world.event(int(time())) for _ in range(30)])
    pause(_AGAIN_S)
    for peer in again:
        peer.relay.start()


def _arrive(world: World, peer: Peer, events: Sequence[SignedEvent]) -> None:
    peer.relay.hold(events)
    peer.offer(world, events)


def _follow_stranger(world: World, lists: Peer, followed: Peer) -> None:
    """A user's list that is thirty hours old arrives; what the new followee wrote since just before it is due."""
    user, stranger = world.users[0], world.strangers[0]
    mine = [author.pubkey for author in world.followees[0 :: len(world.users)]]
    notes = [stranger.sign(f"{n}", created_at=world.now - _LIST_AGE_S - 600 + n * _HOUR_S) for n in range(31)]
    _hold(followed, notes)
    lists.relay.publish(user.contact_list([*mine, stranger], world.now - _LIST_AGE_S))


def _relay_list(world: World, number: int) -> SignedEvent:
    """A followee's relay list of more than a year ago."""
    return world.followees[number].sign(
        kind=10002, created_at=world.now - 400 * _DAY_S - number, tags=[("r", "wss://relay.example.com")]
    )
