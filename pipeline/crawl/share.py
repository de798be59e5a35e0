"""Which relays are dialled, and by which crawler process. Every process comes to the same answer by itself."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.nostr.address import InvalidAddress, RelayAddress, parse_address
from pipeline.store.relays import RelayCandidate


@dataclass(frozen=True, slots=True)
class Selection:
    """What may be dialled: bounds, skipped host suffixes, and whether private addresses are allowed."""

    max_relays: int
    max_per_host: int
    skip_suffixes: tuple[str, ...]
    allow_private: bool


@dataclass(frozen=True, slots=True)
class Selected:
    """A relay to crawl and its parsed address."""

    candidate: RelayCandidate
    address: RelayAddress


def select(candidates: Iterable[RelayCandidate], selection: Selection) -> list[Selected]:
    """The relays to crawl, of `candidates` in order of preference; bootstrap relays are exempt from the skip list."""
    chosen: list[Selected] = []
    per_host: Counter[str] = Counter()
    taken: set[str] = set()
    for candidate in candidates:
        try:
            address = parse_address(candidate.address)
        except InvalidAddress:
            continue
        allowed = candidate.is_bootstrap or _may_be_discovered(address, selection)
        # ws and wss of one address are one relay; the first, better known one stands for both.
        if not allowed or per_host[address.host_key] >= selection.max_per_host or address.relay_key in taken:
            continue
        per_host[address.host_key] += 1
        taken.add(address.relay_key)
        chosen.append(Selected(candidate, address))
        if len(chosen) == selection.max_relays:
            break
    return chosen


def crawler_of(host_key: str, crawlers: int) -> int:
    """The index of the crawler that a host belongs to, by rendezvous hashing: another count moves few hosts."""
    return max(range(crawlers), key=lambda index: hashlib.blake2b(f"{index} {host_key}".encode()).digest())


def share_of(selected: Sequence[Selected], index: int, crawlers: int) -> list[Selected]:
    """Those that crawler `index` of `crawlers` dials; all paths of one host fall to one crawler."""
    return [each for each in selected if crawler_of(each.address.host_key, crawlers) == index]


def is_share_of(address: str, index: int, crawlers: int) -> bool:
    """Whether a canonical address would fall to crawler `index`."""
    try:
        return crawler_of(parse_address(address).host_key, crawlers) == index
    except InvalidAddress:
        return index == 0


def _may_be_discovered(address: RelayAddress, selection: Selection) -> bool:
    if address.is_private and not selection.allow_private:
        return False
    return not any(address.host == suffix or address.host.endswith("." + suffix) for suffix in selection.skip_suffixes)
