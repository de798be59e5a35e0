"""Whose a host name is: the domain that its owner registered, by the public suffix list that a library brings along."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from publicsuffixlist import PublicSuffixList

# A customer's part of an IPv6 network, and what IPv4 is handed out in at the least.
PREFIX_BITS: Final = {4: 24, 6: 48}


@lru_cache(maxsize=1)
def _suffixes() -> PublicSuffixList:
    """Registries' suffixes only: names under those of hosting companies cost their maker as little as paths."""
    return PublicSuffixList(only_icann=True)


@lru_cache(maxsize=65_536)
def registrable_domain(host: str) -> str:
    """Return the domain that was registered for `host`, a canonical name; the host itself where there is none."""
    if is_address(host):
        return host
    return _suffixes().privatesuffix(host) or host


@lru_cache(maxsize=65_536)
def address_prefix(address: str) -> str:
    """Return the network of an IP address that is most likely one owner's: its /24, or of IPv6 its /48."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    bits = PREFIX_BITS[ip.version]
    size = 32 if isinstance(ip, IPv4Address) else 128
    return f"{type(ip)(int(ip) >> (size - bits) << (size - bits))}/{bits}"


def is_address(host: str) -> bool:
    """Return True if `host` is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
