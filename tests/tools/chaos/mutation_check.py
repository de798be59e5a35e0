"""Mutation check: builds that lose events are caught. Run as `python -m tests.tools.chaos.mutation_check`.

Each mutant is a copy of the tree with one classical mistake in it. Exits with 1 if any passes unnoticed.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.child import ROOT
from tests.tools.chaos.patched_source import PatchedSource, Replacement
from tests.tools.chaos.run import Options, run

# What is lost does not come however long one waits.
_SETTLE_S = 5.0
_HURRY_S = 30.0


@dataclass(frozen=True, slots=True)
class Mutation:
    """A mistake in the source, and the faults that reveal it."""

    name: str
    replacements: Sequence[Replacement]
    kinds: tuple[str, ...]
    minutes: float


MUTATIONS = (
    Mutation(
        "acknowledged before it is published",
        [
            Replacement(
                "pipeline/delivery/batch_worker.py",
                "on_call(began)\n            verdicts, down = self._offer(batch)\n",
                "on_call(began)\n            from pipeline.sinks.base import DELIVERED\n"
                "            self.client.defer([(row, DELIVERED) for row in batch], 0.0)\n"
                "            self.client.settle(database)\n"
                "            verdicts, down = self._offer(batch)\n",
            )
        ],
        ("pubsub-down", "kill-forwarder", "die-before-settling"),
        0.6,
    ),
    Mutation(
        "cursor committed before the events that it covers",
        [
            Replacement(
                "pipeline/crawl/flow_control.py",
                "        self.flush()\n        now_ms = self._clock.now_ms()\n        self._waiting.append(Batch(",
                "        now_ms = self._clock.now_ms()\n        self._waiting.append(Batch(",
            ),
            Replacement(
                "pipeline/crawl/connection.py",
                "now + TELL_S)\n            self._batcher.flush()\n",
                "now + TELL_S)\n",
            ),
        ],
        ("die-after-cursor",),
        0.7,
    ),
    Mutation(
        "lossy filter in front of the exact look-up",
        [
            Replacement(
                "pipeline/crawl/ingester.py",
                "return event_id in self._ids",
                "return event_id[:2] in self._ids",
            ),
            Replacement(
                "pipeline/crawl/ingester.py",
                "ids.update(dict.fromkeys(event_ids))",
                "ids.update(dict.fromkeys(event_id[:2] for event_id in event_ids))",
            ),
        ],
        ("relays-drop", "flood"),
        0.3,
    ),
)


def main() -> int:
    """Run all of them, or those whose names contain the text given."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.chaos.mutation_check", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--source", type=Path, metavar="DIR", default=ROOT, help="damage copies of another checkout")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose names contain TEXT")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000, 2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    unnoticed = [
        mistake.name
        for mistake in MUTATIONS
        if options.only in mistake.name and not caught(mistake, seed, options.source)
    ]
    return 1 if unnoticed else 0


def caught(mistake: Mutation, seed: int, source: Path) -> bool:
    """Whether a run of the damaged build loses events, and is said to."""

    def damage(tree: PatchedSource) -> None:
        tree.replace(*mistake.replacements)

    what = Options(
        seed, mistake.minutes, mistake.kinds, _SETTLE_S, source=source, damage=damage, hurry_s=_HURRY_S, resweep=False
    )
    report = run(what, lambda _: None)
    lost = sum(len(sink.report.lost) for sink in report.sinks)
    print(f"{'caught' if lost else 'UNNOTICED'}: {mistake.name}: {lost} events lost", flush=True)
    if not lost:
        print(report.text(), flush=True)
    return lost > 0


if __name__ == "__main__":
    sys.exit(main())
