"""Relay addresses: each rule case by case, properties over any text, and the corpus as a golden digest."""

import hashlib
import random
import re
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.nostr.address import (
    MAX_JOINED_LENGTH,
    MAX_LENGTH,
    MAX_PARTS,
    AddressFault,
    InvalidAddress,
    Network,
    parse_address,
    split_addresses,
)
from tests.corpus import OURS, needs_real, real_addresses
from tests.corpus.addresses import drawn
from tests.corpus.make import outcomes
from tests.support.seeds import seeds

ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid"


def fault(text: str) -> AddressFault:
    with pytest.raises(InvalidAddress) as caught:
        parse_address(text)
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("wss://nos.lol", "wss://nos.lol"),
        ("wss://nos.lol/", "wss://nos.lol"),
        (" \twss://nos.lol\n", "wss://nos.lol"),
        ("\ufeffwss://nos\u200b.lol\u2060", "wss://nos.lol"),
        ("wss://nos.lol/%20", "wss://nos.lol"),
        ("wss://nos.lol%20%20", "wss://nos.lol"),
        ("wss://nos.lol/%0A", "wss://nos.lol"),
        ("wss://nos.lol/,", "wss://nos.lol"),
        ("WSS://NOS.LOL/", "wss://nos.lol"),
        ("wss://nos.lol.", "wss://nos.lol"),
        ("wss://nos.lol:", "wss://nos.lol"),
        ("wss://nos.lol:443", "wss://nos.lol"),
        ("ws://nos.lol:80", "ws://nos.lol"),
        ("ws://nos.lol:443", "ws://nos.lol:443"),
        ("wss://nos.lol:0080", "wss://nos.lol:80"),
        ("wss://nos.lol/#top", "wss://nos.lol"),
        ("ww://nos.lol", "wss://nos.lol"),
        ("was://nos.lol", "wss://nos.lol"),
        ("https://nos.lol", "wss://nos.lol"),
        ("https://nos.lol/", "wss://nos.lol"),
        ("http://nos.lol:8080/", "ws://nos.lol:8080"),
        ("nos.lol", "wss://nos.lol"),
        ("nos.lol:7777/Path", "wss://nos.lol:7777/Path"),
        ("wss:// nos.lol", "wss://nos.lol"),
        ("wss://https://nos.lol", "wss://nos.lol"),
        ("wss://wss://nos.lol/x", "wss://nos.lol/x"),
        ("wss://ws://nos.lol", "ws://nos.lol"),
        ("ws://was//nos.lol", "ws://nos.lol"),
        ("wss://nos.lol/a///b/", "wss://nos.lol/a/b"),
        ("wss://nos.lol//", "wss://nos.lol"),
        ("wss://nos.lol/a/./b/../c", "wss://nos.lol/a/c"),
        ("wss://nos.lol/../..", "wss://nos.lol"),
        ("wss://nos.lol/%7Eme/%c3%a9", "wss://nos.lol/~me/%C3%A9"),
        ("wss://nos.lol/é", "wss://nos.lol/%C3%A9"),
        ("wss://nos.lol/x/?a=b&c=//d/", "wss://nos.lol/x?a=b&c=//d/"),
        ("wss://nos.lol?lang=en", "wss://nos.lol/?lang=en"),
        ("wss://nos.lol/?", "wss://nos.lol"),
        ("wss://nos.lol/a,b", "wss://nos.lol/a,b"),
        ("wss://my_relay.example.com", "wss://my_relay.example.com"),
        ("wss://BÜCHER.example", "wss://xn--bcher-kva.example"),
        ("wss://relay。example", "wss://relay.example"),
        ("wss://\u202fnos.lol", "wss://nos.lol"),
        (f"ws://{ONION}.onion:80/x", f"ws://{ONION}.onion/x"),
    ],
)
def test_canonical_form(text: str, url: str) -> None:
    address = parse_address(text)
    assert address.url == str(address) == url
    assert parse_address(url) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", AddressFault.EMPTY),
        (" ,%20\u200b", AddressFault.EMPTY),
        ("wss://" + "a" * 250 + ".com", AddressFault.LENGTH),
        ("wss://nos.lol/" + "é" * 100, AddressFault.LENGTH),
        ("wss://nos.lol\\x", AddressFault.CHARACTERS),
        ("wss://nos.lol/\x00", AddressFault.CHARACTERS),
        ("wss://nos.lol/\ud800", AddressFault.CHARACTERS),
        ("wss://nos.lol/%00", AddressFault.CHARACTERS),
        ("wss://nos.lol/a%20b", AddressFault.CHARACTERS),
        ("wss://nos.lol/%zz", AddressFault.CHARACTERS),
        ("wss://nos.lol/%", AddressFault.CHARACTERS),
        ('wss://nos.lol/"', AddressFault.CHARACTERS),
        ("wss://nos%2elol", AddressFault.CHARACTERS),
        ("wss://nos.lol wss://e.nos.lol", AddressFault.JOINED),
        ("wss://nos.lol,wss://e.nos.lol", AddressFault.JOINED),
        ("wss://nos.lol,e.nos.lol", AddressFault.JOINED),
        ("wss://nos.lol/a,e.nos.lol", AddressFault.JOINED),
        ("wss://nos.lol/a,%62.com", AddressFault.JOINED),
        ("wss://nos.lol/,/", AddressFault.JOINED),
        ("reply", AddressFault.SCHEME),
        ("localhost:8080", AddressFault.SCHEME),
        ("127.0.0.1:8080", AddressFault.SCHEME),
        ("1.5", AddressFault.SCHEME),
        ("ftp://nos.lol", AddressFault.SCHEME),
        ("other-app://relay", AddressFault.SCHEME),
        ("https://nos.lol/image.png", AddressFault.SCHEME),
        ("http://nos.lol?x", AddressFault.SCHEME),
        ("wss://e.nos.lol/wss://nos.lol", AddressFault.NESTED),
        ("wss://nos.lol/?relay=wss://e.nos.lol", AddressFault.NESTED),
        ("wss://nos.lol#wss://e.nos.lol", AddressFault.NESTED),
        ("wss://wss://wss://nos.lol", AddressFault.NESTED),
        ("wss://host//nos.lol", AddressFault.NESTED),
        ("wss://nostr@nos.lol", AddressFault.USERINFO),
        ("wss://@nos.lol", AddressFault.USERINFO),
        ("wss://", AddressFault.HOST),
        ("wss:///nos.lol", AddressFault.HOST),
        ("wss...", AddressFault.HOST),
        ("wss://wss", AddressFault.HOST),
        ("wss://nos..lol", AddressFault.HOST),
        ("wss://-nos.lol", AddressFault.HOST),
        ("wss://(nos.lol)", AddressFault.HOST),
        ("wss://" + "a" * 64 + ".lol", AddressFault.HOST),
        ("wss://" + "ü" * 64 + ".lol", AddressFault.HOST),
        ("wss://nos.l0l", AddressFault.HOST),
        ("wss://nos.l", AddressFault.HOST),
        ("wss://nos.lolwss", AddressFault.HOST),
        ("wss://192.0.2.484", AddressFault.HOST),
        ("wss://1.2.3.4.5", AddressFault.HOST),
        ("wss://1.2.3.08", AddressFault.HOST),
        ("wss://4294967296", AddressFault.HOST),
        ("wss://a.1.2.3", AddressFault.HOST),
        ("wss://[::1", AddressFault.HOST),
        ("wss://[::1]x", AddressFault.HOST),
        ("wss://[1.2.3.4]", AddressFault.HOST),
        ("wss://[nos.lol]", AddressFault.HOST),
        (f"wss://{ONION[:-2]}ad.onion", AddressFault.HOST),
        ("wss://expyuzz4wqqyqhjn.onion", AddressFault.HOST),
        ("wss://" + "1" * 56 + ".onion", AddressFault.HOST),
        ("wss://nos.lol:0", AddressFault.PORT),
        ("wss://nos.lol:65536", AddressFault.PORT),
        ("wss://nos.lol:8o", AddressFault.PORT),
        ("wss://nos.lol:٣", AddressFault.PORT),
        ("wss://nos.lol:1:2", AddressFault.PORT),
        ("wss://::1", AddressFault.HOST),
    ],
)
def test_refusal(text: str, reason: AddressFault) -> None:
    assert fault(text) is reason


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7F000001", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
        ("127。1", "127.0.0.1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("[::FFFF:7f00:1]", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("10.257", "10.0.1.1"),
        ("[0:0::0:1]", "::1"),
        ("[64:ff9b::10.0.0.1]", "64:ff9b::a00:1"),
        ("[2002:7f00:1::]", "2002:7f00:1::"),
    ],
)
def test_disguised_local_ips_are_seen_through(host: str, canonical: str) -> None:
    address = parse_address(f"wss://{host}:8080")
    assert address.host == canonical
    assert address.is_private


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST.", "x.localhost", "umbrel", "umbrel.local", "nas.lan", "db.internal", "home.arpa",
        "nas.home.arpa", "relay", "127.0.0.5", "10.0.0.1", "172.31.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "192.0.0.8", "192.88.99.1", "0.1.2.3", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "[::]", "[::1]", "[fe80::1]", "[fd00::1]", "[ff02::1]", "[200::1]", "[3ff::1]",
        "[2001:db8::1]", "[2001::1]", "[3fff::1]", "[100::1]", "[5f00::1]", "[fec0::1]", "[::1.2.3.4]",
        "[64:ff9b:1::1]", "[64:ff9b::7f00:1]", "[2002:c0a8:101::1]",
    ],
)  # fmt: skip
def test_private_hosts_parse_and_are_flagged(host: str) -> None:
    address = parse_address(f"ws://{host}")
    assert address.is_private
    assert address.network is Network.CLEARNET


@pytest.mark.parametrize(
    "host",
    [
        "nos.lol", "local.example", "localhost.example.com", "lan.com", "1.1.1.1", "172.32.0.1", "100.128.0.1",
        "11.0.0.1", "223.255.255.255", "[2606:4700::1111]", "[64:ff9b::1.1.1.1]", "[2002:101:101::1]",
        "[::ffff:1.1.1.1]",
    ],
)  # fmt: skip
def test_public_hosts_are_not_flagged(host: str) -> None:
    assert not parse_address(f"ws://{host}").is_private


def test_parts() -> None:
    address = parse_address("WSS://Relay.Example.com:8443/Sub/?lang=en")
    assert (address.scheme, address.host, address.port, address.path) == (
        "wss",
        "relay.example.com",
        8443,
        "/Sub?lang=en",
    )
    assert (parse_address("ws://nos.lol").port, parse_address("nos.lol").port) == (80, 443)
    bracketed = parse_address("ws://[2606:4700:0:0::1]:81")
    assert (bracketed.host, bracketed.port, bracketed.url) == ("2606:4700::1", 81, "ws://[2606:4700::1]:81")


@pytest.mark.parametrize(
    ("host", "network"),
    [
        (f"{ONION}.onion", Network.ONION),
        (f"www.{ONION.upper()}.onion", Network.ONION),
        ("relay.i2p", Network.I2P),
        ("relay.loki", Network.LOKI),
        ("onion.example.com", Network.CLEARNET),
    ],
)
def test_network(host: str, network: Network) -> None:
    address = parse_address(f"ws://{host}:81/x")
    assert address.network is network
    assert not address.is_private


def test_politeness_is_by_host_whatever_the_scheme_port_and_path() -> None:
    texts = ["wss://Nos.lol", "ws://nos.lol:81", "nos.lol/x", "https://nos.lol"]
    assert {parse_address(text).host_key for text in texts} == {"nos.lol"}
    assert parse_address("wss://e.nos.lol").host_key == "e.nos.lol"


def test_ws_and_wss_of_one_relay_share_the_relay_key_only() -> None:
    plain, secure = parse_address("ws://nos.lol/x?y"), parse_address("wss://nos.lol:443/x?y")
    assert plain != secure
    assert plain.relay_key == secure.relay_key == "nos.lol/x?y"
    assert plain.relay_key != parse_address("ws://nos.lol:81/x?y").relay_key
    assert plain.relay_key != parse_address("ws://nos.lol/x").relay_key


def test_equal_relays_are_equal_keys() -> None:
    assert len({parse_address("wss://nos.lol"), parse_address("NOS.LOL:443/")}) == 1


@pytest.mark.parametrize(
    ("text", "url", "spelling", "target"),
    [
        ("wss://nos.lol/relay/", "wss://nos.lol/relay", "wss://nos.lol/relay/", "/relay/"),
        ("wss://nos.lol//", "wss://nos.lol", "wss://nos.lol//", "//"),
        ("wss://nos.lol/a//b/../c", "wss://nos.lol/a/c", "wss://nos.lol/a//b/../c", "/a//b/../c"),
        ("wss://nos.lol/relay?", "wss://nos.lol/relay", "wss://nos.lol/relay?", "/relay?"),
        ("wss://nos.lol?", "wss://nos.lol", "wss://nos.lol?", "/?"),
        ("wss://nos.lol/#about", "wss://nos.lol", "wss://nos.lol/", "/"),
        (" WSS://Nos.LOL:443/%7Ea%20", "wss://nos.lol/~a", "wss://Nos.LOL:443/%7Ea", "/%7Ea"),
        ("nos.lol/x/", "wss://nos.lol/x", "wss://nos.lol/x/", "/x/"),
        ("https://nos.lol/", "wss://nos.lol", "wss://nos.lol/", "/"),
        ("wss://nos.lol/é/", "wss://nos.lol/%C3%A9", "wss://nos.lol/é/", "/%C3%A9/"),
        ("wss://bücher.example/", "wss://xn--bcher-kva.example", "wss://bücher.example/", "/"),
    ],
)
def test_the_canonical_form_is_a_key_beside_what_was_written(text: str, url: str, spelling: str, target: str) -> None:
    address = parse_address(text)
    assert (address.url, address.spelling, address.target) == (url, spelling, target)
    assert parse_address(url).spelling == url


@pytest.mark.parametrize(
    ("host", "ascii_host"),
    [
        ("straße.de", "xn--strae-oqa.de"),
        ("STRASSE.de", "strasse.de"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("faß.bücher.example", "xn--fa-hia.xn--bcher-kva.example"),
        ("💩.la", "xn--ls8h.la"),
        ("straße.💩.la", "xn--strae-oqa.xn--ls8h.la"),
        ("βόλος.com", "xn--nxasmm1c.com"),
        ("\uff41bc\u3002example.com", "abc.example.com"),
    ],
)
def test_names_that_are_not_ascii_follow_idna_2008_and_emoji_the_old_way(host: str, ascii_host: str) -> None:
    assert parse_address(f"wss://{host}").host == ascii_host


def test_ascii_names_are_taken_as_they_are() -> None:
    """IDNA 2008 refuses underscores and a hyphen in the third and fourth place; relays use both."""
    assert parse_address("wss://a_b.ab--cd.example").host == "a_b.ab--cd.example"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("wss://nos.lol", ["wss://nos.lol"]),
        ("wss://a.com wss://b.com\nwss://c.com", ["wss://a.com", "wss://b.com", "wss://c.com"]),
        ("wss://a.com,wss://b.com", ["wss://a.com", "wss://b.com"]),
        ("wss://a.com, b.com ,", ["wss://a.com", "b.com"]),
        ("a.com,b.com:81,c.com/x", ["a.com", "b.com:81", "c.com/x"]),
        ("wss://a.com/%20wss://b.com", ["wss://a.com/", "wss://b.com"]),
        ("wss://a.com/%20b.com/", ["wss://a.com/", "b.com/"]),
        ("wss://a.com/x,y", ["wss://a.com/x,y"]),
        ("wss://\tnos.lol", ["wss://nos.lol"]),
        ("• wss://nos.lol", ["•", "wss://nos.lol"]),
        (" ,\u200b%20", []),
        ("x" * (MAX_LENGTH + 1) + " nos.lol", ["nos.lol"]),
        ("nos.lol " * MAX_JOINED_LENGTH, []),
    ],
)
def test_joined_addresses_are_split(text: str, parts: list[str]) -> None:
    assert split_addresses(text) == parts


def test_parts_of_one_text_are_bounded() -> None:
    assert split_addresses("a.b " * 1000) == ["a.b"] * MAX_PARTS


FRAGMENTS = st.sampled_from(
    [
        "ws", "wss", "https", "was", "://", ":", "/", "//", ".", "..", "?", "#", ",", " ", "%20", "%2e", "%2C",
        "%62", "%", "a", "com", "b.com", "nos.lol", "[::1]", "[", "]", "127.1", "0x7f", "@", "\\", "é", "ß", "。",
        "\uff0c", "xn--", "\u200b", "-", "_", "443", "80", ":99999", "\ud800", "\x00", "•", "\u3000", "\u212a",
        "\u017f", "\U0001d7d9", "①", "onion", "local",
    ]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(FRAGMENTS, max_size=14).map("".join),
    st.lists(FRAGMENTS, max_size=10).map(lambda parts: "wss://" + "".join(parts)),
    st.lists(FRAGMENTS, max_size=10).map(lambda parts: "wss://nos.lol" + "".join(parts)),
)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_whatever_parses_is_canonical_and_nothing_else_is_raised(text: str) -> None:
    for part in (text, *split_addresses(text)):
        try:
            address = parse_address(part)
        except InvalidAddress:
            continue
        again = parse_address(address.url)
        for name in ("url", "scheme", "host", "port", "path", "network", "is_private", "host_key", "relay_key"):
            assert getattr(again, name) == getattr(address, name)
        written = parse_address(address.spelling)
        assert (written, written.spelling, written.target) == (address, address.spelling, address.target)
        assert re.fullmatch(r"/[!-~]*", address.target)
        assert split_addresses(address.url) == [address.url]
        assert re.fullmatch(r"[!-~]{1,255}", address.url)
        parts = urlsplit(address.url)
        assert (parts.scheme, parts.hostname, parts.port or address.port) == (
            address.scheme,
            address.host,
            address.port,
        )
        assert parts.path + ("?" + parts.query if parts.query else "") == address.path


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_splitting_is_final(text: str) -> None:
    for part in split_addresses(text):
        assert split_addresses(part) == [part]


@pytest.mark.parametrize(
    "pattern", ["a", ",a.a", "%20", "%20x", ",a-a.", "wss://", "é", "\uff0c", " ", "../", "ß.", "\u0340"]
)
def test_hostile_texts_cost_little(pattern: str) -> None:
    """Time grows with length and no faster; the bound is some 20 times what a slow machine needs."""
    started = time.process_time()
    for prefix in ("", "wss://", "wss://a.b/"):
        for length in (MAX_LENGTH, MAX_JOINED_LENGTH, 10_000_000):
            text = (prefix + pattern * length)[:length]
            split_addresses(text)
            with pytest.raises(InvalidAddress):
                parse_address(text + "\\")
    assert time.process_time() - started < 1.0


def judge(texts: list[str]) -> tuple[list[str], Counter[str], list[tuple[str, str]]]:
    accepted: set[str] = set()
    refused: list[tuple[str, str]] = []
    for text in texts:
        for part in split_addresses(text) or [text]:
            try:
                accepted.add(parse_address(part).url)
            except InvalidAddress as error:
                refused.append((error.reason.value, part))
    return sorted(accepted), Counter(reason for reason, _ in refused), refused


@pytest.mark.parametrize("row", OURS.rows("addresses.jsonl"), ids=lambda row: ascii(row["text"])[:60])
def test_address_of_ours_is_taken_for_what_it_was(row: dict[str, Any]) -> None:
    """To see what changed, run `python -m tests.corpus.make` and look at the diff."""
    assert list(outcomes(row["text"])) == row["is"]
    for url in row["is"]:
        assert url.startswith("!") or parse_address(url).url == url


@needs_real
def test_real_addresses() -> None:
    """Addresses found in the wild give the known result, whose text stays outside of this repository.

    To see what changed, print the accepted and the refused texts before and after, and compare:
    `python -m tests.unit.nostr.test_address > /tmp/addresses`.
    """
    texts = real_addresses()
    assert len(texts) == 10_569
    accepted, reasons, _ = judge(texts)
    addresses = [parse_address(url) for url in accepted]
    assert reasons == {"host": 27, "scheme": 21, "characters": 2, "userinfo": 2, "nested": 2}
    assert len(accepted) == 10_162
    assert sum(address.is_private for address in addresses) == 1_476
    assert Counter(address.network for address in addresses) == {"clearnet": 9_213, "onion": 948, "loki": 1}
    digest = hashlib.sha256("\n".join(accepted).encode()).hexdigest()
    assert digest == "3b8cb1b8a0e565fdcbe14288d945e8ffc8fbd7f4f23208d2c13c96ad7e414f75"


@pytest.mark.parametrize("texts", [list(drawn(2, 2_000)), pytest.param(None, marks=needs_real)], ids=["ours", "real"])
@pytest.mark.parametrize("seed", seeds(2))
def test_mutated_addresses_raise_nothing_unforeseen(seed: int, texts: list[str] | None) -> None:
    rng = random.Random(seed)
    texts = real_addresses() if texts is None else texts
    survivors = 0
    for _ in range(5_000):
        text = rng.choice(texts)
        cut = rng.randrange(len(text) + 1)
        text = (
            text[:cut]
            + rng.choice(["", "%", " ", ":", "/", "é", "\x00", rng.choice(texts)])
            + text[cut + rng.randrange(3) :]
        )
        for part in split_addresses(text):
            try:
                address = parse_address(part)
            except InvalidAddress:
                continue
            assert parse_address(address.url).url == address.url
            survivors += 1
    assert survivors > 1_000


if __name__ == "__main__":
    accepted_urls, _, refused_texts = judge(real_addresses())
    print(*accepted_urls, sep="\n")
    print(*(f"refused\t{reason}\t{text!r}" for reason, text in sorted(refused_texts)), sep="\n")
