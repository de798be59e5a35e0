"""What share of the wanted events the crawler gets from relays of every kind, and whether it knows what it misses.

Recall is counted over what a patient client would be given. Where a relay makes that impossible for any client, the
service has to report it. Exit code 1 when something is missing that was not reported.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from tests.tools.completeness import (
    absences,
    deployment,
    independent,
    latency,
    negentropy,
    over_capacity,
    random_mix,
    single_behaviour,
)
from tests.tools.completeness.behaviours import BehaviourMatrix
from tests.tools.completeness.foreign import options as foreign_options
from tests.tools.completeness.foreign import run as foreign
from tests.tools.completeness.foreign import suite
from tests.tools.completeness.foreign.result import Result, as_value
from tests.tools.completeness.foreign.result import table as foreign_table
from tests.tools.completeness.run import Row, table

_DEFAULT_PARTS = "single,mixed,over-capacity,independent,latency"


def main() -> int:
    """Run the parts asked for, print their tables, write JSON."""
    parser = _parser()
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    if options.relay:
        results = _relays(parser, options)
        value, is_good = {"foreign": _values(results)}, all(result.is_good for result in results)
    else:
        value, is_good = _parts(parser, options)
    if options.json is not None:
        options.json.write_text(json.dumps({"seed": options.seed} | value, indent=1) + "\n")
    return 0 if is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bin/completeness", description=__doc__)
    parser.add_argument("--behaviours", metavar="A,B", help=f"only these: {', '.join(BehaviourMatrix().cases)}")
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--timeout", type=float, default=240.0, metavar="S", help="longest wait of each part")
    parser.add_argument(
        "--parts", default=_DEFAULT_PARTS, metavar="A,B",
        help="default: %(default)s; also: absences, deployment, hour, negentropy, foreign",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows to FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave database and log there")
    foreign_options.add_arguments(parser)
    return parser


def _relays(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Result]:
    """Crawl the relays that `--relay` names."""
    plan = foreign_options.plan_of(parser, options)
    play = foreign.together if options.together else foreign.alone
    results = play(options.relay, options.seed, plan, options.keep)
    print(foreign_table(results), flush=True)
    return results


def _parts(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Run the parts that were chosen; what came of them for JSON, and whether all is well."""
    try:
        cases = BehaviourMatrix().choose(options.behaviours, slow=not options.quick)
    except KeyError as error:
        parser.error(f"no such behaviour: {error}")
    seed, timeout = options.seed, options.timeout
    parts: dict[str, Callable[[], list[Row]]] = {
        "single": lambda: single_behaviour.run(cases, seed, timeout, keep=options.keep),
        "absences": lambda: absences.run(seed, timeout, keep=options.keep),
        "deployment": lambda: deployment.run(seed, timeout, keep=options.keep),
        "mixed": lambda: random_mix.run(BehaviourMatrix(), seed, timeout, keep=options.keep),
        "over-capacity": lambda: over_capacity.run(seed, timeout, keep=options.keep),
        "independent": lambda: independent.run(seed, timeout, events=5_000, cap=20),
        "hour": lambda: independent.run(seed, 4 * timeout, events=100_000, cap=20),
    }
    chosen = ["single"] if options.behaviours else options.parts.split(",")
    if unknown := set(chosen) - {*parts, "latency", "negentropy", "foreign"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    plan = foreign_options.plan_of(parser, options)
    rows = {name: _played(name, play) for name, play in parts.items() if name in chosen}
    timing = latency.run(seed) if "latency" in chosen else None
    saving = negentropy.run(seed, timeout) if "negentropy" in chosen else None
    for each in (timing, saving):
        if each is not None:
            print(f"\n{each.text()}", flush=True)
    results = suite.run(seed, plan, _names(options.peers), options.keep) if "foreign" in chosen else []
    value = {
        "parts": {name: [asdict(row) for row in part] for name, part in rows.items()},
        "latency": None if timing is None else asdict(timing),
        "negentropy": None if saving is None else asdict(saving),
        "foreign": _values(results),
    }
    good = [row.is_good for part in rows.values() for row in part] + [result.is_good for result in results]
    return value, all(good) and (saving is None or saving.is_good)


def _played(name: str, play: Callable[[], list[Row]]) -> list[Row]:
    began = monotonic()
    rows = play()
    print(f"\n{name}, {monotonic() - began:.0f} s\n{table(rows)}", flush=True)
    return rows


def _names(text: str) -> Collection[str]:
    return [name for name in text.split(",") if name]


def _values(results: Sequence[Result]) -> list[dict[str, object]]:
    return [as_value(result) for result in results]


if __name__ == "__main__":
    sys.exit(main())
