"""The client's side of SOCKS 5 (RFC 1928): CONNECT by name, without authentication, for onion relays."""

import socket

from pipeline.relay.deadline import AttemptDeadline
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.timed_socket import TimedSocket

_VERSION = 5
_DOMAIN_NAME = 3
# The longest answers: 2 bytes, then 4 + 1 + 255 + 2.
_MAX_ANSWER_BYTES = 264
_ADDRESS_LENGTHS = {1: 4, 4: 16}
_FAILURES = {
    1: (DialReason.PROXY, "general failure"),
    2: (DialReason.PROXY, "not allowed by its rules"),
    3: (DialReason.UNREACHABLE, "network unreachable"),
    4: (DialReason.UNREACHABLE, "host unreachable"),
    5: (DialReason.REFUSED, "connection refused"),
    6: (DialReason.UNREACHABLE, "TTL expired"),
}


def connect_through(sock: socket.socket, host: str, port: int, attempt: AttemptDeadline) -> None:
    """Make the SOCKS proxy at the other end of `sock` connect to `host`, whose name it resolves itself.

    Afterwards `sock` is the connection to `host`; raises `DialError`.
    """
    stream = TimedSocket(
        sock,
        attempt,
        reason=DialReason.PROXY,
        doing="SOCKS handshake",
        budget=_MAX_ANSWER_BYTES,
        read_ahead=0,  # the first byte after the answer is the relay's
    )
    stream.send(bytes([_VERSION, 1, 0]))
    if stream.read_exactly(2) != bytes([_VERSION, 0]):
        raise DialError(DialReason.PROXY, "no SOCKS 5 proxy that works without authentication")
    name = host.encode("ascii")
    stream.send(bytes([_VERSION, 1, 0, _DOMAIN_NAME, len(name)]) + name + port.to_bytes(2, "big"))
    version, code, _, kind = stream.read_exactly(4)
    if version != _VERSION:
        raise DialError(DialReason.PROXY, f"answer of SOCKS version {version}")
    if code:
        reason, text = _FAILURES.get(code, (DialReason.PROXY, f"failure {code}"))
        raise DialError(reason, f"SOCKS proxy: {text}")
    if kind not in _ADDRESS_LENGTHS and kind != _DOMAIN_NAME:
        raise DialError(DialReason.PROXY, f"unknown address type {kind}")
    length = _ADDRESS_LENGTHS.get(kind) or stream.read_exactly(1)[0]
    stream.read_exactly(length + 2)
