"""Mutation check of chaos over several hosts. Run as `python -m tests.tools.chaos.hub.mutation_check`.

Each mutant has one mistake that several hosts make possible. Exits with 1 if any passes unnoticed.
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.tools.chaos.hub.run import HubOptions, HubReport, run_hub
from tests.tools.chaos.patched_source import Replacement

_LEASE_S = 6.0
_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class HubMutation:
    """A mistake in the source, the faults that reveal it, and where the report must name it."""

    name: str
    replacements: Sequence[Replacement]
    kinds: tuple[str, ...]
    seen: Callable[[HubReport], Sequence[str]]


MUTATIONS = (
    HubMutation(
        "cursors handed over before their events",
        [
            Replacement(
                "pipeline/hub/uplink.py",
                "has_notes and not parcels.has_rows(tx)",
                "has_notes",
            )
        ],
        (),
        lambda report: report.cursor_violations,
    ),
    HubMutation(
        "relays asked by a host whose lease is over",
        [
            Replacement(
                "pipeline/crawl/fence.py", "asked_at + SAFE * max(0.0, lease_s))", "asked_at + max(3600.0, lease_s))"
            )
        ],
        ("freeze-uplink",),
        lambda report: report.ask_violations,
    ),
)


def main() -> int:
    """Run all of them, or those whose names contain the text given."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.chaos.hub.mutation_check", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose names contain TEXT")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000, 2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    unnoticed = [each.name for each in MUTATIONS if options.only in each.name and not caught(each, seed)]
    return 1 if unnoticed else 0


def caught(mistake: HubMutation, seed: int) -> bool:
    """Return True if a run of the damaged build says what is wrong."""
    report = run_hub(
        HubOptions(
            seed, kills=0, kinds=mistake.kinds, lease_s=_LEASE_S, settle_s=_SETTLE_S,
            damage=tuple(mistake.replacements),
        ),
        lambda _: None,
    )  # fmt: skip
    found = mistake.seen(report)
    print(f"{'caught' if found else 'UNNOTICED'}: {mistake.name}: {len(found)} violations", flush=True)
    print("\n".join(found[:3]) if found else report.text(), flush=True)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
