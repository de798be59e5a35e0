"""Faults of what the service hands events on to."""

import time
from collections.abc import Sequence

from tests.fakes.behaviour import HONEST, Behaviour, OkRule, RateLimit, Upgrade
from tests.fakes.pubsub_rules import Rule
from tests.tools.chaos.faults import Play, fault
from tests.tools.chaos.harness import ChaosHarness
from tests.tools.chaos.health_oracle import SinkStatus
from tests.tools.chaos.queues import PUBSUB, RELAY

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


def _outage_s(harness: ChaosHarness) -> float:
    """For how long a sink is down: some moments, or so long that health must tell, as whenever all else is well."""
    is_long = harness.is_alone or harness.rng.random() < _LONG_SHARE
    return harness.rng.uniform(*(_LONG_S if is_long else _SHORT_S))


@fault("pubsub-down", PUBSUB_SUBJECT)
def pubsub_down(harness: ChaosHarness) -> Play:
    """Killed, and back at the same address."""
    with harness.sink_is(PUBSUB, SinkStatus.DOWN):
        with harness.frozen(harness.stages("forwarder")):
            harness.allow_in_flight(PUBSUB)
            harness.environment.pubsub.kill()
        yield _outage_s(harness)
        harness.environment.pubsub.start()


def _misbehave(
    harness: ChaosHarness, rules: Sequence[Rule], seconds: float, standing: SinkStatus = SinkStatus.ODD
) -> Play:
    with harness.sink_is(PUBSUB, standing):
        harness.environment.pubsub.set_rules(*rules)
        yield seconds
        harness.environment.pubsub.set_rules()


@fault("pubsub-slow", PUBSUB_SUBJECT)
def pubsub_slow(harness: ChaosHarness) -> Play:
    """Each call takes seconds, but none so many that it is given up."""
    yield from _misbehave(harness, [Rule(delay_s=harness.rng.uniform(0.5, 6.0))], harness.rng.uniform(4.0, 9.0))


@fault("pubsub-refusing", PUBSUB_SUBJECT)
def pubsub_refusing(harness: ChaosHarness) -> Play:
    """All or some calls fail."""
    rule = Rule(status=harness.rng.choice(_STATUSES), every=harness.rng.choice((1, 1, 2, 3)))
    is_down = rule.every == 1
    yield from _misbehave(harness, [rule], _outage_s(harness), SinkStatus.DOWN if is_down else SinkStatus.ODD)


@fault("pubsub-refusing-everything", PUBSUB_SUBJECT)
def pubsub_refusing_everything(harness: ChaosHarness) -> Play:
    """A schema that fits no event: each is refused as if it were at fault, and none is buried for it."""
    yield from _misbehave(harness, [Rule(status="INVALID_ARGUMENT")], _outage_s(harness), SinkStatus.DOWN)


@fault("pubsub-lying", PUBSUB_SUBJECT)
def pubsub_lying(harness: ChaosHarness) -> Play:
    """Messages are taken, and refused."""
    began = time.time()
    rule = Rule(status=harness.rng.choice(_STATUSES), store=True, every=harness.rng.choice((1, 2)))
    yield from _misbehave(harness, [rule], harness.rng.uniform(1.0, 5.0))
    harness.allowance.unreliable_periods.append((PUBSUB, began, time.time() + _LIE_SLACK_S))


@fault("pubsub-hanging", PUBSUB_SUBJECT, least_minutes=1.5)
def pubsub_hanging(harness: ChaosHarness) -> Play:
    """Some calls are never answered, whether their messages were taken or not."""
    began = time.time()
    rules = [Rule(hang=True, store=harness.rng.random() < 0.5, times=3)]
    yield from _misbehave(harness, rules, harness.rng.uniform(2.0, 6.0))
    harness.allowance.unreliable_periods.append((PUBSUB, began, time.time() + _LIE_SLACK_S))


@fault("target-down", TARGET)
def target_down(harness: ChaosHarness) -> Play:
    """Gone, and back at the same address."""
    with harness.sink_is(RELAY, SinkStatus.DOWN):
        harness.environment.target.stop()
        yield _outage_s(harness)
        harness.environment.target.start()


def _behave(harness: ChaosHarness, behaviour: Behaviour, seconds: float, standing: SinkStatus = SinkStatus.ODD) -> Play:
    with harness.sink_is(RELAY, standing):
        harness.environment.target.behave(behaviour)
        yield seconds
        harness.environment.target.behave(HONEST)


@fault("target-lying", TARGET)
def target_lying(harness: ChaosHarness) -> Play:
    """Some events are taken without an answer, taken and refused, or answered by a reset."""
    rules = (
        OkRule(accepted=False, reason="error: could not connect to the database", store=True, times=_FEW),
        OkRule(accepted=False, reason="error: shutting down", times=_FEW),
        OkRule(reset=True, store=True, times=1),
        OkRule(reset=True, times=1),
    )
    yield from _behave(harness, Behaviour(ok_rules=(harness.rng.choice(rules),)), harness.rng.uniform(2.0, 6.0))


@fault("target-silent", TARGET, least_minutes=1.5)
def target_silent(harness: ChaosHarness) -> Play:
    """Some events get no answer, taken or not."""
    rule = OkRule(answer=False, store=harness.rng.random() < 0.5, times=3)
    yield from _behave(harness, Behaviour(ok_rules=(rule,)), harness.rng.uniform(2.0, 6.0))


@fault("target-slow", TARGET)
def target_slow(harness: ChaosHarness) -> Play:
    """Answers take their time."""
    rule = OkRule(accepted=True, store=True, delay_s=harness.rng.uniform(0.1, 0.8), times=10)
    yield from _behave(harness, Behaviour(ok_rules=(rule,)), harness.rng.uniform(2.0, 6.0))


@fault("target-rate-limiting", TARGET)
def target_rate_limiting(harness: ChaosHarness) -> Play:
    """Some events are refused for being too many, or answered with a NOTICE that names none."""
    if harness.rng.random() < 0.6:
        rule = OkRule(accepted=False, reason="rate-limited: slow down", times=_FEW)
        behaviour = Behaviour(ok_rules=(rule,))
    else:
        behaviour = Behaviour(rate=RateLimit(per_s=2, burst=5))
    yield from _behave(harness, behaviour, harness.rng.uniform(2.0, 4.0))


@fault("target-shut", TARGET)
def target_shut(harness: ChaosHarness) -> Play:
    """Its proxy says that it is not there."""
    harness.environment.target.behave(shut := Behaviour(upgrade=Upgrade(503)))
    harness.environment.target.drop()
    yield from _behave(harness, shut, _outage_s(harness), SinkStatus.DOWN)
