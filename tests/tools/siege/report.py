"""What an attack must not bring about, and the table for a reader."""

from collections.abc import Sequence
from dataclasses import asdict
from math import isinf
from typing import Any

from tests.tools.siege.siege import Outcome

P99_S = 0.25
CRAWLER_BYTES = 150 << 20
AUTHOR_BYTES = 64
_MIB = 1 << 20


def broken(outcome: Outcome) -> list[str]:
    """Return the promises that were broken, whatever the machine was busy with."""
    costs = outcome.costs
    found = list(outcome.broken)
    if outcome.missing:
        found.append(f"{outcome.missing} of {outcome.events} honest events never came")
    if outcome.relays_connected < outcome.relays:
        found.append(f"{outcome.relays - outcome.relays_connected} honest relays are not connected")
    if outcome.accepted < outcome.registrations:
        found.append(f"{outcome.registrations - outcome.accepted} honest registrations were refused")
    if costs.crawler_bytes > (bound := CRAWLER_BYTES + AUTHOR_BYTES * costs.wanted_authors):
        found.append(f"a crawler had {costs.crawler_bytes // _MIB} MiB, more than {bound // _MIB}")
    if costs.disk_bytes > outcome.disk_mib * _MIB:
        found.append(f"the database grew by {costs.disk_bytes // _MIB} MiB, more than {outcome.disk_mib}")
    return found


def late(outcome: Outcome) -> list[str]:
    """Return what took too long, or broke off, which may be the machine's fault."""
    found = []
    if outcome.p99_s >= P99_S:
        found.append(f"p99 {_milliseconds(outcome.p99_s)} ms")
    if outcome.disconnections or outcome.costs.fewest_relays < outcome.relays:
        found.append(f"{outcome.disconnections} honest connections ended, {outcome.costs.fewest_relays} at the fewest")
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes for a reader."""
    heads = f"{'median':>7} {'p99 ms':>7} {'relays':>7} {'registered':>10} {'MiB':>4} {'disk':>5} {'CPU %':>6}"
    lines = [f"{'attack':<20} {'events':>6} {heads}  verdict"]
    for outcome in outcomes:
        costs = outcome.costs
        verdict = "; ".join([*broken(outcome), *late(outcome)]) or "good"
        lines.append(
            f"{outcome.name:<20} {outcome.events:>6} {_milliseconds(outcome.median_s):>7} "
            f"{_milliseconds(outcome.p99_s):>7} {f'{outcome.relays_connected}/{outcome.relays}':>7} "
            f"{f'{outcome.accepted}/{outcome.registrations}':>10} {costs.crawler_bytes // _MIB:>4} "
            f"{costs.disk_bytes // _MIB:>5} {100 * costs.cpu_s / max(costs.seconds, 0.1):>6.0f}  {verdict}"
        )
        lines += [f"{'':<20}   {name}: {text}" for name, text in outcome.notes.items()]
    return "\n".join(lines)


def as_value(outcome: Outcome) -> dict[str, Any]:
    """The outcome for JSON."""
    value = asdict(outcome) | {"broken": broken(outcome), "late": late(outcome)}
    return {name: None if isinstance(each, float) and isinf(each) else each for name, each in value.items()}


def _milliseconds(seconds: float) -> str:
    return "never" if isinf(seconds) else f"{1000 * seconds:.0f}"
