"""Measures the service and its parts, each figure beside the limit that the machine sets.

V is bare signature verification: every unique event must be verified once, so V per core is what no design exceeds. It
is measured before each part, and all the time during it; figures are held against the latter. Timings never fail; what
is wrong is for readers to see. A part that could not measure says INVALID, and the exit code is 1. Beside each share
stands that of the last release, measured with --quick on whatever machine that was. Parts run in the order given below
whatever the order of names.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.tools.bench import (
    disk,
    duplicates,
    firehose,
    fleet,
    go_import,
    growth,
    intake,
    latency,
    outbox,
    protocol,
    relays,
    scrape,
    service,
    single_stage,
    startup,
    verification,
)
from tests.tools.bench.calibration import BaselineSampler
from tests.tools.bench.machine import CORES
from tests.tools.bench.report import PartReport, held_against, shares, table, to_value

PARTS: dict[str, Callable[..., PartReport]] = {
    "verify": verification.run,
    "protocol": protocol.run,
    "intake": intake.run,
    "saver": single_stage.run_saver,
    "forwarder": single_stage.run_forwarder,
    "sender": single_stage.run_sender,
    "duplicates": duplicates.run,
    "relays": relays.run,
    "scrape": scrape.run,
    "service": service.run,
    "latency": latency.run,
    "start": startup.run,
    "firehose": firehose.run,
    "fleet": fleet.run,
    "outbox": outbox.run,
    "import": go_import.run,
    "disk": disk.run,
    "growth": growth.run,
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
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
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


def _measured(name: str, sampler: BaselineSampler, *, quick: bool) -> PartReport:
    rate = verification.baseline_rate()
    sampler.begin()
    report = PARTS[name](rate, quick=quick)
    during = sampler.rate()
    return report if during is None or name in _BEST_ROUNDS else held_against(report, rate, during)


if __name__ == "__main__":
    sys.exit(main())
