"""The opening handshake (RFC 6455 section 4), spoken by websocket-client over a socket that is connected already."""

import socket

import websocket
from websocket import _handshake as websocket_handshake

from pipeline.nostr.address import RelayAddress
from pipeline.relay.deadline import Attempt
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.stream import BoundedStream

# Real answers take a few hundred bytes; proxies that add a content policy stay below 8 KiB.
MAX_HEAD_BYTES = 16 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class _NoCookies:
    """Stands in for websocket-client's cookie jar, which carries cookies of one relay to others of its domain."""

    def add(self, _set_cookie: str | None) -> None:
        """Forget it."""

    def get(self, _host: str) -> str:
        """Nothing."""
        return ""


# The jar is one for the whole process, so this is too.
websocket_handshake.CookieJar = _NoCookies()


class _HeadStream(BoundedStream):
    """Ends at the blank line after the response's head, so that the page that comes with an error is never read."""

    def __init__(self, sock: socket.socket, attempt: Attempt) -> None:
        super().__init__(sock, attempt, reason=DialReason.HANDSHAKE, doing="websocket handshake", budget=MAX_HEAD_BYTES)
        self._line = bytearray()
        self._ended = False
        self.status: int | None = None

    def recv(self, size: int) -> bytes:
        if self._ended:
            raise refusal(self.status)
        data = super().recv(size)
        self._line += data
        if data.endswith(b"\n"):
            self._ended = not self._line.strip()
            self.status = self.status or _status(self._line)
            self._line.clear()
        return data


def host_header(address: RelayAddress) -> str:
    """The `Host` header's value: the port is left out where it is the scheme's own."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return host if address.port == (443 if address.scheme == "wss" else 80) else f"{host}:{address.port}"


def refusal(status: int | None) -> DialError:
    """The error for an answer that is not the one asked for."""
    reason = DialReason.REDIRECT if status in _REDIRECTS else DialReason.HANDSHAKE
    return DialError(reason, "no HTTP answer" if status is None else f"HTTP status {status}", status=status)


def upgrade(sock: socket.socket, address: RelayAddress, user_agent: str, attempt: Attempt) -> bytes:
    """Turn the connection into a websocket; returns what the relay sent behind its answer. Raises `DialError`.

    No redirect is followed, no cookie kept or sent, no compression or other extension offered.
    """
    stream = _HeadStream(sock, attempt)
    try:
        # Not by its `connect`, whose parser loses what follows a semicolon, and a bare question mark.
        websocket_handshake.handshake(
            stream,
            f"{address.scheme}:",
            address.host,
            address.port,
            address.target,
            host=host_header(address),
            suppress_origin=True,
            header=[f"User-Agent: {user_agent}"],
        )
    except websocket.WebSocketException as error:
        if stream.status is not None and stream.status != 101:
            raise refusal(stream.status) from error
        raise DialError(DialReason.HANDSHAKE, str(error), status=stream.status) from error
    if stream.status != 101:
        # A redirect: what it names was vetted by nobody.
        raise refusal(stream.status)
    return stream.leftover()


def _status(line: bytearray) -> int | None:
    words = line.split(maxsplit=2)
    if len(words) < 2 or not words[1].isdigit() or len(words[1]) != 3:
        return None
    return int(words[1])
