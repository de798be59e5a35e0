"""Runs the service as an operator does, breaks it in every way that production will, and judges what is delivered."""

import argparse
import json
import random
import sys
from pathlib import Path

from tests.fakes.child import ROOT
from tests.tools.chaos.faults import FAULTS
from tests.tools.chaos.hub import faults as hub_faults
from tests.tools.chaos.hub.installation import NoPostgres
from tests.tools.chaos.hub.run import KILLS, LEASE_S, SETTLE_S, HubOptions, run_hub
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
    parser.add_argument("--hub", action="store_true", help="break several hosts and the PostgreSQL between them")
    parser.add_argument("--kills", type=int, default=KILLS, help="with --hub: at least so many (%(default)s)")
    parser.add_argument("--hosts", type=int, default=3, choices=(2, 3), help="with --hub: that crawl (%(default)s)")
    parser.add_argument("--lease", type=float, default=LEASE_S, metavar="S", help="with --hub: of relays (%(default)s)")
    options = parser.parse_args()
    if options.hub:
        return _run_hub(parser, options)
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


def _run_hub(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    kinds = tuple((options.faults or ",".join(hub_faults.FAULTS)).split(","))
    if unknown := set(kinds) - set(hub_faults.FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(hub_faults.FAULTS)}")
    seed = random.SystemRandom().randrange(1_000, 2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    what = HubOptions(
        seed, options.kills, options.hosts, kinds, options.lease, options.settle or SETTLE_S, keep=options.keep,
        source=options.source,
    )  # fmt: skip
    try:
        report = run_hub(what, lambda line: print(line, flush=True))
    except NoPostgres as error:
        parser.error(str(error))
    print(report.text(), flush=True)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
