"""Which relays are dialled, and by which crawler process. Every process comes to the same answer by itself.

Most places go to the best, in an order that the caller decides; some are for trying out the others, each for an hour
in turn, so that whoever is better than their record can show it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final

from pipeline.crawl.crowding import Crowd, CrowdBounds, CrowdReason, MentionsOf, has_to_wait, is_proven
from pipeline.crawl.ranking import is_incumbent, ranked
from pipeline.nostr.address import InvalidAddress, Network, RelayAddress, parse_address
from pipeline.nostr.ports import SERVICE_PORTS
from pipeline.store.relay_candidates import RelayCandidate

# The share of the places that is for trying out, and for how long (ms).
EXPLORE: Final = 0.1
TRIAL_MS: Final = 3_600_000
# Relays besides the operator's that are asked for relay lists; such lists are published to many.
LIST_RELAYS: Final = 20


class Skipped(StrEnum):
    """Why a relay that was learned from events may not be dialled; a metric label."""

    NO_ADDRESS = "no-address"
    PRIVATE = "private"
    NO_WAY = "no-way"
    """It is on a network that there is no way into; for onion relays a proxy is."""
    SKIP_LIST = "skip-list"
    PORT = "port"
    """Another service than a relay listens there, usually."""
    OWN = "own"
    """It is the address of this service."""
    HOST = "host"
    """As many relays of its host are dialled as may be."""
    NAMER = CrowdReason.NAMER.value
    """As many of those that its authors name are dialled as may be; the next ones likewise."""
    DOMAIN = CrowdReason.DOMAIN.value
    ADDRESS = CrowdReason.ADDRESS.value
    PREFIX = CrowdReason.PREFIX.value


@dataclass(frozen=True, slots=True)
class Selection:
    """What may be dialled: bounds, skipped host suffixes, and which networks besides the public Internet.

    `ports`: those of other services that may be dialled all the same; `own`: where this service is reached.
    """

    max_relays: int
    max_per_host: int
    skip_suffixes: tuple[str, ...]
    allow_private: bool
    allow_onion: bool = False
    ports: frozenset[int] = frozenset()
    own: RelayAddress | None = None


@dataclass(frozen=True, slots=True)
class Selected:
    """A relay to crawl and its parsed address; `is_trial` if only to see what it is worth."""

    candidate: RelayCandidate
    address: RelayAddress
    is_trial: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """The relays to crawl, and how many others there are too many of, by what they have in common."""

    selected: list[Selected]
    crowded: Counter[Skipped]


def select(candidates: Iterable[RelayCandidate], selection: Selection, now: int = 0) -> list[Selected]:
    """Return the relays to crawl where nothing is known of who names them; see `choose`."""
    return choose(candidates, selection, now).selected


def choose(
    candidates: Iterable[RelayCandidate],
    selection: Selection,
    now: int,
    namers: MentionsOf = lambda _: (),
) -> Chosen:
    """Choose the relays to crawl at `now` (ms), of `candidates` in order of preference (see `ranking`).

    The operator's own are all of them, whatever the skip list and the bounds say. `namers`: who names a relay.
    """
    bounds, most = CrowdBounds.of(selection.max_relays, selection.max_per_host), selection.max_relays
    choice = _Choice(selection, now, namers, Crowd(bounds))
    allowed = [each for each in candidates if _reason_to_skip(each, selection) is None]
    fewer_of_users = choice.crowd.of_users(allowed, namers, now)
    if fewer_of_users is not None:
        allowed = ranked(fewer_of_users, now)
    certain = sum(each.by_operator or is_incumbent(each, now) for each in allowed)
    trials = min(int(most * EXPLORE), max(0, most - certain)) if len(allowed) > most else 0
    left = [each for each in allowed if not choice.take(each, most - trials)]
    crowded = Counter(choice.crowded)
    # Those on trial stay for their time, unless they have to wait for their next dial; then come those who waited
    # longest. Of the crowded ones a few are tried, too.
    left.sort(key=lambda each: (has_to_wait(each, now), not _is_on_trial(each, now), min(each.tried_at, now)))
    choice.crowd = Crowd(bounds.part(EXPLORE))
    most = min(most, len(choice.chosen) + int(most * EXPLORE))
    for each in left if trials or crowded else ():
        choice.take(each, most, is_trial=True)
    return Chosen(choice.chosen, crowded)


def passed_over(candidates: Iterable[RelayCandidate], selection: Selection) -> Counter[Skipped]:
    """How many of `candidates` may not be dialled, by reason."""
    found = [(each, _reason_to_skip(each, selection)) for each in candidates]
    per_host = Counter(_host_key(each) for each, reason in found if reason is None)
    by_operator = Counter(_host_key(each) for each, reason in found if reason is None and each.by_operator)
    skipped = Counter(reason for _, reason in found if reason is not None)
    bound = selection.max_per_host
    skipped[Skipped.HOST] = sum(
        count - max(bound, by_operator[host]) for host, count in per_host.items() if count > bound
    )
    return +skipped


def fetching_lists(selected: Sequence[Selected], before: Set[int]) -> frozenset[int]:
    """Which relays, besides the operator's, are asked for the relay lists of all wanted authors: few, the best known.

    Those that were `before` stay while they are selected, so that a change of order makes no others begin.
    """
    others = [each.candidate.relay for each in selected if not (each.candidate.by_operator or each.is_trial)]
    kept = [number for number in others if number in before]
    return frozenset((kept + [number for number in others if number not in before])[:LIST_RELAYS])


def tried_anew(selected: Iterable[Selected], now: int) -> list[int]:
    """Of `selected`, the relays whose trial begins at `now`."""
    return [each.candidate.relay for each in selected if each.is_trial and not _is_on_trial(each.candidate, now)]


def trusted(selected: Iterable[Selected], now: int) -> tuple[set[str], dict[str, str]]:
    """Return the operator's hosts, and the addresses of hosts where relays have proven themselves."""
    operators: set[str] = set()
    proven: dict[str, str] = {}
    for each in selected:
        if each.candidate.by_operator:
            operators.add(each.address.host)
        elif is_proven(each.candidate, now) and each.candidate.resolved:
            proven[each.address.host] = each.candidate.resolved
    return operators, proven


def _is_on_trial(candidate: RelayCandidate, now: int) -> bool:
    """Whether its trial goes on; one that a clock that was ahead began is over."""
    return now - TRIAL_MS < candidate.tried_at <= now


@dataclass(slots=True)
class _Choice:
    selection: Selection
    now: int
    namers: MentionsOf
    crowd: Crowd
    chosen: list[Selected] = field(default_factory=list)
    crowded: Counter[Skipped] = field(default_factory=Counter)
    _per_host: Counter[str] = field(default_factory=Counter)
    _taken: set[str] = field(default_factory=set)

    def take(self, candidate: RelayCandidate, most: int, *, is_trial: bool = False) -> bool:
        """Take a candidate that is allowed, if there are less than `most` and few enough of its host.

        One that the operator names is taken whatever there is.
        """
        address = _dialled(candidate)
        if address is None:
            return False
        # ws and wss of one address are one relay; the first, better known one stands for both.
        is_room = len(self.chosen) < most and self._per_host[address.host_key] < self.selection.max_per_host
        if not candidate.by_operator and (not is_room or address.relay_key in self._taken):
            return False
        crowded = self.crowd.refuses(candidate, address, self.namers, self.now)
        if crowded is not None:
            self.crowded[Skipped(crowded.value)] += 1
            return False
        self._per_host[address.host_key] += 1
        self._taken.add(address.relay_key)
        self.chosen.append(Selected(candidate, address, is_trial))
        return True


@lru_cache(maxsize=65_536)
def _parsed(address: str) -> RelayAddress | None:
    """The parsed address, `None` for what is none: a row of an older version must not stop the crawl."""
    try:
        return parse_address(address)
    except InvalidAddress:
        return None


def _dialled(candidate: RelayCandidate) -> RelayAddress | None:
    """The address of a candidate as it is dialled."""
    spelled = _parsed(candidate.spelling) if candidate.spelling else None
    # A row of another version may hold what has another key today.
    return spelled if spelled is not None and spelled.url == candidate.address else _parsed(candidate.address)


def _host_key(candidate: RelayCandidate) -> str:
    address = _parsed(candidate.address)
    return "" if address is None else address.host_key


def crawler_of(host_key: str, crawlers: int) -> int:
    """The index of the crawler that a host belongs to, by rendezvous hashing: another count moves few hosts."""
    return max(range(crawlers), key=lambda index: hashlib.blake2b(f"{index} {host_key}".encode()).digest())


_crawler_of_host = lru_cache(maxsize=65_536)(crawler_of)


def share_of(selected: Sequence[Selected], index: int, crawlers: int) -> list[Selected]:
    """Those that crawler `index` of `crawlers` dials; all paths of one host fall to one crawler."""
    return [each for each in selected if _crawler_of_host(each.address.host_key, crawlers) == index]


def is_share_of(address: str, index: int, crawlers: int) -> bool:
    """Whether a canonical address would fall to crawler `index`."""
    parsed = _parsed(address)
    return index == 0 if parsed is None else _crawler_of_host(parsed.host_key, crawlers) == index


def _reason_to_skip(candidate: RelayCandidate, selection: Selection) -> Skipped | None:
    address = _parsed(candidate.address)
    if address is None:
        return Skipped.NO_ADDRESS
    if candidate.by_operator:
        return None
    if address.is_private and not selection.allow_private:
        return Skipped.PRIVATE
    if address.network is not Network.CLEARNET and not (selection.allow_onion and address.network is Network.ONION):
        return Skipped.NO_WAY
    return _reason_of_place(address, selection)


def _reason_of_place(address: RelayAddress, selection: Selection) -> Skipped | None:
    if any(address.host == suffix or address.host.endswith("." + suffix) for suffix in selection.skip_suffixes):
        return Skipped.SKIP_LIST
    if address.port in SERVICE_PORTS and address.port not in selection.ports:
        return Skipped.PORT
    own = selection.own
    return Skipped.OWN if own is not None and (address.host, address.port) == (own.host, own.port) else None
