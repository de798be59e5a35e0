"""Who the clients are, and how many connections each of them has."""

import ipaddress
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.nostr.ip import IPAddress, is_global_ip
from pipeline.server.limits import PREFIX_FACTORS, Rejected, RejectReason, ServerLimits, prefixes_of
from pipeline.settings.values import IPNetwork

_MAX_FORWARDED_LENGTH: Final = 64  # an IPv6 address with a port has at most 54 characters
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """The other end of a connection; `client` is the name that bounds count it under.

    One `is_near` comes from this machine or a private network: it may be a proxy that no setting names, and the bounds
    for one client would then bound all of its visitors together. One `is_proxy` is among `EVENTS_TRUSTED_PROXIES`.
    """

    client: str
    is_near: bool
    is_proxy: bool = False
    is_here: bool = False
    """On this machine."""

    @property
    def reach(self) -> int:
        """Return how many of the reserves its connections may take: 0 for strangers, 1 for neighbours, else 2."""
        return 2 if self.is_here or self.is_proxy else int(self.is_near)


def peer_of(socket_address: object, proxies: Sequence[IPNetwork] = ()) -> ClientAddress:
    """Return the peer at a socket's remote address, as asyncio gives it (`None` when the peer has gone already)."""
    host = socket_address[0] if isinstance(socket_address, tuple) and socket_address else ""
    ip = _parse_ip(str(host))
    if ip is None:
        return ClientAddress(_UNKNOWN, False)
    return ClientAddress(_client_name(ip), not is_global_ip(ip), _is_among(ip, proxies), ip.is_loopback)


def client_behind(forwarded_for: str | None, proxies: Sequence[IPNetwork]) -> str | None:
    """Return whom a trusted proxy speaks for by its `X-Forwarded-For`; None if it names no client.

    It is the last entry that is not a trusted proxy itself: what stands before it, the visitor may have written.
    """
    for entry in reversed((forwarded_for or "").split(",")):
        ip = _parse_ip(entry.strip())
        if ip is None:
            return None
        if not _is_among(ip, proxies):
            return _client_name(ip)
    return None


class ConnectionSlot:
    """What one connection has been given; `ConnectionLimiter.leave` takes it all back."""

    __slots__ = ("client", "counted", "in_request", "in_session", "network", "peer")

    def __init__(self, peer: ClientAddress) -> None:
        self.peer = peer
        self.client: str | None = None
        self.network: str | None = None
        """The widest of the names that `client` counts under."""
        self.counted = peer.reach
        """The reach that its slot is counted under."""
        self.in_request = False
        self.in_session = False

    @property
    def reach(self) -> int:
        """Return how many of the reserves it may be of; one for a proxy's visitor is a stranger's."""
        return 0 if self.client is not None else self.peer.reach


class ConnectionLimiter:
    """Slots for connections and websocket sessions; used by the event loop alone."""

    __slots__ = ("_by_client", "_held", "_limits", "_proxies", "_requests", "_sessions")

    def __init__(self, limits: ServerLimits, proxies: Sequence[IPNetwork] = ()) -> None:
        """`proxies`: those whose word about their visitors is believed."""
        self._limits = limits
        self._proxies = proxies
        # By reach: how many slots strangers, neighbours, this machine and proxies have.
        self._held = [0, 0, 0]
        self._requests = 0
        self._sessions = 0
        self._by_client: Counter[str] = Counter()

    def enter(self, peer: ClientAddress) -> ConnectionSlot:
        """Return a slot for a new connection. Raises `Rejected`.

        A proxy's counts under whom it speaks for, once known, a near peer's under no client.
        """
        if sum(self._held) >= self._limits.connections or not self.admits(peer.reach):
            raise Rejected(RejectReason.CONNECTIONS)
        slot = ConnectionSlot(peer)
        if not (peer.is_near or peer.is_proxy):
            self._count(slot, peer.client)
        self._held[slot.counted] += 1
        return slot

    def admits(self, reach: int) -> bool:
        """Return True if those with so much `reach` and with less hold fewer slots than are open to them."""
        return sum(self._held[: reach + 1]) < self._limits.connections - self._limits.reserved * (2 - reach)

    def identify(self, slot: ConnectionSlot, forwarded_for: str | None) -> None:
        """Count a proxy's connection under the client it speaks for. Raises `Rejected`."""
        if slot.client is None and slot.peer.is_proxy:
            client = client_behind(forwarded_for, self._proxies)
            if client is not None:
                if not self.admits(0):
                    raise Rejected(RejectReason.CONNECTIONS)
                self._count(slot, client)
            elif not slot.peer.is_near:
                self._count(slot, slot.peer.client)
            self._held[slot.counted] -= 1
            slot.counted = slot.reach
            self._held[slot.counted] += 1

    def open_request(self, slot: ConnectionSlot) -> None:
        """Let the connection have an answer over HTTP. Raises `Rejected`. Neighbours always may."""
        if slot.reach or slot.in_request:
            return
        if self._requests >= self._limits.requests:
            raise Rejected(RejectReason.CONNECTIONS)
        self._requests += 1
        slot.in_request = True

    def open_session(self, slot: ConnectionSlot) -> None:
        """Let the connection become a websocket. Raises `Rejected`."""
        if self._sessions >= self._limits.sessions:
            raise Rejected(RejectReason.SESSIONS)
        self._sessions += 1
        slot.in_session = True

    def leave(self, slot: ConnectionSlot) -> None:
        """Release the slot of an ended connection; once per slot."""
        self._held[slot.counted] -= 1
        self._requests -= slot.in_request
        self._sessions -= slot.in_session
        for name in () if slot.client is None else prefixes_of(slot.client):
            self._by_client[name] -= 1
            if not self._by_client[name]:
                del self._by_client[name]

    def _count(self, slot: ConnectionSlot, client: str) -> None:
        names = prefixes_of(client)
        for name, factor in zip(names, PREFIX_FACTORS, strict=False):
            if self._by_client[name] >= self._limits.connections_per_client * factor:
                raise Rejected(RejectReason.CLIENT_CONNECTIONS)
        self._by_client.update(names)
        slot.client = client
        slot.network = names[-1]


def _parse_ip(text: str) -> IPAddress | None:
    if len(text) > _MAX_FORWARDED_LENGTH:
        return None
    try:
        ip = ipaddress.ip_address(_without_port(text))
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def _is_among(ip: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(ip in network for network in networks)


def _without_port(text: str) -> str:
    """Return the address out of `1.2.3.4:5`, `[::1]:5` and `fe80::1%eth0`, as some proxies write them."""
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
