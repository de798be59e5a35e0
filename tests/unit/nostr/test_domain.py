"""Registered domains and the networks of addresses."""

import pytest

from pipeline.nostr.domain import address_prefix, registrable_domain


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("relay.example.com", "example.com"),
        ("a.b.c.example.co.uk", "example.co.uk"),
        ("example.co.uk", "example.co.uk"),
        # Names that a hosting company gives away are the company's.
        ("mine.workers.dev", "workers.dev"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
        ("x.unknown-suffix", "x.unknown-suffix"),
        ("a.xn--80ak6aa92e.xn--p1ai", "xn--80ak6aa92e.xn--p1ai"),
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_domain_is_what_was_registered(host: str, domain: str) -> None:
    assert registrable_domain(host) == domain


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("203.0.113.9", "203.0.113.0/24"),
        ("::ffff:203.0.113.9", "203.0.113.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
    ],
)
def test_prefix_is_one_owners_network(address: str, prefix: str) -> None:
    assert address_prefix(address) == prefix
