"""How often one address, network or domain is dialled, whatever the names of the relays that lead to it.

Anyone can name a thousand relays that all lead to one machine, which need not even be a relay. So dials of relays that
have not proven themselves are few; those that have, at the address where they did, are only kept from a stampede.
"""

import threading
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

from pipeline.nostr.domain import address_prefix, registrable_domain
from pipeline.process.clock import Clock
from pipeline.process.rate import Rate, TokenBuckets

# Of all crawler processes together. A victim sees no more than this of us.
PER_ADDRESS: Final = Rate(10, 6)
PER_PREFIX: Final = Rate(40, 24)
PER_DOMAIN: Final = Rate(40, 24)
# A hoster whose hundreds of relays on one address restart has them back within a minute or two.
PROVEN_PER_ADDRESS: Final = Rate(100, 300)
# Addresses of hosts that are remembered; more than are crawled.
_MAX_HOSTS: Final = 65_536


@dataclass(frozen=True, slots=True)
class DialRates:
    """How often may be dialled what has not proven itself, and what has."""

    address: Rate
    prefix: Rate
    domain: Rate
    proven: Rate

    @classmethod
    def of(cls, crawlers: int, max_per_host: int) -> "DialRates":
        """Return the part of each of so many processes; where more relays may be of one host, more are dialled."""
        factor = max(1.0, max_per_host / PER_ADDRESS.burst)

        def part(rate: Rate, times: float) -> Rate:
            return Rate(max(1, int(rate.burst * times / crawlers)), rate.per_minute * times / crawlers)

        return cls(
            part(PER_ADDRESS, factor),
            part(PER_PREFIX, factor),
            part(PER_DOMAIN, factor),
            part(PROVEN_PER_ADDRESS, factor),
        )


class DialGate:
    """Lets dials pass or not; safe in every thread."""

    __slots__ = (
        "_addresses", "_clock", "_domains", "_exempt", "_lock", "_prefixes", "_proven", "_proven_addresses",
        "_resolved",
    )  # fmt: skip

    def __init__(self, rates: DialRates, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._addresses = TokenBuckets(rates.address)
        self._prefixes = TokenBuckets(rates.prefix)
        self._domains = TokenBuckets(rates.domain)
        self._proven_addresses = TokenBuckets(rates.proven)
        self._exempt: Set[str] = frozenset()
        self._proven: Mapping[str, str] = {}
        self._resolved: dict[str, str] = {}

    def trust(self, exempt: Set[str], proven: Mapping[str, str]) -> None:
        """Let hosts of the operator pass always, and those that have proven themselves at the addresses given."""
        self._exempt, self._proven = exempt, proven

    def admits(self, host: str, address: str) -> bool:
        """Return True if `address`, to which the name `host` leads, may be dialled now."""
        now = self._clock.monotonic()
        with self._lock:
            if len(self._resolved) >= _MAX_HOSTS:
                self._resolved.clear()
            self._resolved[host] = address
            if host in self._exempt:
                return True
            prefix = address_prefix(address)
            proven_at = self._proven.get(host, "")
            if proven_at and address_prefix(proven_at) == prefix:
                return self._proven_addresses.take(address, now)
            return (
                self._addresses.take(address, now)
                and self._prefixes.take(prefix, now)
                and self._domains.take(registrable_domain(host), now)
            )

    def resolved(self, host: str) -> str:
        """Return the address to which a name led last; empty if it was not looked up."""
        with self._lock:
            return self._resolved.get(host, "")
