"""IP addresses as they appear in relay addresses, and which of them belong to the public Internet."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

IPAddress = IPv4Address | IPv6Address

_NUMBER_LIKE: Final = re.compile(r"0x[0-9a-f]*|[0-9]+")
_NUMBER: Final = re.compile(r"0x[0-9a-f]{0,32}|0[0-7]{0,32}|[1-9][0-9]{0,32}")

# The tables are kept here because `ipaddress.is_global` differs between the Python releases that we support.
_NOT_GLOBAL_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")  # all else is local, multicast, reserved or, in 0200::/7, an overlay
_NOT_GLOBAL_V6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")


def is_global_ip(ip: IPAddress) -> bool:
    """Return True if `ip` is a unicast address of the public Internet, by the IPv4 address that it may embed."""
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _NOT_GLOBAL_V4)
    embedded = ip.ipv4_mapped or ip.sixtofour
    if ip in _NAT64:
        embedded = IPv4Address(int(ip) & 0xFFFF_FFFF)
    if embedded is not None:
        return is_global_ip(embedded)
    return ip in _GLOBAL_UNICAST and not any(ip in network for network in _NOT_GLOBAL_V6)


def is_ipv4_like(host: str) -> bool:
    """Return True if the lowercase `host` can only be meant as an IPv4 address: its last label is a number."""
    return _NUMBER_LIKE.fullmatch(host.rpartition(".")[2]) is not None


def parse_ipv4(host: str) -> IPv4Address:
    """Read what the C library's `inet_aton` takes for an address: one to four decimal, octal or hexadecimal numbers.

    Raises `ValueError` for anything else.
    """
    *leading, last = (_parse_number(part) for part in host.split("."))
    if len(leading) > 3 or any(number > 255 for number in leading) or last >= 256 ** (4 - len(leading)):
        raise ValueError("no IPv4 address")
    return IPv4Address(sum(number << (24 - 8 * index) for index, number in enumerate(leading)) + last)


def parse_ipv6(literal: str) -> IPAddress:
    """Read the text between the brackets; an IPv4-mapped address becomes the IPv4 address that it stands for.

    Raises `ValueError` for anything that is no IPv6 address.
    """
    ip = IPv6Address(literal)
    return ip.ipv4_mapped or ip


def _parse_number(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("no IPv4 address")
    if text.startswith("0x"):
        return int(text[2:] or "0", 16)
    return int(text, 8) if text.startswith("0") else int(text)
