"""Whether the other end of a TCP connection can still be reached, as the kernel knows it.

When a host loses its power, or a router on the way forgets it, no end is heard: the connection stays open, and what
is sent over it is sent again for a quarter of an hour. The kernel notices first, since the other host's kernel
acknowledges within a round trip, however busy its programs are.
"""

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

KEEPALIVE_IDLE_S: Final = 5
"""After so long without a segment from the other end its kernel is asked for one."""
_KEEPALIVE_EVERY_S: Final = 1
# The most that there may be, so that the owner decides when a connection is lost. A reset ends it at once, as it comes
# from a host that was started again and knows nothing of the connection.
_KEEPALIVE_PROBES: Final = 127
_OPTIONS: Final = {
    "TCP_KEEPIDLE": KEEPALIVE_IDLE_S, "TCP_KEEPINTVL": _KEEPALIVE_EVERY_S, "TCP_KEEPCNT": _KEEPALIVE_PROBES,
}  # fmt: skip
# The start of Linux's `struct tcp_info`: eight bytes, of which the third and fourth count what is unanswered, then
# thirteen numbers, of which the fifth counts unacknowledged segments. The last two are the ages of what was received
# last: data, and an acknowledgement, as which data alone need not count.
_TCP_INFO: Final = struct.Struct("=8B13I")
_RESENT, _PROBES, _UNACKNOWLEDGED, _DATA_MS, _ACKNOWLEDGED_MS = 2, 3, 12, 19, 20


@dataclass(frozen=True, slots=True)
class TcpPath:
    """What is known of the way to the other end.

    `silent_s`: since its kernel was last heard. `probes`: how many keepalive probes it left unanswered. `resent`: how
    often in a row the oldest unacknowledged segment was sent again.
    """

    silent_s: float = 0.0
    probes: int = 0
    unacknowledged: int = 0
    resent: int = 0


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel ask the other end's whether it is there, as often as this system can."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def path_of(sock: socket.socket) -> TcpPath:
    """Return what the kernel knows; nothing amiss where it does not tell, or `sock` is not one of TCP."""
    if not hasattr(socket, "TCP_INFO"):
        return TcpPath()
    with suppress(OSError):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        if len(info) == _TCP_INFO.size:
            values = _TCP_INFO.unpack(info)
            silent_s = min(values[_DATA_MS], values[_ACKNOWLEDGED_MS]) / 1000
            return TcpPath(silent_s, values[_PROBES], values[_UNACKNOWLEDGED], values[_RESENT])
    return TcpPath()
