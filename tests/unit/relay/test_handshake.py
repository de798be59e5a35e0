import pytest

from pipeline.nostr.address import parse_address
from pipeline.relay.handshake import host_header


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("wss://relay.example/path", "relay.example"),
        ("ws://relay.example", "relay.example"),
        ("wss://relay.example:8443", "relay.example:8443"),
        ("wss://relay.example:80", "relay.example:80"),
        ("ws://relay.example:443", "relay.example:443"),
        ("wss://[2600::1]", "[2600::1]"),
        ("ws://[2600::1]:7777", "[2600::1]:7777"),
    ],
)
def test_host_header_names_the_port_only_where_it_is_unusual(url: str, header: str) -> None:
    assert host_header(parse_address(url)) == header
