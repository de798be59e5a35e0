"""Who the clients are, and how many connections each of them has."""

import ipaddress
from collections import Counter
from dataclasses import dataclass
from typing import Final

from pipeline.nostr.ip import IPAddress, is_global_ip
from pipeline.server.limits import Limits, Refusal, Refused

_MAX_FORWARDED_LENGTH: Final = 64  # an IPv6 address with a port has at most 54 characters
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection; `client` is the name that bounds count it under.

    One `is_near` comes from this machine or a private network: it may be a reverse proxy that speaks for others.
    """

    client: str
    is_near: bool


def peer_of(socket_address: object) -> Peer:
    """The peer at a socket's remote address, as asyncio gives it (`None` when the peer has gone already)."""
    host = socket_address[0] if isinstance(socket_address, tuple) and socket_address else ""
    ip = _parse_ip(str(host))
    return Peer(_UNKNOWN, False) if ip is None else Peer(_client_name(ip), not is_global_ip(ip))


def client_behind(peer: Peer, forwarded_for: str | None) -> str:
    """Who sent a request with that `X-Forwarded-For`: only a near peer is believed, and only its own, last entry."""
    if not peer.is_near or forwarded_for is None:
        return peer.client
    last = forwarded_for.rpartition(",")[2].strip()
    ip = _parse_ip(last)
    return peer.client if ip is None else _client_name(ip)


class Place:
    """What one connection has been given; `Gate.leave` takes it all back."""

    __slots__ = ("client", "in_session", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.client: str | None = None
        self.in_session = False


class Gate:
    """Hands out places for connections and websocket sessions; used by the event loop alone."""

    __slots__ = ("_by_client", "_connections", "_limits", "_sessions")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections = 0
        self._sessions = 0
        self._by_client: Counter[str] = Counter()

    def enter(self, peer: Peer) -> Place:
        """A place for a new connection; raises `Refused`. A near peer counts under whom it speaks for, once known."""
        if self._connections >= self._limits.connections:
            raise Refused(Refusal.CONNECTIONS)
        place = Place(peer)
        if not peer.is_near:
            self._count(place, peer.client)
        self._connections += 1
        return place

    def identify(self, place: Place, forwarded_for: str | None) -> None:
        """Count a near peer's connection under the client it speaks for; raises `Refused`."""
        if place.client is None:
            self._count(place, client_behind(place.peer, forwarded_for))

    def open_session(self, place: Place) -> None:
        """Let the connection become a websocket; raises `Refused`."""
        if self._sessions >= self._limits.sessions:
            raise Refused(Refusal.SESSIONS)
        self._sessions += 1
        place.in_session = True

    def leave(self, place: Place) -> None:
        """Take the place of an ended connection back; once per place."""
        self._connections -= 1
        self._sessions -= place.in_session
        if place.client is not None:
            self._by_client[place.client] -= 1
            if not self._by_client[place.client]:
                del self._by_client[place.client]

    def _count(self, place: Place, client: str) -> None:
        if self._by_client[client] >= self._limits.connections_per_client:
            raise Refused(Refusal.CLIENT_CONNECTIONS)
        self._by_client[client] += 1
        place.client = client


def _parse_ip(text: str) -> IPAddress | None:
    if len(text) > _MAX_FORWARDED_LENGTH:
        return None
    try:
        ip = ipaddress.ip_address(_without_port(text))
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def _without_port(text: str) -> str:
    """The address out of `1.2.3.4:5`, `[::1]:5` and `fe80::1%eth0`, as some proxies write them."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return text.partition("%")[0]


def _client_name(ip: IPAddress) -> str:
    """IPv6 clients are given a whole /64 and may come from any address in it."""
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return str(ip)
