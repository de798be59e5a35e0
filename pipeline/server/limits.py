"""What strangers may take of the web server, and how it is counted."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pipeline.errors import EventServiceError
from pipeline.process.clock import Clock
from pipeline.process.rate import Rate, TokenBuckets
from pipeline.settings.config import Config


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The bounds of the server; `limits_of` gives those that it runs with. Times are seconds."""

    connections: int = 512
    """Half of the 1,024 descriptors that a process usually may have open."""
    connections_per_client: int = 32
    """So that one client cannot take every place; a household behind one address needs a few."""
    sessions: int = 128
    """Websockets: each may hold three of the largest messages in memory. They are places of registrations alone."""
    reserved: int = 64
    """Places that only neighbours may take, and as many more that only this machine and named proxies may."""
    request_bytes: int = 32 << 10
    """Request line and headers together; browsers and proxies send some 2 KiB. The library alone would take 1 MiB."""
    request_s: float = 20.0
    """From the connection to the end of an HTTP answer: twice the usual time-out of a scrape."""
    send_s: float = 10.0
    """For a client that has stopped reading: it is cut off, or what is written to it would pile up."""
    idle_s: float = 300.0
    """Between two messages of a websocket: who registers does it at once."""
    close_s: float = 3.0
    """For the client's part of closing a websocket."""
    ping_s: float = 20.0
    """Between pings, and for the answer to one, so that vanished clients give their place back."""
    frames: Rate = Rate(1200, 600)
    """Websocket frames of a connection, pings and fragments too; the largest message fits in fragments of 1 KiB."""
    messages: Rate = Rate(300, 60)
    """Messages of a connection: enough for a proxy that registers many users over one."""
    registrations: Rate = Rate(200, 20)
    """EVENT messages of a client. Each costs a verification and a write, and each new user is crawled for ever."""
    event_bytes: int = 1 << 20
    event_tags: int = 2_000
    """Of an event that is parsed: registrations have none, deletions name what they delete. More would take the event
    loop tens of milliseconds."""
    lookups: Rate = Rate(600, 600)
    """`/public-keys` of a client: each is a read of milliseconds."""
    renderings: Rate = Rate(120, 60)
    """`/metrics` and the page of a client, which take tenths of a second; an open page asks for twelve a minute."""

    @property
    def requests(self) -> int:
        """Requests of strangers that may be answered at once, so that registrations have places of their own."""
        return max(self.connections - 2 * self.reserved - self.sessions, self.connections // 4)


DEFAULT_LIMITS: Final = ServerLimits()

_REGISTRATION_BURST_MIN: Final = 10
"""Minutes' worth of registrations that may come at once, as when many users behind one address arrive together."""


def limits_of(config: Config) -> ServerLimits:
    """Return the bounds as an operator has set them."""
    rate = config.max_registrations_per_minute
    return replace(
        DEFAULT_LIMITS,
        connections=config.max_connections,
        reserved=min(DEFAULT_LIMITS.reserved, config.max_connections // 8),
        connections_per_client=config.max_connections_per_client,
        registrations=Rate(_REGISTRATION_BURST_MIN * rate, rate),
        event_bytes=config.max_event_bytes,
        event_tags=min(DEFAULT_LIMITS.event_tags, config.max_event_tags),
    )


PREFIX_FACTORS: Final = (1, 2, 4)
"""How many times a client's bounds the /64, /56 and /48 of IPv6 have: one customer often holds a whole /48."""
_WIDER_PREFIXES: Final = (56, 48)


class RejectReason(StrEnum):
    """Why something of a client was dropped; a closed set, the `reason` of `stage_discarded`."""

    CONNECTIONS = "connections"
    CLIENT_CONNECTIONS = "client-connections"
    SESSIONS = "sessions"
    REQUEST_SIZE = "request-size"
    FRAME_SIZE = "frame-size"
    FRAMES = "frames"
    MESSAGES = "messages"
    REGISTRATIONS = "registrations"
    REQUESTS = "requests"
    SLOW = "slow"
    SILENT = "silent"
    IDLE = "idle"
    BUSY = "busy"
    UNNAMED_PROXY = "unnamed-proxy"
    """Not the request, but what it says of whom it was forwarded for."""
    NO_MESSAGE = "no-message"
    INVALID_EVENT = "invalid-event"
    INVALID_REGISTRATION = "invalid-registration"
    AHEAD = "dated-ahead"
    OUTDATED = "outdated"
    BLOCKED = "blocked"
    NOT_HOME = "not-home"
    ORIGIN = "origin"
    SURPLUS_RELAYS = "surplus-relays"
    DELETED = "deleted"
    NOT_LISTED = "not-listed"
    WORK = "proof-of-work"
    USERS = "users"


class Rejected(EventServiceError):
    """A bound was reached."""

    def __init__(self, reason: RejectReason) -> None:
        super().__init__(f"refused: {reason}")
        self.reason: Final = reason


Refuse = Callable[[RejectReason], None]
"""Counts something that was dropped."""


class ClientRates:
    """Bounds how often each client may do something; of IPv6, also each /56 and /48 that clients share."""

    __slots__ = ("_allowances",)

    def __init__(self, rate: Rate) -> None:
        rates = (Rate(rate.burst * factor, rate.per_minute * factor) for factor in PREFIX_FACTORS)
        self._allowances = tuple(TokenBuckets(each) for each in rates)

    def take(self, client: str | None, now: float) -> bool:
        """Use one of `client`'s and return True if there was one left; None has no bound of its own."""
        if client is None:
            return True
        return all(
            allowances.take(name, now) for allowances, name in zip(self._allowances, prefixes_of(client), strict=False)
        )


class RequestRates:
    """Bounds how often each client may ask for what costs; used by the event loop alone."""

    __slots__ = ("_clock", "_lookups", "_renderings")

    def __init__(self, limits: ServerLimits, clock: Clock) -> None:
        self._clock = clock
        self._lookups = ClientRates(limits.lookups)
        self._renderings = ClientRates(limits.renderings)

    def render(self, client: str | None) -> None:
        """Use one rendering of metrics or page. Raises `Rejected`."""
        self._take(self._renderings, client)

    def look_up(self, client: str | None) -> None:
        """Use one read of the database. Raises `Rejected`."""
        self._take(self._lookups, client)

    def _take(self, rates: ClientRates, client: str | None) -> None:
        if not rates.take(client, self._clock.monotonic()):
            raise Rejected(RejectReason.REQUESTS)


def prefixes_of(client: str) -> tuple[str, ...]:
    """Return the names that a client counts under: of IPv6 its /64, /56 and /48, else itself alone."""
    if not client.endswith("/64"):
        return (client,)
    network = ipaddress.IPv6Network(client)
    return (client, *(str(network.supernet(new_prefix=length)) for length in _WIDER_PREFIXES))
