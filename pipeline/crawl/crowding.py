"""How many relays one author, domain, address or network may have among those that are dialled. Pure.

Names, paths and keys cost their maker nothing, so that any number of relays can be one machine's, or lead nowhere. What
has proven itself is not counted: it was the first to bring events of wanted authors, or a user names it. Many honest
relays are of one hoster.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from pipeline.crawl.reconnect import resumed_at
from pipeline.nostr.address import Network, RelayAddress
from pipeline.nostr.domain import address_prefix, is_address, registrable_domain
from pipeline.store.relay_candidates import RelayCandidate
from pipeline.store.relay_mentions import Mention

PROVEN_FOR_MS: Final = 7 * 86_400_000
# One that will not be dialled for so long leaves its place to others until then: more than a few looks at all relays.
_LONG_WAIT_MS: Final = 60_000
# Of all relays that are dialled; a monitor (NIP-66) names what others named, and counts as one of them.
_PER_AUTHOR: Final = 1 / 50
_PER_MONITOR: Final = 1 / 20
_PER_DOMAIN: Final = 1 / 50
_PER_ADDRESS: Final = 1 / 100
_PER_PREFIX: Final = 1 / 50
_LEAST: Final = 10
_LEAST_PER_ADDRESS: Final = 5
# As many authors must have room; it takes two to make a relay worth dialling.
_NAMERS_NEEDED: Final = 2
# A user who is not recorded, since too many others name the relay.
_SOME_USER: Final = 0


MentionsOf: TypeAlias = Callable[[RelayCandidate], Sequence[Mention]]
"""Tells who names a relay."""


class CrowdReason(StrEnum):
    """Of what there are as many relays as may be; a metric label."""

    NAMER = "namer"
    DOMAIN = "domain"
    ADDRESS = "address"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True)
class CrowdBounds:
    """How many relays that have not proven themselves may be of one author, monitor, domain, address or network."""

    author: int
    monitor: int
    domain: int
    address: int
    prefix: int

    @classmethod
    def of(cls, max_relays: int, max_per_host: int) -> "CrowdBounds":
        """Return the bounds where so many relays may be dialled in all and per host."""
        return cls(
            max(_LEAST, int(max_relays * _PER_AUTHOR)),
            max(_LEAST, int(max_relays * _PER_MONITOR)),
            max(_LEAST, max_per_host, int(max_relays * _PER_DOMAIN)),
            max(_LEAST_PER_ADDRESS, max_per_host, int(max_relays * _PER_ADDRESS)),
            max(_LEAST, max_per_host, int(max_relays * _PER_PREFIX)),
        )

    def part(self, share: float) -> "CrowdBounds":
        """Return so much of each, at least one."""
        bounds = (self.author, self.monitor, self.domain, self.address, self.prefix)
        return CrowdBounds(*(max(1, int(bound * share)) for bound in bounds))


@dataclass(slots=True)
class Crowd:
    """The relays that were taken so far, by what they have in common."""

    bounds: CrowdBounds
    _counts: Counter[tuple[CrowdReason, str | int]] = field(default_factory=Counter)

    def refuses(
        self, candidate: RelayCandidate, address: RelayAddress, mentions_of: MentionsOf, now: int
    ) -> CrowdReason | None:
        """Count a relay and return None, or return why there may be no more of its like."""
        if candidate.by_operator or candidate.named_by_user or is_proven(candidate, now):
            return None
        namers = mentions_of(candidate)
        counted = self._namers_with_room(namers)
        if namers and len(counted) < _NAMERS_NEEDED:
            return CrowdReason.NAMER
        places = _places(candidate, address)
        for kind, name in places:
            if self._counts[kind, name] >= self._bound(kind):
                return kind
        self._counts.update((*places, *((CrowdReason.NAMER, author) for author in counted)))
        return None

    def of_users(
        self, candidates: Sequence[RelayCandidate], mentions_of: MentionsOf, now: int
    ) -> list[RelayCandidate] | None:
        """Let relays count as named by a user as long as each user names few; None if all do that say so.

        `candidates` are in order of preference. Those that wait for their next dial count first, or a user's names
        would be tried one after the other before the first of another user.
        """
        of_users = [each for each in candidates if each.named_by_user]
        of_users.sort(key=lambda each: not has_to_wait(each, now))
        others = {each.relay for each in of_users if not self._is_users(each, mentions_of, now)}
        if not others:
            return None
        return [each._replace(named_by_user=False) if each.relay in others else each for each in candidates]

    def _is_users(self, candidate: RelayCandidate, mentions_of: MentionsOf, now: int) -> bool:
        if candidate.by_operator or is_proven(candidate, now):
            return True
        namers = mentions_of(candidate)
        users = [namer.author for namer in namers if namer.is_user and not namer.as_monitor] or [_SOME_USER]
        for user in users:
            if self._counts[CrowdReason.NAMER, user] < self.bounds.author:
                self._counts[CrowdReason.NAMER, user] += 1
                return True
        return False

    def _namers_with_room(self, namers: Iterable[Mention]) -> list[int]:
        """Return the two that have the most room, or fewer."""
        room = {
            namer.author: (self.bounds.monitor if namer.as_monitor else self.bounds.author)
            - self._counts[CrowdReason.NAMER, namer.author]
            for namer in namers
        }
        with_room = sorted((author for author in room if room[author] > 0), key=lambda author: -room[author])
        return with_room[:_NAMERS_NEEDED]

    def _bound(self, kind: CrowdReason) -> int:
        match kind:
            case CrowdReason.DOMAIN:
                return self.bounds.domain
            case CrowdReason.ADDRESS:
                return self.bounds.address
            case _:
                return self.bounds.prefix


def is_proven(candidate: RelayCandidate, now: int) -> bool:
    """Return True if a relay was lately the first to bring events of wanted authors."""
    return candidate.productive_at > 0 and now - candidate.productive_at < PROVEN_FOR_MS


def has_to_wait(candidate: RelayCandidate, now: int) -> bool:
    """Return True if a relay that is not connected is not to be dialled for a while."""
    dialled_at = resumed_at(candidate.next_dial_at, candidate.state_since, now)
    return not candidate.is_connected and dialled_at - now > _LONG_WAIT_MS


def _places(candidate: RelayCandidate, address: RelayAddress) -> list[tuple[CrowdReason, str | int]]:
    if address.network is not Network.CLEARNET:
        # Each name is a key; there is nothing that they share.
        return []
    if is_address(address.host):
        return [(CrowdReason.ADDRESS, address.host), (CrowdReason.PREFIX, address_prefix(address.host))]
    places: list[tuple[CrowdReason, str | int]] = [(CrowdReason.DOMAIN, registrable_domain(address.host))]
    if is_address(candidate.resolved):
        places += [(CrowdReason.ADDRESS, candidate.resolved), (CrowdReason.PREFIX, address_prefix(candidate.resolved))]
    return places
