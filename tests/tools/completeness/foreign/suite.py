"""The relays of the registries through everything: alone and together, in two orders, capped, dense, late, delayed."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from tests.fakes.child import ChildFailed
from tests.tools.completeness.foreign.registry import RELAYS, Listed
from tests.tools.completeness.foreign.result import Result, table
from tests.tools.completeness.foreign.run import Plan, together
from tests.tools.completeness.foreign.shape import Order
from tests.tools.completeness.foreign.subject import RelayCommand

CAPS = (500, 100, 20)
_DELAY_S = 0.1
_USERS = 150
_BRIEF = ("backfill", "live")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Relays and how they are tried at once."""

    name: str
    commands: Sequence[RelayCommand]
    plan: Plan


def run(seed: int, plan: Plan, names: Collection[str] = (), keep: Path | None = None) -> list[Result]:
    """Play every scenario of the relays that are installed (of these `names`), telling how each ended."""
    listed = [relay for relay in RELAYS if not names or relay.name in names]
    for relay in listed:
        if not relay.is_installed:
            print(f"{relay.name} is left out: not installed (bin/peers)", flush=True)
    results: list[Result] = []
    for scenario in scenarios([relay for relay in listed if relay.is_installed], plan):
        began = monotonic()
        came = _played(scenario, seed, keep)
        for result in came:
            result.name = f"{result.name}: {scenario.name}"
        print(f"\n{scenario.name}, {monotonic() - began:.0f} s\n{table(came)}\n", flush=True)
        results += came
    return results


def _played(scenario: Scenario, seed: int, keep: Path | None) -> list[Result]:
    """What came of a scenario; a relay that does not start, or dies where nobody expects it, ends no other."""
    try:
        return together(scenario.commands, seed, scenario.plan, keep)
    except (ChildFailed, OSError) as error:
        return [Result(command.name, failure=f"{type(error).__name__}: {error}") for command in scenario.commands]


def scenarios(relays: Sequence[Listed], plan: Plan) -> Iterator[Scenario]:
    """All of them; the smaller worlds keep the whole from taking hours."""
    for relay in relays:
        yield from _alone(relay, plan)
    if len(relays) > 1:
        yield Scenario("together", [relay.variant() for relay in relays], plan)


def _alone(relay: Listed, plan: Plan) -> Iterator[Scenario]:
    shape = replace(plan.shape, events=plan.shape.events // 3)
    phases = [phase for phase in _BRIEF if phase in plan.phases]
    small = replace(plan, shape=shape, beside=True, phases=phases)
    yield Scenario("shuffled", [relay.variant()], replace(plan, beside=True))
    arrival = replace(shape, order=Order.ARRIVAL)
    yield Scenario("in order of arrival", [relay.variant()], replace(small, shape=arrival))
    yield Scenario(f"{_USERS} users", [relay.variant()], replace(small, shape=replace(shape, users=_USERS)))
    dense = replace(shape, dense=700, dense_author=300)
    yield Scenario("dense seconds", [relay.variant()], replace(small, shape=dense))
    yield Scenario(
        f"{_DELAY_S * 1000:.0f} ms away", [relay.variant()], replace(small, delay_s=_DELAY_S, phases=plan.phases)
    )
    if relay.cap:
        for cap in CAPS:
            yield Scenario("capped", [relay.variant(cap=cap)], small)
    if relay.strict:
        yield Scenario("strict", [relay.variant(strict=True)], small)
