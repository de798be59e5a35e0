"""What relays have and do not give, by the crawlers' counters, and what each reason means."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pipeline.process.counters import Counted, read_counters

COUNTER: Final = "event_service_crawl_gaps_total"
_MEANINGS: Final = {
    "dense-second": "it has more events of one second than it gives in one answer, so the rest cannot be had from it",
    "ignores-times": "it takes no notice of since and until, so that nothing beyond its first answer can be asked for",
    "hidden-kinds": "it leaves some kinds out of its answers, and there is too much to look for them everywhere",
    "unlisted-kinds": "it answers nothing to filters without kinds, so that kinds nobody thought of are missing",
    "notes-by-author": "it gives notes by named authors only, so that strangers' notes which mention users are missing",
    "no-broad-filters": "it answers filters that name authors, and gives nothing for broader ones without a word",
    "no-eose": "it never said that it had sent all, so that nobody can tell whether it had",
    "refused": "it refuses to be asked",
    "unanswered": "it was asked again and again and has not answered to the end",
}


def gaps_by_relay(runtime_directory: Path) -> dict[str, dict[str, int]]:
    """By address, how often a relay was found to have something that it does not give, by reason."""
    return by_relay(read_counters(runtime_directory, (COUNTER,)))


def by_relay(counters: Iterable[Counted]) -> dict[str, dict[str, int]]:
    """The same out of counters that were read already, among others."""
    found: dict[str, Counter[str]] = {}
    for each in counters:
        if each.name == COUNTER and each.value:
            found.setdefault(each.labels["address"], Counter())[each.labels["reason"]] += round(each.value)
    return {address: dict(counts.most_common()) for address, counts in found.items()}


def meaning(reason: str) -> str:
    """A reason in plain words."""
    return _MEANINGS.get(reason, reason)
