"""Faults of the relays that are crawled."""

from tests.factories.events import forge_content
from tests.fakes.behaviour import Behaviour, How, Interruption, Order, RateLimit, Refusal, Upgrade
from tests.tools.chaos.faults import Play, fault
from tests.tools.chaos.peers import ScriptedPeer
from tests.tools.chaos.scene import Scene
from tests.tools.completeness.catalogue import Catalogue

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


def _some(scene: Scene) -> list[ScriptedPeer]:
    peers = scene.world.scripted
    return scene.rng.sample(peers, scene.rng.randint(1, len(peers)))


@fault("relays-drop", RELAYS, weight=2)
def relays_drop(scene: Scene) -> Play:
    """Connections are reset, of one relay or of many."""
    for peer in _some(scene):
        peer.drop()
    yield 0.5


@fault("relays-restart", RELAYS, weight=2)
def relays_restart(scene: Scene) -> Play:
    """Relays go away and come back with what was published meanwhile."""
    peers = _some(scene)
    for peer in peers:
        peer.down()
    yield scene.rng.uniform(1.0, 5.0)
    for peer in peers:
        peer.up()


def _changes(scene: Scene) -> list[Behaviour]:
    forge_with = f"forged {scene.rng.random()}"
    times = scene.rng.randint(1, 6)
    return [
        Behaviour(eose=False),
        Behaviour(order=Order.SHUFFLED),
        Behaviour(copies=3),
        Behaviour(cap=scene.rng.choice((20, 50, 120))),
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
        Behaviour(interruption=Interruption(scene.rng.randint(0, 100), times=times)),
        Behaviour(interruption=Interruption(10, How.CLOSED, "error: timeout", times=times)),
        Behaviour(interruption=Interruption(10, How.ENDLESS_FRAME, times=1)),
        Behaviour(upgrade=Upgrade(502, times=1)),
    ]


@fault("relays-misbehave", RELAYS, weight=4)
def relays_misbehave(scene: Scene) -> Play:
    """Some relays behave in some new way for a while, most of them after their connections were reset."""
    changed = _some(scene)[:4]
    for peer in changed:
        peer.behave(peer.preset | scene.rng.choice(_changes(scene)))
        if scene.rng.random() < 0.7:
            peer.drop()
    yield scene.rng.uniform(3.0, 8.0)
    for peer in changed:
        peer.behave(peer.preset)


@fault("relays-of-all-kinds", RELAYS, weight=4)
def relays_of_all_kinds(scene: Scene) -> Play:
    """Some relays behave for a while as the completeness command has it, each otherwise.

    Not as those that hide events from everybody while they pretend to have given all: whoever asked them meanwhile has
    no reason to ask again.
    """
    cases = scene.rng.sample([item for item in Catalogue().cases.items() if item[1].gives_all], 4)
    changed = _some(scene)[:4]
    for peer, (name, case) in zip(changed, cases, strict=False):
        scene.behaviours.add(name)
        peer.behave(peer.preset | case.behaviour)
        if scene.rng.random() < 0.7:
            peer.drop()
    yield scene.rng.uniform(3.0, 8.0)
    for peer in changed:
        peer.behave(peer.preset)


@fault("relays-shout", RELAYS)
def relays_shout(scene: Scene) -> Play:
    """Junk to every client."""
    for peer in _some(scene):
        peer.shout(*(scene.rng.choice(_JUNK) for _ in range(20)))
    yield 0.5


@fault("flood", FLOOD)
def flood(scene: Scene) -> Play:
    """Ten times the load."""
    scene.world.flood = FLOOD_FACTOR
    yield scene.rng.uniform(4.0, 12.0)
    scene.world.flood = 1.0


@fault("flood-for-a-minute", FLOOD, weight=0.3, least_minutes=5.0)
def flood_for_a_minute(scene: Scene) -> Play:
    """Ten times the load, and whatever else comes meanwhile."""
    scene.world.flood = FLOOD_FACTOR
    yield 60.0
    scene.world.flood = 1.0


@fault("independent-freezes", INDEPENDENT)
def independent_freezes(scene: Scene) -> Play:
    """Its process stands still: connections stay, nothing comes."""
    scene.world.independent.freeze()
    yield scene.rng.uniform(2.0, 8.0)
    scene.world.independent.thaw()


@fault("independent-crashes", INDEPENDENT)
def independent_crashes(scene: Scene) -> Play:
    """Killed, and started again over the same files."""
    scene.world.independent.relay.kill()
    yield scene.rng.uniform(0.5, 4.0)
    scene.world.independent.relay.start()
