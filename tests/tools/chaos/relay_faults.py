"""Faults of the relays that are crawled."""

from tests.factories.events import forge_content
from tests.fakes.behaviour import Behaviour, How, Interruption, Order, RateLimit, Refusal, Upgrade
from tests.tools.chaos.faults import Play, fault
from tests.tools.chaos.harness import ChaosHarness
from tests.tools.chaos.peers import ScriptedPeer
from tests.tools.completeness.behaviours import BehaviourMatrix

RELAYS = "relays"
FLOOD = "flood"
INDEPENDENT = "independent relay"
FLOOD_FACTOR = 10.0
_JUNK = (
    '["NOTICE","rate limited"]',
    "not JSON",
    '["EVENT","x",{"id":1}]',
    '["EOSE"]',
    "[]",
    '["CLOSED","unknown","error: x"]',
)


def _some(harness: ChaosHarness) -> list[ScriptedPeer]:
    peers = harness.environment.scripted
    return harness.rng.sample(peers, harness.rng.randint(1, len(peers)))


@fault("relays-drop", RELAYS, weight=2)
def relays_drop(harness: ChaosHarness) -> Play:
    """Connections are reset, of one relay or of many."""
    for peer in _some(harness):
        peer.drop()
    yield 0.5


@fault("relays-restart", RELAYS, weight=2)
def relays_restart(harness: ChaosHarness) -> Play:
    """Relays go away and come back with what was published meanwhile."""
    peers = _some(harness)
    for peer in peers:
        peer.down()
    yield harness.rng.uniform(1.0, 5.0)
    for peer in peers:
        peer.up()


def _changes(harness: ChaosHarness) -> list[Behaviour]:
    forge_with = f"forged {harness.rng.random()}"
    times = harness.rng.randint(1, 6)
    return [
        Behaviour(eose=False),
        Behaviour(order=Order.SHUFFLED),
        Behaviour(copies=3),
        Behaviour(cap=harness.rng.choice((20, 50, 120))),
        Behaviour(answer_delay_s=1.0),
        Behaviour(eose_delay_s=3.0),
        Behaviour(event_delay_s=0.002),
        Behaviour(live=False),
        Behaviour(live_loses_every=2),
        Behaviour(live_ignores_times=True),
        Behaviour(deaf=True),
        Behaviour(ignore_pings=True),
        Behaviour(forge=lambda event: forge_content(event, forge_with)),
        Behaviour(garbage=_JUNK),
        Behaviour(fragment_bytes=100),
        Behaviour(close_every_messages=7),
        Behaviour(rate=RateLimit(per_s=1, burst=3)),
        Behaviour(refusals=(Refusal(How.CLOSED, "error: internal", times=times),)),
        Behaviour(refusals=(Refusal(How.CLOSED, "rate-limited: slow down", times=times),)),
        Behaviour(refusals=(Refusal(How.NOTICE, "ERROR: too many concurrent REQs", times=times),)),
        Behaviour(refusals=(Refusal(How.SILENT, times=times),)),
        Behaviour(refusals=(Refusal(How.RESET, times=times),)),
        Behaviour(interruption=Interruption(harness.rng.randint(0, 100), times=times)),
        Behaviour(interruption=Interruption(10, How.CLOSED, "error: timeout", times=times)),
        Behaviour(interruption=Interruption(10, How.ENDLESS_FRAME, times=1)),
        Behaviour(upgrade=Upgrade(502, times=1)),
    ]


@fault("relays-misbehave", RELAYS, weight=4)
def relays_misbehave(harness: ChaosHarness) -> Play:
    """Some relays behave in some new way for a while, most of them after their connections were reset."""
    changed = _some(harness)[:4]
    for peer in changed:
        peer.behave(peer.preset | harness.rng.choice(_changes(harness)))
        if harness.rng.random() < 0.7:
            peer.drop()
    yield harness.rng.uniform(3.0, 8.0)
    for peer in changed:
        peer.behave(peer.preset)


@fault("relays-of-all-kinds", RELAYS, weight=4)
def relays_of_all_kinds(harness: ChaosHarness) -> Play:
    """Some relays behave for a while as the completeness command has it, each otherwise.

    Not as those that hide events from everybody while they pretend to have given all: whoever asked them meanwhile has
    no reason to ask again.
    """
    cases = harness.rng.sample([item for item in BehaviourMatrix().cases.items() if item[1].gives_all], 4)
    changed = _some(harness)[:4]
    for peer, (name, case) in zip(changed, cases, strict=False):
        harness.behaviours.add(name)
        peer.behave(peer.preset | case.behaviour)
        if harness.rng.random() < 0.7:
            peer.drop()
    yield harness.rng.uniform(3.0, 8.0)
    for peer in changed:
        peer.behave(peer.preset)


@fault("relays-shout", RELAYS)
def relays_shout(harness: ChaosHarness) -> Play:
    """Junk to every client."""
    for peer in _some(harness):
        peer.shout(*(harness.rng.choice(_JUNK) for _ in range(20)))
    yield 0.5


@fault("flood", FLOOD)
def flood(harness: ChaosHarness) -> Play:
    """Ten times the load."""
    harness.environment.flood = FLOOD_FACTOR
    yield harness.rng.uniform(4.0, 12.0)
    harness.environment.flood = 1.0


@fault("flood-for-a-minute", FLOOD, weight=0.3, least_minutes=5.0)
def flood_for_a_minute(harness: ChaosHarness) -> Play:
    """Ten times the load, and whatever else comes meanwhile."""
    harness.environment.flood = FLOOD_FACTOR
    yield 60.0
    harness.environment.flood = 1.0


@fault("independent-freezes", INDEPENDENT)
def independent_freezes(harness: ChaosHarness) -> Play:
    """Its process stands still: connections stay, nothing comes."""
    harness.environment.independent.freeze()
    yield harness.rng.uniform(2.0, 8.0)
    harness.environment.independent.thaw()


@fault("independent-crashes", INDEPENDENT)
def independent_crashes(harness: ChaosHarness) -> Play:
    """Killed, and started again over the same files."""
    harness.environment.independent.relay.kill()
    yield harness.rng.uniform(0.5, 4.0)
    harness.environment.independent.relay.start()
