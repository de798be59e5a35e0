"""Measures the service and its parts, each figure beside the limit that the machine sets.

V is bare signature verification: every unique event must be verified once, so V per core is what no design exceeds. It
is measured before each part, and all the time during it; figures are held against the latter. Y is a second yardstick,
a fixed plain program in Python with SQLite, since V alone does not carry from one processor to another; the column
"of Y" has the share with Y in the place of V. With --against, all parts run by turns with the product of another
revision, and the ratio of both is told with its spread. Timings never fail; what
is wrong is for readers to see. A part that could not measure says INVALID, and the exit code is 1. Beside each share
stands that of the last release, measured with --quick on whatever machine that was. Parts run in the order given below
whatever the order of names.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from tests.tools.bench import against, verification
from tests.tools.bench.calibration import BaselineSampler
from tests.tools.bench.machine import CORES
from tests.tools.bench.report import PartReport, held_against, shares, table, to_value

# Their modules are imported when they run: those that are not asked for may use functions that another revision lacks.
PARTS: Final = {
    "verify": "verification.run",
    "protocol": "protocol.run",
    "intake": "intake.run",
    "saver": "single_stage.run_saver",
    "forwarder": "single_stage.run_forwarder",
    "sender": "single_stage.run_sender",
    "duplicates": "duplicates.run",
    "relays": "relays.run",
    "scrape": "scrape.run",
    "service": "service.run",
    "latency": "latency.run",
    "trickle": "latency.run_trickle",
    "catch-up": "catch_up.run",
    "start": "startup.run",
    "firehose": "firehose.run",
    "fleet": "fleet.run",
    "outbox": "outbox.run",
    "import": "go_import.run",
    "disk": "disk.run",
    "growth": "growth.run",
    "hub": "hub.run",
    "hub-plan": "hub.run_plan",
}

# The best of short rounds in turn, bare verification among them.
_BEST_ROUNDS = ("verify", "protocol")

RELEASED = Path(__file__).with_name("baseline.json")


def main() -> int:
    """Run the parts asked for, print their tables, write JSON."""
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="shorter, and less exact")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--release", action="store_true", help=f"keep the shares in {RELEASED.name}, to compare with")
    parser.add_argument("--against", metavar="REVISION", help="compare with the product of this revision, by turns")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of --against; default: 5")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.against is not None:
        return _compare(options.parts, options.against, max(1, options.rounds), quick=options.quick)
    print(f"{CORES} cores, Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}", flush=True)
    reports: list[PartReport] = []
    released: dict[str, dict[str, float]] = json.loads(RELEASED.read_text())
    with BaselineSampler() as sampler:
        for name in [name for name in PARTS if not options.parts or name in options.parts]:
            began = time.monotonic()
            reports.append(_measured(name, sampler, quick=options.quick))
            print(table(reports[-1], released.get(reports[-1].part)), flush=True)
            print(f"   took {time.monotonic() - began:.0f} s", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"quick": options.quick, "parts": to_value(reports)}, indent=1) + "\n")
    if options.release:
        RELEASED.write_text(json.dumps(released | shares(reports), indent=1, sort_keys=True) + "\n")
    return 1 if any(report.invalid for report in reports) else 0


def _compare(parts: list[str], revision: str, rounds: int, *, quick: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="event-service-bench-against-") as name:
        directory = Path(name)
        other = directory / "tree"
        try:
            against.lay_out(revision, other)
        except against.NoSuchRevision as error:
            print(f"bin/bench: {error}", file=sys.stderr)
            return 2
        try:
            found = against.compare(parts, other, rounds, directory, quick=quick)
        except against.RunFailed as error:
            print(f"bin/bench: {error}", file=sys.stderr)
            return 1
    print(against.table(found, revision), flush=True)
    return 0 if found else 1


def _measured(name: str, sampler: BaselineSampler, *, quick: bool) -> PartReport:
    rate = verification.baseline_rate()
    sampler.begin()
    module, _, function = PARTS[name].partition(".")
    part: Callable[..., PartReport] = getattr(import_module(f"tests.tools.bench.{module}"), function)
    report = part(rate, quick=quick)
    during = sampler.rates()
    if during is None or name in _BEST_ROUNDS:
        return report
    return held_against(report, rate, during.verifications, during.plain_rows)


if __name__ == "__main__":
    sys.exit(main())
