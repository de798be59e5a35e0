"""Which events must come through: a naive reading of the relevance rules, independent of the project's code.

Events are judged in three classes, since the order in which a crawler meets contact lists is its own affair: those it
must hand on, those it may, and all others, which it must not.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from tests.factories.events import SignedEvent
from tests.factories.workload import newest_versions, replaceable_key

GLOBAL_KINDS = frozenset({0, 2, 3, 10002})
PROFILE_KINDS = frozenset({0, 3, 10002})
FUTURE_TOLERANCE_S = 900


class Verdict(Enum):
    """What the rules say of one event."""

    MUST = "must"
    MAY = "may"
    MUST_NOT = "must not"


@dataclass(frozen=True, slots=True)
class Holding:
    """An event that a relay offers from `available_at` on (Unix seconds).

    `live`: it came to that relay while the service was subscribed, so it is due whatever its created_at.
    """

    event: SignedEvent
    relay: str
    available_at: float
    live: bool = False


@dataclass(frozen=True, slots=True)
class Horizon:
    """What the settings let the service reach; times are Unix seconds.

    Stored events before `since` are not due. `wanted_since` says the same of events that are relevant by author or
    mention only; `None` means `since`. The newest profile events (kinds 0, 3, 10002) of registered users are due
    whatever their age.
    """

    since: int = 0
    wanted_since: int | None = None
    max_event_bytes: int = 1_048_576
    max_event_tags: int = 20_000
    deleted_due: bool = False
    """Whether what its author deleted is due too, since every relay has and gives it."""


class Relevance:
    """The rules applied to everything that was held, for one set of registered users (hex keys)."""

    def __init__(self, holdings: Iterable[Holding], registered: Iterable[str], horizon: Horizon) -> None:
        self.horizon = horizon
        self.registered = set(registered)
        self.holdings: dict[str, list[Holding]] = defaultdict(list)
        for holding in holdings:
            self.holdings[holding.event.id].append(holding)
        self.events = {event_id: held[0].event for event_id, held in self.holdings.items()}
        self._followed_now = self._followees(newest_versions(self._contact_lists()))
        self._followed_once = self._followees(self._contact_lists())
        self._profiles = {
            event.id
            for event in newest_versions(self.events.values())
            if event.kind in PROFILE_KINDS and event.pubkey in self.registered
        }
        self._deleted = self._deletions()

    def _contact_lists(self) -> list[SignedEvent]:
        """Registered users' contact lists, without those that are refused when they come in."""
        lists = [event for event in self.events.values() if event.kind == 3 and event.pubkey in self.registered]
        return [event for event in lists if not self._beyond_limits(event) and not self._dated_ahead(event)]

    @staticmethod
    def _followees(lists: Iterable[SignedEvent]) -> set[str]:
        return {key for contact_list in lists for key in contact_list.mentioned()}

    def _deletions(self) -> set[tuple[str, str]]:
        """What authors asked to delete: (author, event id or address)."""
        return {
            (event.pubkey, tag[1])
            for event in self.events.values()
            if event.kind == 5
            for tag in event.tags
            if len(tag) > 1 and tag[0] in ("e", "a")
        }

    def reason(self, event: SignedEvent, *, ever: bool = False) -> str | None:
        """Which rule makes `event` relevant, in words; `ever` takes older contact lists into account too."""
        if event.kind in GLOBAL_KINDS:
            return f"kind {event.kind} by anyone"
        if event.pubkey in self.registered:
            return "by a registered user"
        if event.pubkey in (self._followed_once if ever else self._followed_now):
            return "by a contact of a registered user"
        if self.registered & event.mentioned():
            return "mentions a registered user"
        return None

    def judge(self, event: SignedEvent) -> Verdict:
        """Whether `event` must, may or must not come through."""
        if self.reason(event, ever=True) is None or self._beyond_limits(event):
            return Verdict.MUST_NOT
        if self.reason(event) is None or self._doubtful(event) or not self._due(event):
            return Verdict.MAY
        return Verdict.MUST

    def required(self) -> dict[str, str]:
        """Each event that must come through, by id, with the rule that says so."""
        return {
            event.id: self.reason(event) or "" for event in self.events.values() if self.judge(event) is Verdict.MUST
        }

    def _beyond_limits(self, event: SignedEvent) -> bool:
        size = len(event.raw.encode())
        return size > self.horizon.max_event_bytes or len(event.tags) > self.horizon.max_event_tags

    def _dated_ahead(self, event: SignedEvent) -> bool:
        available = min(holding.available_at for holding in self.holdings[event.id])
        return event.created_at > available + FUTURE_TOLERANCE_S

    def _doubtful(self, event: SignedEvent) -> bool:
        """Dated ahead, expired, deleted by its author, or ephemeral: to be had or dropped by when one looks."""
        if self._dated_ahead(event) or 20000 <= event.kind < 30000:
            return True
        if any(tag[0] == "expiration" for tag in event.tags if tag):
            return True
        if self.horizon.deleted_due:
            return False
        key = replaceable_key(event)
        address = "" if key is None else f"{event.kind}:{event.pubkey}:{key[2]}"
        return bool({(event.pubkey, event.id), (event.pubkey, address)} & self._deleted)

    def _due(self, event: SignedEvent) -> bool:
        """Whether the horizon reaches it, or it came in live."""
        if event.id in self._profiles or any(holding.live for holding in self.holdings[event.id]):
            return True
        since = self.horizon.since
        if event.kind not in GLOBAL_KINDS and self.horizon.wanted_since is not None:
            since = self.horizon.wanted_since
        return event.created_at >= since
