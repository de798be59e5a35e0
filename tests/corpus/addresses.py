"""Relay addresses of our own making, as people write them: good ones in many spellings, and all kinds of junk."""

import random
from collections.abc import Iterator

_HOSTS = (
    "relay.example.com", "RELAY.Example.COM", "relay.example.com.", "a.b.c.d.example.org", "xn--bcher-kva.example",
    "bücher.example", "my_relay.example.com", "203.0.113.7", "[2001:db8::7]", "localhost", "127.0.0.1", "10.1.2.3",
    "192.168.0.1", "[::1]", "[fe80::1]", "umbrel.local", "nas.lan", "relay", "a" * 56 + ".onion", "shortname.onion",
    "-bad-.example.com", "a" * 64 + ".example.com", "256.256.256.256", "1.2.3", "0x7f000001",
    "[::ffff:10.0.0.1]", "", " ",
)  # fmt: skip
_SCHEMES = ("wss://", "ws://", "WSS://", "wss:/", "wss:", "https://", "http://", "ftp://", "mailto:", "")
_PORTS = ("", ":443", ":80", ":7777", ":0", ":65536", ":x", ":")
_PATHS = (
    "",
    "/",
    "//",
    "/inbox",
    "/inbox/",
    "/a/../b",
    "/%7Euser",
    "/%zz",
    "?key=value",
    "/?",
    "#part",
    "/with blank",
    "/\u00e9",
)
_JUNK = (
    "edit", "reply", "root", "wss://", "wss://wss://relay.example.com", "wss://relay.example.com,wss://second.example.com",
    "wss://relay.example.com wss://second.example.com", "wss://user:password@relay.example.com", "wss://relay.example.com\n",
    "\twss://relay.example.com", "wss://relay.example.com\\", "wss://relay.example.com\x00", '"wss://relay.example.com"',
    "<wss://relay.example.com>", "wss://relay.example.com。", "wss%3A%2F%2Frelay.example.com", "wss://" + "a" * 3_000,
    "wss://relay.example.com/" + "b" * 3_000, "nostr:npub1x", "wss://relay.example.com/npub1x",
    "relay.example.com:443/x",
    "wss://relay.example.com|wss://second.example.com", "wss://[relay.example.com]", "wss://..example.com", "🤙",
)  # fmt: skip


def make() -> Iterator[str]:
    """A few hundred, in the order of their file."""
    for host in _HOSTS:
        yield f"wss://{host}"
        yield f"ws://{host}:8080/path/"
    for scheme in _SCHEMES:
        yield f"{scheme}relay.example.com"
    for port in _PORTS:
        yield f"wss://relay.example.com{port}"
        yield f"ws://relay.example.com{port}/"
    for path in _PATHS:
        yield f"wss://relay.example.com{path}"
    yield from _JUNK
    yield from drawn(1, 150)


def drawn(seed: int, count: int) -> Iterator[str]:
    """Texts put together at random, most of them addresses of as many different hosts."""
    rng = random.Random(seed)
    for number in range(count):
        host = (
            rng.choice(_HOSTS) if rng.random() < 0.2 else f"relay-{number}.example.{rng.choice(('com', 'net', 'org'))}"
        )
        scheme = rng.choice(_SCHEMES) if rng.random() < 0.2 else "wss://"
        port = rng.choice(_PORTS) if rng.random() < 0.2 else ""
        yield scheme + host + port + (rng.choice(_PATHS) if rng.random() < 0.3 else "")
