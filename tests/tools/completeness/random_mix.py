"""Twenty relays with behaviours put together at random and contents that overlap, drops, restarts and late arrivals."""

import random
import signal
import tempfile
from pathlib import Path
from time import time

from tests.factories.events import SignedEvent
from tests.fakes.behaviour import Behaviour
from tests.fakes.net import pause
from tests.fakes.relay import ScriptedRelay
from tests.tools.completeness.behaviours import HONEST_CASE, BehaviourMatrix, Case
from tests.tools.completeness.run import Peer, Row, Run
from tests.tools.completeness.world import World

RELAYS = 20
STORED = 2_500
MAX_TOGETHER = 3
MAX_HOLDERS = 4
_STEPS = 12
_STEP_S = 1.5
# Behaviours that make each other's promise hollow: what one lets a patient client have, the other takes away.
_ALONE = frozenset(
    {"nostr-rs", "silent-refusal", "ignores-until", "dense-author", "frame-6000", "items-50", "auth-restricted"}
)


def run(matrix: BehaviourMatrix, seed: int, timeout_s: float, *, keep: Path | None = None) -> list[Row]:
    """Play it; the same seed mixes the same."""
    world = World.make(seed)
    rng = random.Random(seed)
    peers = [_peer(matrix, rng, seed + number) for number in range(RELAYS)]
    _hand_out(world, rng, peers, world.stored(STORED))
    lists = Peer("(contact lists)", HONEST_CASE, ScriptedRelay(events=world.contact_lists))
    with tempfile.TemporaryDirectory(prefix="event-service-completeness-") as scratch:
        service = Run(keep or Path(scratch), world, [lists, *peers])
        began = time()
        with service.started():
            for step in range(_STEPS):
                pause(_STEP_S)
                _hand_out(world, rng, peers, world.fresh(60), live=rng.random() < 0.7)
                _disturb(rng, service, step)
            service.wait_complete(timeout_s)
            return service.rows(began)[1:]


def _peer(matrix: BehaviourMatrix, rng: random.Random, seed: int) -> Peer:
    names = [name for name, case in matrix.cases.items() if not case.slow and name not in _ALONE]
    chosen = sorted(rng.sample(names, rng.randint(1, MAX_TOGETHER)))
    cases = [matrix.cases[name] for name in chosen]
    behaviour = Behaviour()
    for case in cases:
        behaviour |= case.behaviour
    together = Case(
        behaviour,
        given=lambda world, event: all(case.given(world, event) for case in cases),
        # Without the events that bring it out, nothing is out of reach.
        cannot=any(case.cannot and not case.needs_extra for case in cases),
        loses=any(case.loses for case in cases),
    )
    return Peer("+".join(chosen), together, ScriptedRelay(behaviour, seed=seed))


def _hand_out(
    world: World, rng: random.Random, peers: list[Peer], events: list[SignedEvent], *, live: bool = False
) -> None:
    """Give each event to some relays, to all at once or without a word."""
    parts: list[list[SignedEvent]] = [[] for _ in peers]
    for event in events:
        for number in rng.sample(range(len(peers)), rng.randint(1, MAX_HOLDERS)):
            parts[number].append(event)
    for peer, part in zip(peers, parts, strict=True):
        if live:
            peer.relay.publish(*part)
        else:
            peer.relay.hold(part)
        peer.offer(world, part)


def _disturb(rng: random.Random, run: Run, step: int) -> None:
    """Cut connections; now and then kill a crawler, or the whole service, and start it again."""
    for peer in rng.sample(run.peers, 3):
        peer.relay.drop()
    if step == _STEPS // 3:
        rng.choice(run.service.stages("crawler")).signal(signal.SIGKILL)
    elif step == _STEPS // 2:
        run.service.stop()
        run.service.start()
    elif step == _STEPS * 3 // 4:
        peer = rng.choice(run.peers)
        peer.relay.stop()
        peer.relay.start()
