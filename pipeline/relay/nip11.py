"""The relay information document (NIP-11), fetched over the same vetted connection as a websocket."""

import http.client
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from pipeline.errors import EventServiceError
from pipeline.nostr.address import RelayAddress
from pipeline.process.clock import Clock
from pipeline.relay.advertised import AdvertisedLimits, advertised_limits, is_number
from pipeline.relay.deadline import AttemptDeadline, Deadline
from pipeline.relay.dial import DialPolicy, connect, never
from pipeline.relay.errors import DialError, DialReason, printable
from pipeline.relay.handshake import MAX_HEAD_BYTES, host_header
from pipeline.relay.timed_socket import TimedSocket

MAX_DOCUMENT_BYTES = 256 << 10
FETCH_TIMEOUT_S = 10.0
_MAX_NIPS = 256
_MAX_TEXT_LENGTH = 100
_NEGENTROPY_NIP = 77


class InformationFault(StrEnum):
    """Why there is no document; the values are metric labels."""

    DIAL = "dial"
    HTTP = "http"
    JSON = "json"
    REDIRECT = "redirect"
    SHAPE = "shape"
    STATUS = "status"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"


class InvalidInformation(EventServiceError):
    """The relay gave no usable document; `status` is its HTTP status, where it answered with one."""

    def __init__(self, reason: InformationFault, detail: str, *, status: int | None = None) -> None:
        self.reason = reason
        self.detail = printable(detail)
        self.status = status
        super().__init__(f"{reason}: {self.detail}")


@dataclass(frozen=True, slots=True)
class RelayInformation:
    """What a relay says about itself; all of it may be wrong. `negentropy`: it claims NIP-77, version 1."""

    limits: AdvertisedLimits = field(default_factory=AdvertisedLimits)
    negentropy: bool = False
    name: str = ""
    software: str = ""
    version: str = ""
    supported_nips: frozenset[int] = frozenset()


def fetch_information(
    address: RelayAddress,
    policy: DialPolicy,
    clock: Clock,
    cancelled: Callable[[], bool] = never,
    timeout_s: float = FETCH_TIMEOUT_S,
) -> RelayInformation:
    """Ask the relay at `address` for its document, within `timeout_s`; raises `InvalidInformation`.

    No redirect is followed. `cancelled` is as for `dial`.
    """
    attempt = AttemptDeadline(Deadline(clock, timeout_s), cancelled)
    try:
        sock = connect(address, policy, attempt)
    except DialError as error:
        raise InvalidInformation(InformationFault.DIAL, str(error)) from error
    try:
        return parse_information(_get(sock, address, policy.user_agent, attempt))
    finally:
        sock.close()


def parse_information(document: bytes) -> RelayInformation:
    """Read a document; members of wrong types count as missing. Raises `InvalidInformation`."""
    try:
        value = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise InvalidInformation(InformationFault.JSON, str(error)) from error
    if not isinstance(value, dict):
        raise InvalidInformation(InformationFault.SHAPE, "the document is no object")
    nips = value.get("supported_nips")
    supported = frozenset(filter(is_number, nips[:_MAX_NIPS])) if isinstance(nips, list) else frozenset()
    return RelayInformation(
        limits=advertised_limits(value),
        negentropy=value.get("negentropy") == 1 or _NEGENTROPY_NIP in supported,
        name=_text(value.get("name")),
        software=_text(value.get("software")),
        version=_text(value.get("version")),
        supported_nips=supported,
    )


def _text(value: object) -> str:
    return printable(value, _MAX_TEXT_LENGTH) if isinstance(value, str) else ""


def _get(sock: socket.socket, address: RelayAddress, user_agent: str, attempt: AttemptDeadline) -> bytes:
    """The body that the relay answers a GET with; raises `InvalidInformation`."""
    # Twice, since chunks may come with headers as long as themselves.
    budget = MAX_HEAD_BYTES + 2 * MAX_DOCUMENT_BYTES
    stream = TimedSocket(sock, attempt, reason=DialReason.HANDSHAKE, doing="information document", budget=budget)
    headers = {
        "Host": host_header(address),
        "Accept": "application/nostr+json",  # to the letter: relays compare for equality
        "Accept-Encoding": "identity",
        "User-Agent": user_agent,
        "Connection": "close",
    }
    connection = http.client.HTTPConnection(address.host, address.port)
    connection.auto_open = 0  # it must never dial by itself
    connection.sock = stream
    try:
        connection.request("GET", address.target, headers=headers)
        with connection.getresponse() as response:
            if response.status != 200:
                redirected = 300 <= response.status < 400
                fault = InformationFault.REDIRECT if redirected else InformationFault.STATUS
                raise InvalidInformation(fault, f"HTTP status {response.status}", status=response.status)
            body = response.read(MAX_DOCUMENT_BYTES + 1)
    except DialError as error:
        raise InvalidInformation(_FAULTS.get(error.reason, InformationFault.HTTP), str(error)) from error
    except (http.client.HTTPException, ValueError) as error:
        raise InvalidInformation(InformationFault.HTTP, f"{type(error).__name__} {error}") from error
    if len(body) > MAX_DOCUMENT_BYTES:
        raise InvalidInformation(InformationFault.TOO_LARGE, f"more than {MAX_DOCUMENT_BYTES} bytes")
    return body


_FAULTS = {DialReason.TIMEOUT: InformationFault.TIMEOUT, DialReason.TOO_LARGE: InformationFault.TOO_LARGE}
