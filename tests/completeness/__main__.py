"""What share of the wanted events the crawler gets from relays of every kind, and whether it knows what it misses.

Recall is counted over what a patient client would be given. Where a relay makes that impossible for any client, the
service has to report it. Exit code 1 when something is missing that was not reported.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from tests.completeness import alone, crowded, independent, latency, mixed, negentropy
from tests.completeness.catalogue import Catalogue
from tests.completeness.foreign import options as foreign_options
from tests.completeness.foreign import run as foreign
from tests.completeness.foreign.result import table as foreign_table
from tests.completeness.run import Row, table


def main() -> int:
    """Run the parts asked for, print their tables, write JSON."""
    parser = argparse.ArgumentParser(prog="bin/completeness", description=__doc__)
    parser.add_argument("--behaviours", metavar="A,B", help=f"only these: {', '.join(Catalogue().cases)}")
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--timeout", type=float, default=240.0, metavar="S", help="longest wait of each part")
    parser.add_argument(
        "--parts",
        default="alone,mixed,crowded,independent,latency",
        metavar="A,B",
        help="default: %(default)s; also: hour, negentropy",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows to FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave database and log there")
    foreign_options.add_arguments(parser)
    options = parser.parse_args()
    if options.relay:
        return _try_relays(parser, options)
    try:
        cases = Catalogue().choose(options.behaviours, slow=not options.quick)
    except KeyError as error:
        parser.error(f"no such behaviour: {error}")
    print(f"seed {options.seed}", flush=True)
    seed, timeout = options.seed, options.timeout
    parts: dict[str, Callable[[], list[Row]]] = {
        "alone": lambda: alone.run(cases, seed, timeout, keep=options.keep),
        "mixed": lambda: mixed.run(Catalogue(), seed, timeout, keep=options.keep),
        "crowded": lambda: crowded.run(seed, timeout, keep=options.keep),
        "independent": lambda: independent.run(seed, timeout, events=5_000, cap=20),
        "hour": lambda: independent.run(seed, 4 * timeout, events=100_000, cap=20),
    }
    chosen = ["alone"] if options.behaviours else options.parts.split(",")
    if unknown := set(chosen) - {*parts, "latency", "negentropy"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    rows: dict[str, list[Row]] = {}
    for name in [name for name in parts if name in chosen]:
        began = monotonic()
        rows[name] = parts[name]()
        print(f"\n{name}, {monotonic() - began:.0f} s\n{table(rows[name])}", flush=True)
    timing = latency.run(seed) if "latency" in chosen else None
    if timing is not None:
        print(f"\n{timing.text()}", flush=True)
    saving = negentropy.run(seed, timeout) if "negentropy" in chosen else None
    if saving is not None:
        print(f"\n{saving.text()}", flush=True)
    if options.json is not None:
        value = {
            "seed": seed,
            "parts": {name: [asdict(row) for row in part] for name, part in rows.items()},
            "latency": None if timing is None else asdict(timing),
            "negentropy": None if saving is None else asdict(saving),
        }
        options.json.write_text(json.dumps(value, indent=1) + "\n")
    is_good = all(row.is_good for part in rows.values() for row in part) and (saving is None or saving.is_good)
    return 0 if is_good else 1


def _try_relays(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Crawl the relays that `--relay` names and nothing else."""
    try:
        plan = foreign_options.plan_of(options)
    except ValueError as error:
        parser.error(str(error))
    print(f"seed {options.seed}", flush=True)
    play = foreign.together if options.together else foreign.alone
    results = play(options.relay, options.seed, plan, options.keep)
    print(foreign_table(results), flush=True)
    if options.json is not None:
        value = {"seed": options.seed, "foreign": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(value, indent=1) + "\n")
    return 0 if all(result.is_good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
