"""Messages to systemd (sd_notify) from a `Type=notify` service; silence anywhere else."""

import os
import socket
from collections.abc import Mapping

from pipeline.process.logs import get_logger

_log = get_logger("notify")
# systemd reads at once; a full buffer is no reason to stand still.
_SEND_TIMEOUT_S = 0.5


class Notifier:
    """Client of the socket that systemd named; without one every method does nothing, and none raises."""

    __slots__ = ("_address", "watchdog_interval_s")

    def __init__(self, address: str | None = None, watchdog_interval_s: float | None = None) -> None:
        self._address = address
        self.watchdog_interval_s = watchdog_interval_s
        """Seconds within which systemd wants each `watchdog`; None when it wants none."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Notifier":
        """Return what `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` ask of this process."""
        address = env.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        microseconds, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
        wanted = microseconds.isdecimal() and int(microseconds) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if wanted else None)

    @property
    def listens(self) -> bool:
        """True if systemd named a socket."""
        return self._address is not None

    def ready(self, status: str) -> None:
        """The service has started."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """What the service does, for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def watchdog(self) -> None:
        """The service is well."""
        if self.watchdog_interval_s is not None:
            self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """The service still starts, and is at it: systemd is to wait so much longer from now on."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def stopping(self) -> None:
        """The service has begun to stop."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the zero byte of Linux's abstract names.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.settimeout(_SEND_TIMEOUT_S)
                connection.sendto(message.encode(), address)
        except OSError as error:
            _log.warning("systemd cannot be told", message=message, error=error)


def _line(text: str) -> str:
    return " ".join(text.split())
