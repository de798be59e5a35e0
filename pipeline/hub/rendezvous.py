"""Which crawling host is to have which relays, by rendezvous hashing. Pure.

Each pair of crawling host and relays' host has a weight of its own, and the host with the greatest has them. So a host
that joins takes only what it is the greatest for, about one part in so many of each other host, and what a host leaves
falls to all others; nothing else moves.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

_KEYS = 65_536


@lru_cache(maxsize=_KEYS)
def order(host_key: str, hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the crawling hosts in the order in which they are to have the relays of `host_key`."""
    return tuple(sorted(hosts, key=lambda host: hashlib.blake2b(f"{host} {host_key}".encode()).digest(), reverse=True))


def assign(
    host_keys: Iterable[str], live: Collection[str], unfit: Mapping[str, Collection[str]]
) -> dict[str, str | None]:
    """Return who is to have each of `host_keys`: the first that lives and can use it, of those that live the first.

    `unfit`: by host key, the crawling hosts that cannot use its relays. None where no crawling host lives.
    """
    hosts = tuple(sorted(live))
    return {each: _first(order(each, hosts), unfit.get(each, ())) for each in host_keys}


def _first(hosts: tuple[str, ...], unfit: Collection[str]) -> str | None:
    return next((host for host in hosts if host not in unfit), hosts[0] if hosts else None)
