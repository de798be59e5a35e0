"""What a relay means when it refuses: the many texts of many relays, as one of a few kinds.

The texts are those of `CLOSED` and `NOTICE` (NIP-01); prefixes are machine-readable where a relay gives them.
"""

import re
from enum import StrEnum

from pipeline.nostr.message import is_rate_limit


class Refusal(StrEnum):
    """Why a request did not come to its end; a metric label."""

    RATE_LIMITED = "rate-limited"
    TOO_MANY_SUBSCRIPTIONS = "too-many-subscriptions"
    TOO_MANY_FILTERS = "too-many-filters"
    TOO_LARGE = "too-large"
    AUTH_REQUIRED = "auth-required"
    RESTRICTED = "restricted"
    FORBIDDEN = "forbidden"
    """Restricted although we authenticated, which is final (NIP-42)."""
    KINDLESS = "kindless"
    """Some filter named no kinds; with kinds it may be answered."""
    AUTHORLESS = "authorless"
    """Some filter asked for notes without naming authors; for other kinds it may be answered."""
    SEARCH_ONLY = "search-only"
    UNSUPPORTED = "unsupported"
    ERROR = "error"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"

    @property
    def is_lasting(self) -> bool:
        """Whether asking the same again soon is pointless."""
        return self in (
            Refusal.AUTH_REQUIRED,
            Refusal.RESTRICTED,
            Refusal.FORBIDDEN,
            Refusal.SEARCH_ONLY,
            Refusal.UNSUPPORTED,
        )

    @property
    def asks_for_change(self) -> bool:
        """Whether the same may be had at once by a filter of another form, which is asked from now on."""
        return self in (Refusal.KINDLESS, Refusal.AUTHORLESS)


_SUBSCRIPTIONS = re.compile(r"too many (concurrent )?(reqs?\b|subscriptions|subs\b)|maximum concurrent subscription")
_FILTERS = re.compile(r"too many filters")
_TOO_LARGE = re.compile(
    r"too many filter items|filter items too large|message too large|exceeded max size|could not parse command"
    r"|too many things to filter|too large"
)
# khatru's policies against empty filters and against those who copy all notes.
_KINDLESS = re.compile(r"empty filters?\b|(?:without|must (?:have|name|specify)|requires?) (?:a |any )?kinds?\b")
_AUTHORLESS = re.compile(r"author must be specified|must specify an author")
_SEARCH_ONLY = re.compile(r"only filter with search is supported")
# A word about authors asks for no authentication.
_AUTH = re.compile(r"auth(?!ors?\b)")
_PREFIXES = {
    "auth-required": Refusal.AUTH_REQUIRED,
    "restricted": Refusal.RESTRICTED,
    "rate-limited": Refusal.RATE_LIMITED,
    "blocked": Refusal.RESTRICTED,
    "unsupported": Refusal.UNSUPPORTED,
    "invalid": Refusal.UNSUPPORTED,
}


def classify(text: str, prefix: str = "") -> Refusal:
    """The kind of refusal that `text`, whose machine-readable prefix is `prefix`, stands for."""
    lowered = text.lower()
    for pattern, refusal in (
        (_KINDLESS, Refusal.KINDLESS),
        (_AUTHORLESS, Refusal.AUTHORLESS),
        (_SUBSCRIPTIONS, Refusal.TOO_MANY_SUBSCRIPTIONS),
        (_FILTERS, Refusal.TOO_MANY_FILTERS),
        (_TOO_LARGE, Refusal.TOO_LARGE),
        (_SEARCH_ONLY, Refusal.SEARCH_ONLY),
    ):
        if pattern.search(lowered):
            return refusal
    if is_rate_limit(text):
        return Refusal.RATE_LIMITED
    if prefix in _PREFIXES:
        return _PREFIXES[prefix]
    if _AUTH.search(lowered):
        return Refusal.AUTH_REQUIRED
    return Refusal.UNSUPPORTED if "bad req" in lowered else Refusal.ERROR
