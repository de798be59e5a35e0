"""Relay addresses: what people write into events and settings, made canonical or refused.

The canonical form is a key: it is stored, compared and shown. What is dialled is the address as it was written, since a
relay may answer at `/relay/` and not at `/relay`.

An address that parses is worth storing, not safe to dial: `RelayAddress.is_private` knows literal IPs and the names of
local networks only, so the code that connects must judge the resolved addresses again, with
`pipeline.nostr.ip.is_global_ip`.
"""

import base64
import binascii
import hashlib
import re
import string
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final

import idna

from pipeline.errors import EventServiceError
from pipeline.nostr.ip import IPAddress, is_global_ip, is_ipv4_like, parse_ipv4, parse_ipv6

MAX_LENGTH: Final = 255  # longer texts are junk, and every step below may be costlier than linear without a bound
MAX_JOINED_LENGTH: Final = 4096  # 16 addresses of the full length; real joined strings hold a handful
MAX_PARTS: Final = 64  # of one text; enough for that length and some junk between
_ADDRESSES_KEPT: Final = 4_096  # about 2 MB, and most of what is in use


class Network(StrEnum):
    """The network through which a relay is reached."""

    CLEARNET = "clearnet"
    ONION = "onion"
    I2P = "i2p"
    LOKI = "loki"


class AddressFault(StrEnum):
    """Why a text is no relay address; a closed set, fit for a metric label."""

    EMPTY = "empty"
    LENGTH = "length"
    CHARACTERS = "characters"
    JOINED = "joined"
    SCHEME = "scheme"
    NESTED = "nested"
    USERINFO = "userinfo"
    HOST = "host"
    PORT = "port"


_EXPLANATIONS: Final = {
    AddressFault.EMPTY: "it is empty",
    AddressFault.LENGTH: f"it is longer than {MAX_LENGTH} characters",
    AddressFault.CHARACTERS: "it contains characters that no address may contain",
    AddressFault.JOINED: "it holds more than one word",
    AddressFault.SCHEME: "it must begin with ws:// or wss://",
    AddressFault.NESTED: "it contains a second address",
    AddressFault.USERINFO: "it contains a user name",
    AddressFault.HOST: "its host is neither a name nor an IP address",
    AddressFault.PORT: "its port is not a number from 1 to 65535",
}


class InvalidAddress(EventServiceError):
    """A text that is no relay address; the message completes the sentence "it is no relay address: …"."""

    def __init__(self, reason: AddressFault) -> None:
        self.reason: Final = reason
        super().__init__(_EXPLANATIONS[reason])


@dataclass(frozen=True, slots=True)
class RelayAddress:
    """A relay's websocket address in canonical form; equal relays have equal `url`s, and only those are compared.

    `spelling` is the address as it was written, with a scheme, without padding and fragment; it parses to an equal
    address. `target` is what an HTTP request for that spelling names: path and query, beginning with "/".
    `host` is lowercase ASCII without brackets, `port` the effective one, `path` empty or beginning with "/", query
    included. `is_private`: the host is an IP outside the public Internet or a name that only a local network has.
    """

    url: str
    spelling: str = field(compare=False)
    target: str = field(compare=False)
    scheme: str = field(compare=False)
    host: str = field(compare=False)
    port: int = field(compare=False)
    path: str = field(compare=False)
    network: Network = field(compare=False)
    is_private: bool = field(compare=False)

    def __str__(self) -> str:
        return self.url

    @property
    def host_key(self) -> str:
        """The unit of politeness: all ports, paths and schemes of one host share it."""
        return self.host

    @property
    def relay_key(self) -> str:
        """Equal for the ws and the wss address of one host, port (or each scheme's default port) and path."""
        return self.url.partition("://")[2]


_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
_SCHEMES: Final = {"ws": "ws", "wss": "wss", "ww": "wss", "was": "wss", "wws": "wss", "http": "ws", "https": "wss"}
_WEB_SCHEMES: Final = frozenset({"http", "https"})

_INVISIBLE: Final = dict.fromkeys((0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF))
_PADDING: Final = r"(?:[\s,]|%20|%0[9AaDd])"
_LEADING_PADDING: Final = re.compile(rf"{_PADDING}+")
_TRAILING_PADDING: Final = re.compile(rf"{_PADDING}+\Z")
# Whitespace parts addresses, save after "://". A comma may belong to a path, and junk often follows encoded whitespace,
# so these part only where an address or nothing follows. Counts are bounded to keep every match cheap.
_NEXT_ADDRESS: Final = r"(?=[\s,]|\Z|[A-Za-z]{2,6}://|[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}(?:[:/,\s%]|\Z))"
_SEPARATOR: Final = re.compile(rf"\s+|{_PADDING}{{1,8}}{_NEXT_ADDRESS}")
# The common case, in which there is nothing to part or to trim.
_PLAIN: Final = re.compile(r"wss?://[A-Za-z0-9./:_-]{1,240}")
_AFTER_SCHEME: Final = re.compile(r"(?<=://)\s+")
_AFTER_AUTHORITY: Final = re.compile(r"[/?#]")
_MALFORMED_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|%(?:[01][0-9A-Fa-f]|20|7[Ff])")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset(string.ascii_letters + string.digits + "-._~")
_PATH_CHARACTERS: Final = _UNRESERVED | frozenset("%/?:@!$&'()*+,;=[]")

_DOT: Final = re.compile("[.\u3002\uff0e\uff61]")  # what IDNA takes for one
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# The longest top-level domain in letters has 18 of them; longer ones, and those in -wss, are addresses run together.
_TOP_LABEL: Final = re.compile(r"[a-z]{2,18}|xn--[a-z0-9-]{1,59}|i2p")
_PORT: Final = re.compile(r"0*([0-9]{1,5})")

_PRIVATE_SUFFIXES: Final = ("localhost", "local", "lan", "internal", "home.arpa")
_OVERLAYS: Final = {"onion": Network.ONION, "i2p": Network.I2P, "loki": Network.LOKI}


def split_addresses(text: str) -> list[str]:
    """Return the parts of `text` that may each be an address, in order, the first `MAX_PARTS` of them.

    A text longer than `MAX_JOINED_LENGTH` holds none.
    """
    if _PLAIN.fullmatch(text):
        return [text]
    if len(text) > MAX_JOINED_LENGTH:
        return []
    parts = _SEPARATOR.split(_close_up(text), maxsplit=MAX_PARTS)[:MAX_PARTS]
    return [trimmed for part in parts if len(part) <= MAX_LENGTH and (trimmed := _trim(part))]


def parse_address(text: str) -> RelayAddress:
    """Return the canonical address of the one relay that `text` names. Raises `InvalidAddress` and nothing else.

    `parse_address(address.url) == address` for every address that it returns. Addresses recur, so that many are
    remembered.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidAddress(AddressFault.LENGTH)
    return _parse(text)


@lru_cache(_ADDRESSES_KEPT)
def _parse(text: str) -> RelayAddress:
    text = _trim(_close_up(text))
    if not text:
        raise InvalidAddress(AddressFault.EMPTY)
    if _SEPARATOR.search(text):
        raise InvalidAddress(AddressFault.JOINED)
    if "\\" in text or not text.isprintable():
        raise InvalidAddress(AddressFault.CHARACTERS)
    word, rest = _split_scheme(text)
    word, rest = _unwrap(word, rest)
    if "://" in rest:
        raise InvalidAddress(AddressFault.NESTED)
    authority = _AFTER_AUTHORITY.split(rest, maxsplit=1)[0]
    tail = rest[len(authority) :].partition("#")[0]
    host, ip, port = _parse_authority(authority)
    path = _canonical_path(tail)
    scheme = _scheme_of(word, host, path, has_ip=ip is not None)
    url = _canonical_url(scheme, host, port, path)
    spelling = f"{scheme}://{authority}{tail}"
    if len(spelling) > MAX_LENGTH:
        spelling, tail = url, path
    target = _escaped(tail)
    return RelayAddress(
        url=url,
        spelling=spelling,
        target=target if target.startswith("/") else f"/{target}",
        scheme=scheme,
        host=host,
        port=port or _DEFAULT_PORTS[scheme],
        path=path,
        network=Network.CLEARNET if ip else _OVERLAYS.get(host.rpartition(".")[2], Network.CLEARNET),
        is_private=not is_global_ip(ip) if ip else _is_private_name(host),
    )


def _scheme_of(word: str | None, host: str, path: str, *, has_ip: bool) -> str:
    """Return the scheme that is meant by `word`; without one a name on the open network is taken for a relay's."""
    if word is None and (has_ip or "." not in host):
        raise InvalidAddress(AddressFault.SCHEME)
    if word in _WEB_SCHEMES and path:
        raise InvalidAddress(AddressFault.SCHEME)
    return _SCHEMES[word] if word else "wss"


def _canonical_url(scheme: str, host: str, port: int | None, path: str) -> str:
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = "" if port in (None, _DEFAULT_PORTS[scheme]) else f":{port}"
    url = f"{scheme}://{shown_host}{shown_port}{path}"
    if len(url) > MAX_LENGTH:
        raise InvalidAddress(AddressFault.LENGTH)
    if _SEPARATOR.search(url):
        raise InvalidAddress(AddressFault.JOINED)
    return url


def _close_up(text: str) -> str:
    return _AFTER_SCHEME.sub("", text.translate(_INVISIBLE))


def _trim(text: str) -> str:
    leading = _LEADING_PADDING.match(text)
    if leading:
        text = text[leading.end() :]
    trailing = _TRAILING_PADDING.search(text)
    return text[: trailing.start()] if trailing else text


def _split_scheme(text: str) -> tuple[str | None, str]:
    """Return the scheme's word in lowercase, `None` where there is none, and what follows it."""
    word, separator, rest = text.partition("://")
    if not separator:
        return None, text
    word = word.lower()
    if word not in _SCHEMES:
        raise InvalidAddress(AddressFault.SCHEME)
    return word, rest


def _unwrap(word: str | None, rest: str) -> tuple[str | None, str]:
    """Undo one doubled scheme, as in `wss://https://host` and `wss://was//host`."""
    host, separator, tail = rest.partition("//")
    inner = host.removesuffix(":").lower()
    if word is None or not separator or inner not in _SCHEMES:
        return word, rest
    return (inner if host.endswith(":") else word), tail


def _parse_authority(authority: str) -> tuple[str, IPAddress | None, int | None]:
    if "@" in authority:
        raise InvalidAddress(AddressFault.USERINFO)
    if "%" in authority:
        raise InvalidAddress(AddressFault.CHARACTERS)
    if "," in authority:
        raise InvalidAddress(AddressFault.JOINED)
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise InvalidAddress(AddressFault.HOST)
        port = port[1:]
    else:
        bracket = ""
        name, _, port = authority.partition(":")
        host = _ascii_host(name)
    try:
        ip = parse_ipv6(host) if bracket else parse_ipv4(host) if is_ipv4_like(host) else None
    except ValueError:
        raise InvalidAddress(AddressFault.HOST) from None
    if ip is None:
        _check_name(host)
    return str(ip or host), ip, _parse_port(port)


def _parse_port(text: str) -> int | None:
    if not text:
        return None
    match = _PORT.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= 65_535:
        raise InvalidAddress(AddressFault.PORT)
    return int(match[1])


def _ascii_host(name: str) -> str:
    if not name.isascii():
        labels = _DOT.split(name)
        if any(len(label) > 63 for label in labels):
            raise InvalidAddress(AddressFault.HOST)  # preparing long labels takes long
        name = ".".join(label if label.isascii() else _ascii_label(label) for label in labels)
    return name.lower().removesuffix(".")


def _ascii_label(label: str) -> str:
    """Return the label as the domain name system has it: by IDNA 2008, and emoji and the like by IDNA 2003."""
    try:
        return idna.encode(label, uts46=True).decode("ascii")
    except idna.IDNAError:
        pass
    try:
        return label.encode("idna").decode("ascii")
    except UnicodeError:
        raise InvalidAddress(AddressFault.HOST) from None


def _check_name(host: str) -> None:
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or host in _SCHEMES:
        raise InvalidAddress(AddressFault.HOST)
    if len(labels) == 1:
        return
    top, second = labels[-1], labels[-2]
    if not _TOP_LABEL.fullmatch(top) or top.endswith("wss") or (top == "onion" and not _is_onion_service(second)):
        raise InvalidAddress(AddressFault.HOST)


def _is_onion_service(label: str) -> bool:
    """Return True if `label` is an onion service of version 3, the only one in use: key, checksum, version."""
    if len(label) != 56:
        return False
    try:
        decoded = base64.b32decode(label.upper())
    except binascii.Error:
        return False
    key, checksum, version = decoded[:32], decoded[32:34], decoded[34:]
    return version == b"\x03" and checksum == hashlib.sha3_256(b".onion checksum" + key + version).digest()[:2]


def _canonical_path(tail: str) -> str:
    if tail.startswith("//") and tail.strip("/"):
        raise InvalidAddress(AddressFault.NESTED)
    tail = _escaped(tail)
    if not _PATH_CHARACTERS.issuperset(tail) or _MALFORMED_ESCAPE.search(tail):
        raise InvalidAddress(AddressFault.CHARACTERS)
    path, _, query = _ESCAPE.sub(_canonical_escape, tail).partition("?")
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    path = "/".join(("", *segments))
    return f"{path or '/'}?{query}" if query else path


def _escaped(tail: str) -> str:
    return "".join(c if c.isascii() else "".join(f"%{byte:02X}" for byte in c.encode()) for c in tail)


def _canonical_escape(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0].upper()


def _is_private_name(host: str) -> bool:
    return "." not in host or host.endswith(tuple(f".{suffix}" for suffix in _PRIVATE_SUFFIXES)) or host == "home.arpa"
