"""Runs the whole service for a while, ending its processes over and over, and checks that all counts add up.

Throughout: for each stage, in = out + dropped, and what one stage handed on is what the next took and what is queued
between them, to the event; and no counter of /metrics ever goes down. In the end /metrics says what the database says,
and both what came to Pub/Sub and to the target relay.
"""

import argparse
import random
import sys
from pathlib import Path

from tests.tools.soak.run import RATE, run


def main() -> int:
    """One run; 1 when anything does not add up."""
    parser = argparse.ArgumentParser(
        prog="bin/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="how long (default 15)")
    parser.add_argument("--seed", type=int, help="what decides what happens when (default: a new one, printed)")
    parser.add_argument("--rate", type=float, default=RATE, help=f"events published a second (default {RATE:.0f})")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy the files of a failed run there")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000, 2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    report = run(seed, options.minutes, lambda line: print(line, flush=True), rate=options.rate, keep=options.keep)
    print(report.text(), flush=True)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
