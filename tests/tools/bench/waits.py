"""What the stages waited for and how long they held the write lock, from their own metrics, second by second."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.fakes.scrape import Scrape
from tests.tools.bench.report import Figure

_WAITED = "event_service_stage_waited_seconds_total"
_HELD = "event_service_write_lock_held_seconds_total"
_WRITES = "event_service_write_transactions_total"
# Shorter waits are not worth a line.
_LEAST_PERCENT = 0.5


@dataclass(frozen=True, slots=True)
class WaitSample:
    """Seconds so far, by stage and what they went by; transactions so far, by stage."""

    at: float
    seconds: Mapping[tuple[str, str], float]
    writes: Mapping[str, float]

    @classmethod
    def of(cls, scrape: Scrape, at: float) -> "WaitSample":
        """Those of a scrape, made at a monotonic time."""
        waited = scrape.samples(_WAITED)
        seconds = {(each.labels["stage"], f"waited for {each.labels['reason']}"): each.value for each in waited}
        held = {(each.labels["stage"], "held the write lock"): each.value for each in scrape.samples(_HELD)}
        writes = {each.labels["stage"]: each.value for each in scrape.samples(_WRITES)}
        return cls(at, seconds | held, writes)


def wait_figures(samples: Sequence[WaitSample]) -> list[Figure]:
    """The shares of the time by stage, over all samples and in the worst span between two.

    Of several processes and threads, added up: two that wait all the time are 200 %.
    """
    first, last = samples[0], samples[-1]
    elapsed = last.at - first.at
    figures = []
    for key in sorted(last.seconds):
        stage, what = key
        percent = _percent(key, first, last)
        if percent >= _LEAST_PERCENT:
            worst = max(_percent(key, a, b) for a, b in itertools.pairwise(samples))
            figures.append(Figure(f"{stage} {what}", percent, "% of the time", note=f"at most {worst:.0f}"))
    for stage, count in sorted(last.writes.items()):
        made = count - first.writes.get(stage, 0.0)
        if made:
            figures.append(Figure(f"{stage} transactions", made / elapsed, "/s", note=_each(stage, made, first, last)))
    return figures


def timeline(samples: Sequence[WaitSample]) -> Iterable[str]:
    """A line for each span between two samples, with all that took a hundredth of it."""
    for a, b in itertools.pairwise(samples):
        parts = [f"{' '.join(key)} {percent:.0f}" for key in sorted(b.seconds) if (percent := _percent(key, a, b)) >= 1]
        yield f"{b.at - samples[0].at:5.1f} s: {', '.join(parts)} (% of the time)"


def _percent(key: tuple[str, str], a: WaitSample, b: WaitSample) -> float:
    return 100 * (b.seconds.get(key, 0.0) - a.seconds.get(key, 0.0)) / (b.at - a.at)


def _each(stage: str, made: float, first: WaitSample, last: WaitSample) -> str:
    key = stage, "held the write lock"
    held = last.seconds.get(key, 0.0) - first.seconds.get(key, 0.0)
    return f"{1000 * held / made:.2f} ms each under the lock"
