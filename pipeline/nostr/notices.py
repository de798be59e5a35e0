"""What relays say in prose: the prefix of a reason, and the sense of a notice."""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final

PREFIXES: Final = frozenset(
    {
        "auth-required",
        "blocked",
        "closed",
        "deleted",
        "duplicate",
        "error",
        "invalid",
        "mute",
        "pow",
        "rate-limited",
        "replaced",
        "restricted",
        "unsupported",
    }
)
"""The machine-readable words before the colon of a reason (NIP-01, NIP-42, strfry); a closed set."""

_ERROR: Final = re.compile(r"\s*error:\s*", re.IGNORECASE)
_WORD: Final = re.compile(r"\s*([A-Za-z][A-Za-z-]{1,15}):")

_RATE_LIMIT: Final = re.compile(r"rate.?limit|too fast|too many (?:concurrent|requests)|noting too much")
_CONCURRENCY_LIMIT: Final = re.compile(
    r"too many concurrent|too many subscriptions|too many open filters|maximum concurrent subscription"
)
_TOO_LARGE: Final = re.compile(
    r"could not parse command|message too large|event exceeded max size|total filter items too large"
    r"|too many filters|too many things to filter"
)


class NoticeType(StrEnum):
    """The sense of a notice; the values are labels of the metric `notice_type_total`."""

    EMPTY = "EMPTY"
    ONLY_WITH_SEARCH = "ONLY_WITH_SEARCH"
    RATE_LIMIT = "RATE_LIMIT"
    AUTH_REQUIRED = "AUTH_REQUIRED"
    UNKNOWN_FEED = "UNKNOWN_FEED"
    INVALID = "INVALID"
    UNKNOWN_ERROR = "UNKNOWN_ERROR"
    UNKNOWN = "UNKNOWN"


def reason_prefix(reason: str) -> str:
    """Return the prefix of a CLOSED, OK or NEG-ERR reason, one of `PREFIXES` in lowercase, or "" without one.

    strfry puts `ERROR: ` before everything, so the word behind it counts, and `error` only if there is none.
    """
    error = _ERROR.match(reason)
    word = _WORD.match(reason, error.end() if error else 0)
    prefix = word[1].lower() if word else ""
    if prefix in PREFIXES:
        return prefix
    return "error" if error else ""


def classify_notice(text: str) -> NoticeType:
    """Return the sense of a notice's text, whatever its case; of several the first in the order of `NoticeType`."""
    text = text.strip().lower()
    return next((kind for kind, holds in _NOTICES if holds(text)), NoticeType.UNKNOWN)


def is_rate_limit(text: str) -> bool:
    """Return True if a notice or reason asks for fewer requests: back off from the host; no answer will come."""
    text = text.lower()
    return _RATE_LIMIT.search(text) is not None or _in_order(text, "slow", "down")


def is_concurrency_limit(text: str) -> bool:
    """Return True if a notice or reason says that too many subscriptions are open: the newest one died."""
    return _CONCURRENCY_LIMIT.search(text.lower()) is not None


def is_too_large(text: str) -> bool:
    """Return True if a notice or reason says that a request was too large: halve its lists."""
    return _TOO_LARGE.search(text.lower()) is not None


def _in_order(text: str, first: str, second: str) -> bool:
    """Return True if one line of `text` has `second` after `first`: what `first.*second` finds, but in linear time."""
    return any(0 <= line.find(first) <= line.rfind(second) - len(first) for line in text.split("\n"))


# In the order in which dashboards and alerts have always counted them.
_NOTICES: Final[tuple[tuple[NoticeType, Callable[[str], bool]], ...]] = (
    (NoticeType.EMPTY, lambda text: not text),
    (NoticeType.ONLY_WITH_SEARCH, lambda text: text.endswith("only filter with search is supported")),
    (
        NoticeType.RATE_LIMIT,
        lambda text: _in_order(text, "rate", "limit") or "too fast" in text or _in_order(text, "slow", "down"),
    ),
    (NoticeType.AUTH_REQUIRED, lambda text: "auth" in text),
    (NoticeType.UNKNOWN_FEED, lambda text: _in_order(text, "unknown", "feed")),
    (NoticeType.INVALID, lambda text: "invalid" in text),
    (NoticeType.UNKNOWN_ERROR, lambda text: "error" in text),
)
