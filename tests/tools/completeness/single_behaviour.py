"""Each behaviour alone: a relay for each, with events that no other relay has."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import time

from tests.fakes.net import pause
from tests.fakes.relay import ScriptedRelay
from tests.tools.completeness.asked_again import asked_again_fault
from tests.tools.completeness.behaviours import HONEST_CASE, Case
from tests.tools.completeness.run import Peer, Row, Run
from tests.tools.completeness.world import World

_SETTLE_S = 5.0
_STEPS = 4
_STEP_S = 1.0
# So many times as long is waited for what takes minutes.
_SLOW_TIMES = 5


def run(cases: Mapping[str, Case], seed: int, timeout_s: float, *, keep: Path | None = None) -> list[Row]:
    """Play every case at once, with events before and during the run."""
    world = World.make(seed)
    peers = [_peer(world, name, case, seed) for name, case in cases.items()]
    # Contact lists come from a relay of its own: what is wanted must not hang on the behaviour that is measured.
    lists = Peer("(contact lists)", HONEST_CASE, ScriptedRelay(events=world.contact_lists))
    with tempfile.TemporaryDirectory(prefix="event-service-completeness-") as scratch:
        service = Run(keep or Path(scratch), world, [lists, *peers])
        began = time()
        with service.started():
            pause(_SETTLE_S)
            for _ in range(_STEPS):
                for peer in peers:
                    _arrive(world, peer)
                pause(_STEP_S)
            service.wait_complete(timeout_s * (_SLOW_TIMES if any(case.slow for case in cases.values()) else 1))
            rows = [
                replace(row, fault=asked_again_fault(peer.relay.journal))
                for row, peer in zip(service.rows(began)[1:], peers, strict=True)
            ]
            for peer in peers:
                _explain(world, peer, service.missing(peer))
            return rows


def _peer(world: World, name: str, case: Case, seed: int) -> Peer:
    stored = [*world.stored(case.stored), *case.extra(world)]
    arriving = case.arriving(world)
    peer = Peer(name, case, ScriptedRelay(case.behaviour, events=stored, seed=seed, arriving=arriving))
    peer.offer(world, [*stored, *arriving])
    return peer


def _arrive(world: World, peer: Peer) -> None:
    """Some events come to the relay live, some back-dated ones without a word."""
    live, late = world.fresh(6), world.stored(2)
    peer.relay.arrive()
    peer.relay.publish(*live)
    peer.relay.hold(late)
    peer.offer(world, [*live, *late])


def _explain(world: World, peer: Peer, missing: list[str]) -> None:
    """Say what is missing, for whoever has to find out why."""
    if missing and not peer.case.loses:
        by_id = {event.id: event for event in peer.relay.stored()}
        for event_id in missing[:3]:
            event = by_id[event_id]
            why = "author or mention" if world.is_by_wanted(event) else "kind"
            print(f"  {peer.name}: kind {event.kind} of {world.now - event.created_at} s before, wanted by {why}")
