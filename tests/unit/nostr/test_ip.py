"""IP addresses: read as the C library reads them, judged as the IANA registries do."""

import ipaddress
import re
import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.nostr.ip import is_global_ip, is_ipv4_like, parse_ipv4, parse_ipv6

# The regular expression "0?x?[0-9a-f]{0,11}", in a form of which hypothesis draws examples sooner.
_PART = st.tuples(st.sampled_from(("", "0", "x", "0x")), st.text("0123456789abcdef", max_size=11)).map("".join)


@settings(max_examples=2000, deadline=None)
@given(st.lists(_PART, min_size=1, max_size=5).map(".".join))
@example("0377.0x10.1")
@example("4294967295")
@example("1.16777216")
def test_numbers_are_read_as_inet_aton_reads_them(text: str) -> None:
    """Apart from "0x" without digits, which C libraries disagree about."""
    if re.search(r"0x(\.|$)", text):
        return
    try:
        expected = socket.inet_aton(text)
    except OSError:
        with pytest.raises(ValueError, match="no IPv4 address"):
            parse_ipv4(text)
    else:
        assert parse_ipv4(text).packed == expected
        assert is_ipv4_like(text)


@pytest.mark.parametrize(
    "text", ["", ".", "1.", "1..2", "-1", "+1", "1_0", " 1", "٣", "0x-1", "9" * 5_000, "0o7", "1e3"]
)
def test_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="no IPv4 address"):
        parse_ipv4(text)


@pytest.mark.parametrize(
    ("host", "like"), [("a.1", True), ("a.0x1f", True), ("1.a", False), ("0xg", False), ("", False)]
)
def test_a_number_at_the_end_makes_an_address(host: str, like: bool) -> None:
    assert is_ipv4_like(host) is like


def test_mapped_addresses_are_the_ipv4_addresses_they_stand_for() -> None:
    assert parse_ipv6("::ffff:1.2.3.4") == IPv4Address("1.2.3.4")
    assert parse_ipv6("::1.2.3.4") == IPv6Address("::102:304")
    with pytest.raises(ValueError, match=r"1\.2\.3\.4"):
        parse_ipv6("1.2.3.4")


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_what_the_standard_library_calls_local_is_not_global(ip: IPv4Address) -> None:
    """It knows of no exception in IPv4 but two single addresses, and lacks the retired 6to4 relays and multicast."""
    if ip.is_global and not ip.is_multicast and ip not in ipaddress.IPv4Network("192.88.99.0/24"):
        assert is_global_ip(ip) or ip in ipaddress.IPv4Network("192.0.0.0/24")
    else:
        assert not is_global_ip(ip)


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "::/96", "64:ff9b:1::/48", "100::/64", "200::/7",
        "2001::/32", "2001:20::/28", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10",
        "ff00::/8",
    ],
)  # fmt: skip
def test_networks_outside_of_the_public_internet(text: str) -> None:
    network = ipaddress.ip_network(text)
    for ip in (network[0], network[-1]):
        assert not is_global_ip(ip)
        if isinstance(ip, IPv4Address):
            assert not is_global_ip(IPv6Address(f"::ffff:{ip}"))
            assert not is_global_ip(IPv6Address(f"64:ff9b::{ip}"))
            assert not is_global_ip(IPv6Address((0x2002 << 112) | int(ip) << 80))


@pytest.mark.parametrize("text", ["1.1.1.1", "9.255.255.255", "172.15.0.1", "192.0.1.1", "223.255.255.255"])
def test_public_addresses(text: str) -> None:
    ip = IPv4Address(text)
    assert is_global_ip(ip)
    assert is_global_ip(IPv6Address(f"::ffff:{ip}"))
    assert is_global_ip(IPv6Address(f"64:ff9b::{ip}"))
    assert is_global_ip(IPv6Address((0x2002 << 112) | int(ip) << 80))


@pytest.mark.parametrize("text", ["2606:4700:4700::1111", "2000::", "2a00:1450::1", "2001:200::1", "2001:470::1"])
def test_public_ipv6_addresses(text: str) -> None:
    assert is_global_ip(IPv6Address(text))
