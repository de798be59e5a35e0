"""How a connection to a relay fails: `DialError` on the way to it, `ConnectionLost` afterwards."""

from enum import StrEnum

from pipeline.errors import EventServiceError

# A line of log; whatever a stranger wrote beyond it explains nothing more.
MAX_DETAIL_LENGTH = 200


def printable(text: str, most: int = MAX_DETAIL_LENGTH) -> str:
    """At most `most` characters of a stranger's `text`, without line breaks and other control characters."""
    return "".join(character if character.isprintable() else " " for character in text[:most]).strip()


class DialReason(StrEnum):
    """Why no connection was made; the values are metric labels."""

    CANCELLED = "cancelled"
    CROWDED = "crowded"  # its address, network or domain was dialled too often: put off, no fault of the relay
    DNS = "dns"
    HANDSHAKE = "handshake"
    LOCAL = "local"  # this machine ran out of something: no fault of the relay
    NETWORK = "network"  # a network that we cannot reach at all, such as onion without a proxy
    OWN = "own"  # our own web server
    PRIVATE = "private"
    PROXY = "proxy"
    REDIRECT = "redirect"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    TLS = "tls"
    TOO_LARGE = "too_large"
    UNREACHABLE = "unreachable"


class DialError(EventServiceError):
    """No connection was made.

    `status` is the HTTP status that the relay answered with, where it answered; `retry_after_s` for how long it then
    asked to be left alone; `permanent` is a hint that dialling again soon is hopeless (unknown name, bad certificate,
    address refused by policy).
    """

    def __init__(
        self,
        reason: DialReason,
        detail: str,
        *,
        status: int | None = None,
        retry_after_s: int | None = None,
        permanent: bool = False,
    ) -> None:
        self.reason = reason
        self.detail = printable(detail)
        self.status = status
        self.retry_after_s = retry_after_s
        self.permanent = permanent
        super().__init__(f"{reason}: {self.detail}")


class LossReason(StrEnum):
    """Why a connection ended; the values are metric labels."""

    CLOSED = "closed"  # the relay said so in a close frame
    EOF = "eof"  # the stream ended without a close frame
    ERROR = "error"  # the operating system or TLS reported an error
    FORGED = "forged"  # too many events whose id or signature is wrong
    LOCAL = "local"  # we closed it
    PROTOCOL = "protocol"  # a frame that RFC 6455 forbids
    SEND_TIMEOUT = "send_timeout"  # the relay stopped reading
    TOO_LARGE = "too_large"  # a frame or message beyond our bounds
    UNREACHABLE = "unreachable"  # nothing sent is acknowledged any more: its host or the way to it is gone


class ConnectionLost(EventServiceError):
    """The connection is of no more use."""

    def __init__(self, reason: LossReason, detail: str) -> None:
        self.reason = reason
        self.detail = printable(detail)
        super().__init__(f"{reason}: {self.detail}")
