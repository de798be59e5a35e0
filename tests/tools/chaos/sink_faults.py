"""Faults of what the service hands events on to."""

import time
from collections.abc import Sequence

from tests.fakes.behaviour import HONEST, Behaviour, OkRule, RateLimit, Upgrade
from tests.fakes.pubsub_rules import Rule
from tests.tools.chaos.faults import Play, fault
from tests.tools.chaos.queues import PUBSUB, RELAY
from tests.tools.chaos.scene import Scene
from tests.tools.chaos.sink_truth import Standing

PUBSUB_SUBJECT = "Pub/Sub"
TARGET = "target relay"
# Statuses that say nothing about the messages.
_STATUSES = (
    "UNAVAILABLE",
    "INTERNAL",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "RESOURCE_EXHAUSTED",
    "PERMISSION_DENIED",
    "NOT_FOUND",
    "UNAUTHENTICATED",
    "UNKNOWN",
)
# A batch recorded this shortly after a lie's end may have been chosen for it before.
_LIE_SLACK_S = 0.5
# Rows that failed alone wait three times longer each time, so few are made to.
_FEW = 8
_SHORT_S = (2.0, 8.0)
# Health has ten seconds to tell, and is looked at some times more.
_LONG_S = (14.0, 18.0)
_LONG_SHARE = 0.4


def _outage_s(scene: Scene) -> float:
    """For how long a sink is down: some moments, or so long that health must tell, as whenever all else is well."""
    is_long = scene.is_alone or scene.rng.random() < _LONG_SHARE
    return scene.rng.uniform(*(_LONG_S if is_long else _SHORT_S))


@fault("pubsub-down", PUBSUB_SUBJECT)
def pubsub_down(scene: Scene) -> Play:
    """Killed, and back at the same address."""
    with scene.sink_is(PUBSUB, Standing.DOWN):
        with scene.frozen(scene.stages("forwarder")):
            scene.allow_in_flight(PUBSUB)
            scene.world.pubsub.kill()
        yield _outage_s(scene)
        scene.world.pubsub.start()


def _misbehave(scene: Scene, rules: Sequence[Rule], seconds: float, standing: Standing = Standing.ODD) -> Play:
    with scene.sink_is(PUBSUB, standing):
        scene.world.pubsub.set_rules(*rules)
        yield seconds
        scene.world.pubsub.set_rules()


@fault("pubsub-slow", PUBSUB_SUBJECT)
def pubsub_slow(scene: Scene) -> Play:
    """Each call takes seconds, but none so many that it is given up."""
    yield from _misbehave(scene, [Rule(delay_s=scene.rng.uniform(0.5, 6.0))], scene.rng.uniform(4.0, 9.0))


@fault("pubsub-refusing", PUBSUB_SUBJECT)
def pubsub_refusing(scene: Scene) -> Play:
    """All or some calls fail."""
    rule = Rule(status=scene.rng.choice(_STATUSES), every=scene.rng.choice((1, 1, 2, 3)))
    is_down = rule.every == 1
    yield from _misbehave(scene, [rule], _outage_s(scene), Standing.DOWN if is_down else Standing.ODD)


@fault("pubsub-refusing-everything", PUBSUB_SUBJECT)
def pubsub_refusing_everything(scene: Scene) -> Play:
    """A schema that fits no event: each is refused as if it were at fault, and none is buried for it."""
    yield from _misbehave(scene, [Rule(status="INVALID_ARGUMENT")], _outage_s(scene), Standing.DOWN)


@fault("pubsub-lying", PUBSUB_SUBJECT)
def pubsub_lying(scene: Scene) -> Play:
    """Messages are taken, and refused."""
    began = time.time()
    rule = Rule(status=scene.rng.choice(_STATUSES), store=True, every=scene.rng.choice((1, 2)))
    yield from _misbehave(scene, [rule], scene.rng.uniform(1.0, 5.0))
    scene.allowance.lies.append((PUBSUB, began, time.time() + _LIE_SLACK_S))


@fault("pubsub-hanging", PUBSUB_SUBJECT, least_minutes=1.5)
def pubsub_hanging(scene: Scene) -> Play:
    """Some calls are never answered, whether their messages were taken or not."""
    began = time.time()
    rules = [Rule(hang=True, store=scene.rng.random() < 0.5, times=3)]
    yield from _misbehave(scene, rules, scene.rng.uniform(2.0, 6.0))
    scene.allowance.lies.append((PUBSUB, began, time.time() + _LIE_SLACK_S))


@fault("target-down", TARGET)
def target_down(scene: Scene) -> Play:
    """Gone, and back at the same address."""
    with scene.sink_is(RELAY, Standing.DOWN):
        scene.world.target.stop()
        yield _outage_s(scene)
        scene.world.target.start()


def _behave(scene: Scene, behaviour: Behaviour, seconds: float, standing: Standing = Standing.ODD) -> Play:
    with scene.sink_is(RELAY, standing):
        scene.world.target.behave(behaviour)
        yield seconds
        scene.world.target.behave(HONEST)


@fault("target-lying", TARGET)
def target_lying(scene: Scene) -> Play:
    """Some events are taken without an answer, taken and refused, or answered by a reset."""
    rules = (
        OkRule(accepted=False, reason="error: could not connect to the database", store=True, times=_FEW),
        OkRule(accepted=False, reason="error: shutting down", times=_FEW),
        OkRule(reset=True, store=True, times=1),
        OkRule(reset=True, times=1),
    )
    yield from _behave(scene, Behaviour(ok_rules=(scene.rng.choice(rules),)), scene.rng.uniform(2.0, 6.0))


@fault("target-silent", TARGET, least_minutes=1.5)
def target_silent(scene: Scene) -> Play:
    """Some events get no answer, taken or not."""
    rule = OkRule(answer=False, store=scene.rng.random() < 0.5, times=3)
    yield from _behave(scene, Behaviour(ok_rules=(rule,)), scene.rng.uniform(2.0, 6.0))


@fault("target-slow", TARGET)
def target_slow(scene: Scene) -> Play:
    """Answers take their time."""
    rule = OkRule(accepted=True, store=True, delay_s=scene.rng.uniform(0.1, 0.8), times=10)
    yield from _behave(scene, Behaviour(ok_rules=(rule,)), scene.rng.uniform(2.0, 6.0))


@fault("target-rate-limiting", TARGET)
def target_rate_limiting(scene: Scene) -> Play:
    """Some events are refused for being too many, or answered with a NOTICE that names none."""
    if scene.rng.random() < 0.6:
        rule = OkRule(accepted=False, reason="rate-limited: slow down", times=_FEW)
        behaviour = Behaviour(ok_rules=(rule,))
    else:
        behaviour = Behaviour(rate=RateLimit(per_s=2, burst=5))
    yield from _behave(scene, behaviour, scene.rng.uniform(2.0, 4.0))


@fault("target-shut", TARGET)
def target_shut(scene: Scene) -> Play:
    """Its proxy says that it is not there."""
    scene.world.target.behave(shut := Behaviour(upgrade=Upgrade(503)))
    scene.world.target.drop()
    yield from _behave(scene, shut, _outage_s(scene), Standing.DOWN)
