"""The opening handshake (RFC 6455 section 4) over a socket that is connected already."""

import base64
import hashlib
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.nostr.address import RelayAddress
from pipeline.relay.deadline import AttemptDeadline
from pipeline.relay.deflate import OFFER, UnusableAgreement, is_agreed
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.retry_after import retry_after_s
from pipeline.relay.timed_socket import TimedSocket

# Real answers take a few hundred bytes; proxies that add a content policy stay below 8 KiB.
MAX_HEAD_BYTES: Final = 16 << 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OVERLOADED: Final = frozenset({429, 503})
_SWITCHING: Final = 101
# How servers answer an offer that they do not take, where they should only leave it out of their answer.
_MAY_BE_THE_OFFER: Final = frozenset({400, 500, 501})
# RFC 6455 section 1.3.
_ACCEPT_SALT: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_Headers = Mapping[str, Sequence[str]]
"""The values of each header by its name in lower case, one for each line."""


class CompressionRefused(DialError):
    """The relay refuses the offer of compression, or has terms of its own; without it the dial may be repeated."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A connection that is a websocket now. `initial`: what the relay sent behind its answer."""

    initial: bytes
    inflates: bool = False
    """Whether the relay may send compressed messages."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int | None
    headers: _Headers

    def tokens(self, name: str) -> set[str]:
        """The members of a comma-separated header, in however many lines it came."""
        return {part.strip().lower() for value in self.headers.get(name, ()) for part in value.split(",")}

    def first(self, name: str) -> str:
        """The value of a header that comes once; empty where it is missing."""
        return next(iter(self.headers.get(name, ())), "")


def host_header(address: RelayAddress) -> str:
    """The `Host` header's value: the port is left out where it is the scheme's own."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return host if address.port == (443 if address.scheme == "wss" else 80) else f"{host}:{address.port}"


def upgrade(
    sock: socket.socket,
    address: RelayAddress,
    user_agent: str,
    attempt: AttemptDeadline,
    *,
    now_s: int,
    offers_compression: bool = False,
) -> Upgraded:
    """Turn the connection into a websocket; raises `DialError`, `CompressionRefused` among them.

    No redirect is followed, no cookie kept or sent, no extension offered but compression where that is asked for.
    `now_s`: the time (Unix seconds), for a relay that says until when it is to be left alone.
    """
    stream = TimedSocket(sock, attempt, reason=DialReason.HANDSHAKE, doing="websocket handshake", budget=MAX_HEAD_BYTES)
    key = base64.b64encode(secrets.token_bytes(16))
    stream.sendall(_request(address, user_agent, key, offers_compression=offers_compression))
    answer = _read_answer(stream)
    if answer.status != _SWITCHING:
        refusal = _refusal(answer, now_s)
        if offers_compression and answer.status in _MAY_BE_THE_OFFER:
            raise CompressionRefused(refusal.reason, refusal.detail, status=answer.status)
        raise refusal
    _check(answer, key)
    try:
        inflates = offers_compression and is_agreed(answer.headers.get("sec-websocket-extensions", ()))
    except UnusableAgreement as error:
        raise CompressionRefused(DialReason.HANDSHAKE, str(error), status=answer.status) from error
    return Upgraded(stream.leftover(), inflates)


def _request(address: RelayAddress, user_agent: str, key: bytes, *, offers_compression: bool) -> bytes:
    lines = [
        f"GET {address.target} HTTP/1.1",
        f"Host: {host_header(address)}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode()}",
        "Sec-WebSocket-Version: 13",
        f"User-Agent: {user_agent}",
        *([f"Sec-WebSocket-Extensions: {OFFER}"] if offers_compression else []),
    ]
    return "\r\n".join((*lines, "", "")).encode()


def _read_answer(stream: TimedSocket) -> _Answer:
    """Read the head of the answer; those that only say that one will come (100 to 199, but for 101) are passed over."""
    while True:
        status = _status(stream.read_line())
        if status is None:
            return _Answer(None, {})
        headers = _read_headers(stream, status)
        if status == _SWITCHING or not 100 <= status < 200:
            return _Answer(status, headers)


def _read_headers(stream: TimedSocket, status: int) -> _Headers:
    """Read up to the blank line, so that the page that comes with an error is never read."""
    headers: dict[str, list[str]] = {}
    while True:
        try:
            line = stream.read_line().decode("latin-1")
        except DialError as error:
            raise DialError(error.reason, error.detail, status=status) from error
        if not line.strip():
            return headers
        name, _, value = line.partition(":")
        headers.setdefault(name.lower(), []).append(value.strip())


def _refusal(answer: _Answer, now_s: int) -> DialError:
    """The error for an answer that is not the one asked for."""
    status = answer.status
    if status is None:
        return DialError(DialReason.HANDSHAKE, "no HTTP answer")
    reason = DialReason.REDIRECT if status in _REDIRECTS else DialReason.HANDSHAKE
    wait_s = None
    if status in _OVERLOADED:
        wait_s = retry_after_s(answer.first("retry-after"), answer.first("date"), now_s)
    target = answer.first("location") if reason is DialReason.REDIRECT else None
    said = f"HTTP status {status}{f' to {target}' if target else ''}"
    return DialError(reason, said, status=status, retry_after_s=wait_s)


def _check(answer: _Answer, key: bytes) -> None:
    """Raise `DialError` unless the relay switched to the websocket that was asked for."""
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_SALT, usedforsecurity=False).digest()).decode()
    if (
        "websocket" not in answer.tokens("upgrade")
        or "upgrade" not in answer.tokens("connection")
        or answer.first("sec-websocket-accept") != accept
    ):
        raise DialError(DialReason.HANDSHAKE, "status 101 without a websocket", status=answer.status)


def _status(line: bytes) -> int | None:
    words = line.split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit() or len(words[1]) != 3:
        return None
    return int(words[1])
