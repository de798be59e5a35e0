"""What a relay means when it refuses: the many texts of many relays, as one of a few kinds.

The texts are those of `CLOSED` and `NOTICE` (NIP-01); prefixes are machine-readable where a relay gives them. All that
are known stand in `pipeline/docs/nostr-relays.md`, with the relays that say so.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pipeline.nostr.event import MAX_KIND
from pipeline.nostr.message import is_rate_limit
from pipeline.nostr.notices import reason_prefix
from pipeline.relay.dimensions import Dimension

# Longer texts say nothing more, and patterns are not to be tried on megabytes.
_MAX_TEXT: Final = 1_000
_MAX_NUMBER: Final = 2**31


class RelayRefusal(StrEnum):
    """Why a request did not come to its end; a metric label."""

    RATE_LIMITED = "rate-limited"
    TOO_MANY_SUBSCRIPTIONS = "too-many-subscriptions"
    TOO_MANY_FILTERS = "too-many-filters"
    TOO_LARGE = "too-large"
    """Too much of another dimension, or of one that the relay does not name."""
    KIND_REFUSED = "kind-refused"
    """Some kinds, which the relay names, are not to be asked for."""
    ZERO_LIMIT = "zero-limit"
    """`limit: 0` is refused."""
    AUTH_REQUIRED = "auth-required"
    RESTRICTED = "restricted"
    FORBIDDEN = "forbidden"
    """Restricted although we authenticated, which is final (NIP-42)."""
    KINDLESS = "kindless"
    """Some filter named no kinds; with kinds it may be answered."""
    AUTHORLESS = "authorless"
    """Some filter asked for notes without naming authors; for other kinds it may be answered."""
    WITHHELD = "withheld"
    """Some filter selects messages that are not for us; for other kinds it may be answered."""
    SEARCH_ONLY = "search-only"
    PAYMENT = "payment"
    UNSUPPORTED = "unsupported"
    UNCLEAR = "unclear"
    """Of several requests one was refused, and it was not said which: this one may not be meant."""
    ERROR = "error"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"

    @property
    def is_lasting(self) -> bool:
        """Whether asking the same again soon is pointless."""
        return self in _LASTING

    @property
    def asks_for_change(self) -> bool:
        """Whether the same may be had at once by a filter of another form, which is asked from now on."""
        return self in _OTHER_FORM

    @property
    def asks_for_less(self) -> bool:
        """Whether the same may be had at once by smaller or fewer requests."""
        return self in (RelayRefusal.TOO_LARGE, RelayRefusal.TOO_MANY_FILTERS, RelayRefusal.TOO_MANY_SUBSCRIPTIONS)

    @property
    def may_be_of_size(self) -> bool:
        """Whether a request that is refused so for good may be answered when it asks for less."""
        return self in (RelayRefusal.RESTRICTED, RelayRefusal.UNSUPPORTED)


_LASTING: Final = frozenset(
    {
        RelayRefusal.AUTH_REQUIRED,
        RelayRefusal.RESTRICTED,
        RelayRefusal.FORBIDDEN,
        RelayRefusal.SEARCH_ONLY,
        RelayRefusal.PAYMENT,
        RelayRefusal.UNSUPPORTED,
    }
)
_OTHER_FORM: Final = frozenset(
    {
        RelayRefusal.KINDLESS,
        RelayRefusal.AUTHORLESS,
        RelayRefusal.KIND_REFUSED,
        RelayRefusal.ZERO_LIMIT,
        RelayRefusal.WITHHELD,
    }
)


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a text says: of which dimension there was too much, how much is allowed, and how much there was.

    `kinds`: those that are refused by name; `filter`: which filter of the request is meant, the first is 0;
    `is_default`: the text names no number, and `most` is what such a relay allows where its operator set nothing else.
    """

    refusal: RelayRefusal
    dimension: Dimension | None = None
    most: int | None = None
    asked: int | None = None
    kinds: tuple[int, ...] = ()
    filter: int | None = None
    is_default: bool = False

    def __str__(self) -> str:
        """The complaint as the documents name it."""
        named = "" if self.dimension is None else " " + self.dimension.name.lower().replace("_", "-")
        bound = "" if self.most is None else f" ≤ {self.most}"
        return f"{self.refusal}{named}{bound}" + "".join(f" {kind}" for kind in self.kinds)


_NUMBER = r"(\d{1,12})"
_AT_MOST = r"(?:less th[ae]n or equal to|less or equal to|at most|no more than|up to|max(?:imum)?(?: of| is)?|limit is)"
_WHAT: Final[dict[str, Dimension]] = {
    "kinds": Dimension.KINDS,
    "authors": Dimension.AUTHORS,
    "ids": Dimension.IDS,
    "event ids": Dimension.IDS,
    "tagvalues": Dimension.TAG_VALUES,
    "tag values": Dimension.TAG_VALUES,
    "tags": Dimension.TAG_FILTERS,
    "tag filters": Dimension.TAG_FILTERS,
    "filters": Dimension.FILTERS,
    "subscriptions": Dimension.SUBSCRIPTIONS,
}
_THINGS = "|".join(sorted(_WHAT, key=len, reverse=True))
_FIELDS: Final[dict[str, Dimension]] = {
    "max_filters": Dimension.FILTERS,
    "max_subscriptions": Dimension.SUBSCRIPTIONS,
    "max_subid_length": Dimension.ID_LENGTH,
    "max_message_length": Dimension.FRAME_BYTES,
    "max_limit": Dimension.LIMIT,
    "max_kinds": Dimension.KINDS,
    "max_authors": Dimension.AUTHORS,
    "max_ids": Dimension.IDS,
    "max_tag_values": Dimension.TAG_VALUES,
}
# A number that the relay names, of a thing that it names; then a thing that there was too much of.
_BOUNDED: Final = (
    re.compile(rf"{_AT_MOST}:? {_NUMBER} (?P<what>{_THINGS})\b"),
    re.compile(rf"too many (?P<what>{_THINGS})\b.{{0,80}}?(?:{_AT_MOST}|\(max|limit:?)[ :]*{_NUMBER}"),
    re.compile(rf"number of (?P<what>{_THINGS})\b.{{0,40}}?{_AT_MOST} {_NUMBER}"),
)
_TOO_MANY: Final = re.compile(rf"too many (?:concurrent |open |unique )?(?P<what>{_THINGS})\b")
_FOUND: Final = re.compile(rf"too many (?P<what>{_THINGS})\b[^:]{{0,40}}: {_NUMBER}")
_FIELD: Final = re.compile(rf"\b({'|'.join(_FIELDS)})\b\W{{0,3}}{_NUMBER}")
_PATH: Final = re.compile(r"at \"\[(\d{1,3})\]")
_KINDS: Final = re.compile(r"\bkinds? (?:not allowed: ?([\d, ]{1,400})|([\d, ]{1,400}) (?:is |are )?not allowed)")
# Some relays bound the bytes of all that is open together; as each is as long as may be, fewer fit.
_SUBSCRIPTIONS: Final = re.compile(
    r"too many (?:concurrent )?(?:reqs?\b|subscriptions|subs\b)|too many open filters|maximum concurrent subscription"
    r"|number of subscriptions exceeds|active subscriptions exceed"
    rf"|\bat max(?:imum)? sub(?:scription)?s\b(?:\W{{1,3}}{_NUMBER})?"
)
_FILTERS: Final = re.compile(
    rf"too many filters|arr too big|invalid number of filters|exceeds max filter count(?: {_NUMBER})?"
)
_TAG_FILTERS: Final = re.compile(r"too many tags in filter")
_BYTES: Final = re.compile(
    r"message too large|exceeded max size|max payload size exceeded|payload reached size limit|frame too (?:large|big)"
)
_BYTES_NAMED: Final = re.compile(rf"message too large \({_NUMBER} ?> ?{_NUMBER}\)")
_ID_LENGTH: Final = re.compile(
    rf"subscription ?(?:id|identifier)\b.{{0,60}}?(?:too long|length)(?:.{{0,80}}?\b{_NUMBER}\b)?"
    rf"|{_AT_MOST} {_NUMBER} char[a-z]* at \"\[1\]"
)
_ONE_MEMBER: Final = re.compile(r"exactly one author")
_LIMIT: Final = re.compile(
    r"\blimit\"? (?:must be (?:less than(?: or equal to)?|at most)|cannot exceed|exceeds|too (?:high|large|big))"
    rf"(?:\D{{1,20}})?{_NUMBER}?"
)
_ZERO: Final = re.compile(r"\blimit\"? must be (?:greater|larger|more|at least|a positive|positive|>|between 1)")
_SCRAPER: Final = re.compile(r"\berror: scraper\b|scrapers are not allowed")
_SCRAPER_LIMIT: Final = 100
_TOO_LARGE: Final = re.compile(
    r"too many filter items|filter items too large|could not parse command|too many things to filter|too large"
)
_DIMENSIONS: Final = (
    (Dimension.SUBSCRIPTIONS, _SUBSCRIPTIONS),
    (Dimension.FILTERS, _FILTERS),
    (Dimension.TAG_FILTERS, _TAG_FILTERS),
    (Dimension.FRAME_BYTES, _BYTES),
    (Dimension.ID_LENGTH, _ID_LENGTH),
    (Dimension.LIMIT, _LIMIT),
)
# khatru's policies against empty filters and against those who copy all notes.
_KINDLESS: Final = re.compile(r"empty filters?\b|(?:without|must (?:have|name|specify)|requires?) (?:a |any )?kinds?\b")
_AUTHORLESS: Final = re.compile(r"author must be specified|must specify an author")
_SEARCH_ONLY: Final = re.compile(r"only filter with search is supported")
_PAYMENT: Final = re.compile(r"\bpay(?:ment)?\b|\bpaid\b|\bnot admitted\b|insufficient balance")
# chorus, of a filter that selects direct messages among others: after all that it shows, or instead of an answer.
_LEFT_OUT: Final = re.compile(r"matching event requires auth")
_WITHHELD: Final = re.compile(rf"{_LEFT_OUT.pattern}|dm kinds were included")
# A word about authors asks for no authentication.
_AUTH: Final = re.compile(r"auth(?!ors?\b)")
_NOT_ACCEPTED: Final = re.compile(r"filters? (?:are|is) not accepted|filter validation failed|invalid filter|bad req\b")
_PREFIXES: Final = {
    "auth-required": RelayRefusal.AUTH_REQUIRED,
    "restricted": RelayRefusal.RESTRICTED,
    "rate-limited": RelayRefusal.RATE_LIMITED,
    "blocked": RelayRefusal.RESTRICTED,
    "unsupported": RelayRefusal.UNSUPPORTED,
    "invalid": RelayRefusal.UNSUPPORTED,
}


def classify(text: str, prefix: str = "") -> RelayRefusal:
    """The kind of refusal that `text`, whose machine-readable prefix is `prefix`, stands for."""
    return read(text, prefix).refusal


def read(text: str, prefix: str | None = None) -> Complaint:
    """What `text` says, whose machine-readable prefix is `prefix`, or is found here."""
    prefix = reason_prefix(text) if prefix is None else prefix
    lowered = text[:_MAX_TEXT].lower()
    path = _PATH.search(lowered)
    index = int(path[1]) - 2 if path is not None and int(path[1]) >= 2 else None
    complaint = _of_form(lowered) or _of_size(lowered) or Complaint(_by_prefix(lowered, prefix))
    return replace(complaint, filter=index)


def is_withheld(text: str) -> bool:
    """Return True if `text` asks for AUTH for the sake of some of the events that were asked for."""
    return _WITHHELD.search(text[:_MAX_TEXT].lower()) is not None


def is_left_out(text: str) -> bool:
    """Return True if `text` says that of the events which match some were left out, for the lack of AUTH."""
    return _LEFT_OUT.search(text[:_MAX_TEXT].lower()) is not None


def _by_prefix(lowered: str, prefix: str) -> RelayRefusal:
    if is_rate_limit(lowered):
        return RelayRefusal.RATE_LIMITED
    if prefix in ("restricted", "blocked", "") and _PAYMENT.search(lowered):
        return RelayRefusal.PAYMENT
    if prefix in _PREFIXES:
        return _PREFIXES[prefix]
    if _AUTH.search(lowered):
        return RelayRefusal.AUTH_REQUIRED
    return RelayRefusal.UNSUPPORTED if _NOT_ACCEPTED.search(lowered) else RelayRefusal.ERROR


def _of_form(lowered: str) -> Complaint | None:
    """What is refused whatever its size."""
    if (named := _KINDS.search(lowered)) is not None:
        kinds = sorted({int(each) for each in re.findall(r"\d{1,6}", named[1] or named[2])})
        if kinds and kinds[-1] <= MAX_KIND:
            return Complaint(RelayRefusal.KIND_REFUSED, kinds=tuple(kinds))
    for pattern, refusal in (
        (_KINDLESS, RelayRefusal.KINDLESS),
        (_AUTHORLESS, RelayRefusal.AUTHORLESS),
        (_ZERO, RelayRefusal.ZERO_LIMIT),
        (_SEARCH_ONLY, RelayRefusal.SEARCH_ONLY),
    ):
        if pattern.search(lowered):
            return Complaint(refusal)
    return None


def _of_size(lowered: str) -> Complaint | None:
    """What there was too much of, with the number that is allowed where it is named."""
    if (named := _first(_BOUNDED, lowered)) is not None:
        return _too_many(_WHAT[named["what"]], _number(named))
    if (field := _FIELD.search(lowered)) is not None:
        return _too_many(_FIELDS[field[1]], int(field[2]))
    if (sizes := _BYTES_NAMED.search(lowered)) is not None:
        return Complaint(RelayRefusal.TOO_LARGE, Dimension.FRAME_BYTES, int(sizes[2]), int(sizes[1]))
    for dimension, pattern in _DIMENSIONS:
        if (found := pattern.search(lowered)) is not None:
            return _too_many(dimension, _number(found))
    return _of_many(lowered)


def _of_many(lowered: str) -> Complaint | None:
    """What there was too much of, where no number is allowed by name."""
    complaint = Complaint(RelayRefusal.TOO_LARGE) if _TOO_LARGE.search(lowered) else None
    if (many := _TOO_MANY.search(lowered)) is not None:
        found = _FOUND.search(lowered)
        complaint = _too_many(_WHAT[many["what"]], None, None if found is None else int(found[2]))
    elif _SCRAPER.search(lowered):
        complaint = replace(_too_many(Dimension.LIMIT, _SCRAPER_LIMIT), is_default=True)
    elif _ONE_MEMBER.search(lowered):
        complaint = _too_many(Dimension.AUTHORS, 1)
    return complaint


def _first(patterns: Iterable[re.Pattern[str]], text: str) -> re.Match[str] | None:
    return next((found for pattern in patterns if (found := pattern.search(text)) is not None), None)


def _too_many(dimension: Dimension, most: int | None, asked: int | None = None) -> Complaint:
    refusal = {
        Dimension.SUBSCRIPTIONS: RelayRefusal.TOO_MANY_SUBSCRIPTIONS,
        Dimension.FILTERS: RelayRefusal.TOO_MANY_FILTERS,
    }.get(dimension, RelayRefusal.TOO_LARGE)
    return Complaint(refusal, dimension, most if most is None or most <= _MAX_NUMBER else None, asked)


def _number(found: re.Match[str]) -> int | None:
    """The number that a pattern caught besides words."""
    return next((int(each) for each in found.groups() if each is not None and each.isdigit()), None)
