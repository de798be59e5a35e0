"""What relays hold and do not return, in words."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from pipeline.store.gaps import GapSummary, OpenGap

_MEANINGS: Final = {
    "dense-second": "it may hold more events of one second than it returns in one answer",
    "ignores-times": "it ignores since and until, so that nothing beyond its first answer can be requested",
    "hidden-kinds": "it leaves some kinds out of its answers, and there is too much to look for them everywhere",
    "holes": "it leaves events out where no kinds are named: it is asked by kinds, and those of no list may be missing",
    "withheld": "it shows direct messages and gift wraps (kinds 4, 1059) to those only whom they concern (NIP-42)",
    "unlisted-kinds": "it answers nothing to filters without kinds, so that kinds of no list may be missing",
    "notes-by-author": "it gives notes by named authors only, so that strangers' notes which mention users are missing",
    "no-broad-filters": "it answers filters that name authors, and returns nothing for broader ones",
    "no-eose": "it never said that it had sent all, so that it may hold more",
    "refused": "it refuses to be asked",
    "kinds-refused": "it refuses to be asked for some kinds, which are left out",
    "unanswered": "it was asked several times and has not answered to the end",
    "oversized": "it holds events that are too long to be read, which are skipped",
    "malformed": "it sends events that are malformed, which cannot be verified",
    "unfinished": "it has not been gone through for the first time yet, which is under way",
    "unchecked": "it refused to be asked by kinds for what it had nothing of without, or takes too few kinds at once",
}
_FORMS: Final = {
    "global": "profiles, contact and relay lists",
    "authors": "events by followed authors",
    "mentions": "events that mention users",
    "relay-lists": "relay lists of followed authors",
    "gift-wraps": "gift wraps for users",
    "profiles": "profiles of users",
    "whole": "all events",
    "*": "several requests",
}


def describe_reason(reason: str) -> str:
    """Return a reason in plain words."""
    return _MEANINGS.get(reason, reason)


def form_in_words(form: str) -> str:
    """Return what was asked for, with the chunk of keys that it is about."""
    subject, _, chunk = form.partition("/")
    words = _FORMS.get(subject, form)
    return f"{words} (chunk {chunk})" if chunk and words != form else words


def span(since: int, until: int) -> str:
    """Return a span of time (Unix seconds, both included) in words."""
    return f"at {_time(since)}" if since == until else f"from {_time(since)} to {_time(until)}"


def describe(gap: OpenGap | GapSummary) -> str:
    """Return what is missing and of when."""
    return f"{form_in_words(gap.form)} {span(gap.since, gap.until)}"


def by_relay(gaps: Iterable[GapSummary]) -> dict[str, dict[str, int]]:
    """Return how many gaps each relay has, by address and reason."""
    found: dict[str, dict[str, int]] = {}
    for gap in gaps:
        found.setdefault(gap.address, {})[gap.reason] = gap.count
    return found


def _time(seconds: int) -> str:
    if not 0 < seconds < 1 << 35:
        return "the beginning" if seconds <= 0 else "the end of time"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
