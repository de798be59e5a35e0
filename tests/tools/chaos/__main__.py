"""Runs the service as an operator does, breaks it in every way that production will, and judges what is delivered."""

import argparse
import json
import random
import sys
from pathlib import Path

from tests.fakes.child import ROOT
from tests.tools.chaos.faults import FAULTS
from tests.tools.chaos.run import SHORT_MINUTES, Options, run


def main() -> int:
    """One run; 1 when any verdict is not as it must be."""
    parser = argparse.ArgumentParser(prog="bin/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults are injected (default 10)")
    parser.add_argument("--seed", type=int, help="what decides which fault comes when (default: a new one, printed)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write everything as JSON to FILE")
    parser.add_argument("--faults", metavar="A,B", help="only these kinds; `list` prints all of them")
    parser.add_argument("--settle", type=float, metavar="S", help="wait at most S seconds for what is due at the end")
    parser.add_argument("--second-sink", action="store_true", help="deliver to a file too, beside Pub/Sub")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy all files of a failed run there")
    parser.add_argument("--source", type=Path, metavar="DIR", default=ROOT, help="run the service of another checkout")
    options = parser.parse_args()
    if options.faults == "list":
        print("\n".join(sorted(FAULTS)))
        return 0
    kinds = tuple(options.faults.split(",")) if options.faults else ()
    if unknown := set(kinds) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    seed = random.SystemRandom().randrange(1_000, 2**31) if options.seed is None else options.seed
    settle_s = options.settle if options.settle is not None else 60.0 if options.minutes <= SHORT_MINUTES else 240.0
    print(f"seed {seed}", flush=True)
    what = Options(
        seed, options.minutes, kinds, settle_s, second_sink=options.second_sink, keep=options.keep,
        source=options.source,
    )  # fmt: skip
    report = run(what, lambda line: print(line, flush=True))
    print(report.text(), flush=True)
    if options.report is not None:
        options.report.write_text(json.dumps(report.to_value(), indent=1) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
