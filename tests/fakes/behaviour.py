"""How a scripted relay behaves: every way in which real relays differ from the specification, as data.

Behaviours compose: `STRFRY | Behaviour(order=Order.SHUFFLED)` is strfry's with shuffled pages; what the right one sets
wins. The default is a relay that does what NIP-01 says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self

from tests.factories.events import SignedEvent

Filters = Sequence[Mapping[str, Any]]


class Order(StrEnum):
    """In which order a page's events are sent, and which ones a limit keeps."""

    NEWEST = "newest"
    OLDEST = "oldest"
    """The limit keeps the oldest, sent oldest first."""
    ARRIVAL = "arrival"
    """The limit keeps what came in first, sent in the order of arrival."""
    SHUFFLED = "shuffled"
    """The limit keeps the newest, sent in any order."""


class How(StrEnum):
    """What is done instead of the answer that was due."""

    CLOSED = "closed"
    NOTICE = "notice"
    EOSE = "eose"
    NOTICE_EOSE = "notice, then eose"
    SILENT = "silent"
    CLOSE = "close"
    """The websocket is closed with a close frame, and the reason as its text."""
    RESET = "reset"
    """The TCP connection is reset."""
    ENDLESS_FRAME = "endless frame"
    """A frame begins that never ends."""
    ENDLESS_MESSAGE = "endless message"
    """A message begins whose fragments never end."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A REQ is refused: `how`, with `reason`. Of those that `when` picks, the first `skip` pass, then `times` don't."""

    how: How = How.CLOSED
    reason: str = "error: refused"
    times: int | None = None
    skip: int = 0
    when: Callable[[Filters], bool] | None = None


@dataclass(frozen=True, slots=True)
class Interruption:
    """A page breaks off after so many of its events, for the first `times` pages that get so far."""

    after_events: int
    how: How = How.RESET
    reason: str = ""
    times: int | None = 1


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Messages above `burst`, refilled by `per_s` each second, are refused."""

    per_s: float
    burst: int
    refusal: Refusal = Refusal(How.NOTICE, "rate limited")


@dataclass(frozen=True, slots=True)
class AuthDemand:
    """NIP-42: REQs (or EVENTs) are refused until the client has authenticated.

    `on_connect`: the challenge is sent at once, not only with the refusal. `silent_success`: no OK follows, as with
    nostr-rs-relay. `restricted`: the reason that REQs are refused with even after AUTH. `relay`: what an AUTH must
    name, to the letter.
    """

    reads: bool = True
    writes: bool = False
    on_connect: bool = True
    silent_success: bool = False
    restricted: str | None = None
    relay: str | None = None


@dataclass(frozen=True, slots=True)
class OkRule:
    """The answer to EVENTs of `kinds` (all) whose JSON contains `containing`; skips and counts as `Refusal` does.

    `answer` False: no OK at all. `reset`: the connection is reset instead. `store`: whether the relay keeps it.
    """

    accepted: bool = False
    reason: str = ""
    kinds: frozenset[int] | None = None
    containing: str | None = None
    times: int | None = None
    skip: int = 0
    delay_s: float = 0.0
    answer: bool = True
    reset: bool = False
    store: bool = False


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The first `times` websocket handshakes get this HTTP answer instead; a redirect needs a `Location` header."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a relay does, all at once. Sizes are bytes, times seconds, `None` means no limit or not at all."""

    # Pages.
    cap: int | None = None
    default_limit: int | None = None
    quarter_above_cap: bool = False
    shared_limit: bool = False
    zero_limit_is_unlimited: bool = False
    until_exclusive: bool = False
    since_exclusive: bool = False
    ignores_since: bool = False
    ignores_until: bool = False
    order: Order = Order.NEWEST
    oldest_without_limit: bool = False
    empty_filter_matches_nothing: bool = False
    withheld_kinds: frozenset[int] = frozenset()
    kinds_for_times: bool = False
    """Mentions lie by kind, then time, and are read as if by time alone where a filter names no kinds."""
    most_kinds: int | None = None
    most_tag_values: int | None = None
    """More in a list, and the relay answers as if it had nothing."""
    closes_withheld: str | None = None
    """What closes a page instead of its EOSE, where it or a live subscription selects anything withheld."""
    closes_ids: bool = False
    """A request by ids is closed without a reason, after its events."""
    breaks_off_after: int | None = None
    """A longer page is closed with an error after so many events, each time."""
    first_value_only: bool = False
    """Of a tag's values only the first is searched for what is stored."""
    min_filter_score: int = 0
    # What is sent beside or instead of the page.
    eose: bool = True
    eose_hint: bool = False
    interruption: Interruption | None = None
    copies: int = 1
    arrivals_a_page: int = 0
    """Of what is about to arrive so many events come while a page is sent, under its id as well."""
    unasked: tuple[SignedEvent, ...] = ()
    forge: Callable[[SignedEvent], SignedEvent] | None = None
    """What is sent before each event."""
    spoil: Callable[[SignedEvent], SignedEvent] | None = None
    """What is sent in place of each event."""
    garbage: tuple[str | bytes, ...] = ()
    answer_delay_s: float = 0.0
    event_delay_s: float = 0.0
    eose_delay_s: float = 0.0
    fragment_bytes: int | None = None
    binary: bool = False
    """Messages come in binary frames."""
    # Refusals.
    refusals: tuple[Refusal, ...] = ()
    max_subscriptions: int | None = None
    subscriptions_refusal: Refusal = Refusal(How.NOTICE, "ERROR: too many concurrent REQs")
    max_filters: int | None = None
    filters_refusal: Refusal = Refusal(How.CLOSED, "ERROR: bad req: too many filters")
    max_items: int | None = None
    items_refusal: Refusal = Refusal(How.CLOSED, "ERROR: bad req: total filter items too large")
    invalid_refusal: Refusal = Refusal(How.CLOSED, "ERROR: bad req: invalid filter")
    garbage_notice: str | None = "ERROR: bad msg: could not parse command"
    max_frame_bytes: int | None = None
    rate: RateLimit | None = None
    auth: AuthDemand | None = None
    repeated_req_ignored: bool = False
    adds_requests: bool = False
    """A REQ under an open id adds to it, and each of them brings an event by itself."""
    # Live events.
    live: bool = True
    live_ignores_times: bool = False
    live_eose: bool = True
    live_loses_every: int | None = None
    live_first_filter: bool = False
    """Only the first filter of a request brings live events."""
    # The connection.
    hello: tuple[str, ...] = ()
    deaf: bool = False
    deaf_s: float = 0.0
    pace_s: float = 0.0
    ignore_pings: bool = False
    compression: bool = False
    early_answers: int = 0
    """Answers with status 103 before the one that the handshake waits for."""
    close_every_messages: int | None = None
    upgrade: Upgrade | None = None
    only_path: str | None = None
    # Other requests.
    nip11: Mapping[str, Any] | str | None = None
    nip11_delay_s: float = 0.0
    nip11_after_req: bool = False
    """The document is not answered before a first REQ."""
    ok_rules: tuple[OkRule, ...] = ()
    counts: bool = False
    negentropy: bool = False
    """Sets are compared (NIP-77); otherwise the notice is all that is said to that."""
    negentropy_notice: str | None = "ERROR: bad msg: negentropy disabled"

    def __or__(self, other: Self) -> Self:
        """This behaviour with everything that `other` sets to something else than the default."""
        default = type(self)()
        names = (member.name for member in fields(self))
        changed = {name: getattr(other, name) for name in names if getattr(other, name) != getattr(default, name)}
        return replace(self, **changed)

    def limit_of(self, wanted: int | None) -> int | None:
        """How many events a filter with this `limit` gets at most; `None`: all."""
        if wanted is None:
            return self.cap if self.default_limit is None else self.default_limit
        if wanted == 0:
            return None if self.zero_limit_is_unlimited else 0
        if self.cap is None or wanted <= self.cap:
            return wanted
        return self.cap // 4 if self.quarter_above_cap else self.cap


HONEST = Behaviour()
STRFRY = Behaviour(
    cap=500,
    max_subscriptions=20,
    max_filters=20,
    max_items=2047,
    max_frame_bytes=131_072,
    nip11={
        "name": "strfry",
        "supported_nips": [1, 2, 4, 9, 11, 22, 28, 40, 70, 77],
        "limitation": {"max_message_length": 131_072, "max_subscriptions": 20, "max_limit": 500},
        "negentropy": 1,
    },
)
STRFRY_WITHHOLDING = STRFRY | Behaviour(withheld_kinds=frozenset({4, 1059}))
NOSTR_RELAY = Behaviour(
    until_exclusive=True,
    empty_filter_matches_nothing=True,
    zero_limit_is_unlimited=True,
    shared_limit=True,
    invalid_refusal=Refusal(How.EOSE),
    garbage_notice=None,
    negentropy_notice=None,
)
NODE_RELAY = Behaviour(default_limit=100, cap=1000, max_subscriptions=20, subscriptions_refusal=Refusal(How.SILENT))
NOSTR_RS = Behaviour(
    cap=1000,
    oldest_without_limit=True,
    max_subscriptions=32,
    subscriptions_refusal=Refusal(How.NOTICE, "Subscription error: Maximum concurrent subscription count reached"),
    max_frame_bytes=131_072,
    min_filter_score=2,
    repeated_req_ignored=True,
    garbage_notice="could not parse command",
)
KHATRU = Behaviour(
    cap=1000,
    quarter_above_cap=True,
    rate=RateLimit(
        per_s=1 / 3,
        burst=100,
        refusal=Refusal(
            How.CLOSED, "rate-limited: there is a bug in the client, no one should be making so many requests"
        ),
    ),
)
NOSTREAM = Behaviour(
    cap=5000,
    oldest_without_limit=True,
    max_subscriptions=10,
    subscriptions_refusal=Refusal(How.NOTICE, "Subscription rejected: Too many subscriptions: 10"),
    max_filters=10,
    filters_refusal=Refusal(How.NOTICE, "Subscription rejected: Too many filters: 10"),
    max_items=2500,
    rate=RateLimit(per_s=4, burst=240),
)
PRESETS: Mapping[str, Behaviour] = {
    "honest": HONEST,
    "strfry": STRFRY,
    "strfry-withholding": STRFRY_WITHHOLDING,
    "nostr-relay": NOSTR_RELAY,
    "node-relay": NODE_RELAY,
    "nostr-rs": NOSTR_RS,
    "khatru": KHATRU,
    "nostream": NOSTREAM,
}
