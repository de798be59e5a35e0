"""One connection of the web server, with the bounds that the library leaves to its user."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from pipeline.process.clock import Clock
from pipeline.process.rate import TokenBucket
from pipeline.server.clients import ClientAddress, ConnectionLimiter, ConnectionSlot, client_behind, peer_of
from pipeline.server.eviction import Occupant, first_to_yield
from pipeline.server.limits import Refuse, Rejected, RejectReason, ServerLimits, prefixes_of
from pipeline.settings.values import IPNetwork

# asyncio reads 256 KiB at once: up to 40,000 pings, all of which the library would answer before we see the first.
_SLICE_BYTES = 4 << 10
# A client that is near, or a proxy, has sent its first message by then.
_SPARED_S = 0.02
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Guard:
    """What all connections of a server share; used by the event loop alone."""

    def __init__(
        self,
        limits: ServerLimits,
        clock: Clock,
        refuse: Refuse,
        proxies: Sequence[IPNetwork] = (),
        origins: Sequence[str] = (),
    ) -> None:
        """`origins`: the web pages that may open websockets; empty: all, and programs always."""
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self.limits = limits
        self.clock = clock
        self.refuse = refuse
        self.proxies = proxies
        self.limiter = ConnectionLimiter(limits, proxies)
        # In the order in which they came.
        self.connections: dict[LimitedConnection, None] = {}

    def connection_class(self) -> "type[LimitedConnection]":
        """Return the class whose connections answer to this guard."""

        class BoundConnection(LimitedConnection):
            guard = self

        return BoundConnection

    def enter(self, peer: ClientAddress) -> ConnectionSlot:
        """Return a slot for a new connection; when all are taken a silent one yields. Raises `Rejected`."""
        try:
            return self.limiter.enter(peer)
        except Rejected as refused:
            network = None if peer.is_near or peer.is_proxy else prefixes_of(peer.client)[-1]
            if refused.reason is not RejectReason.CONNECTIONS or not self._make_room(network, peer.reach):
                raise
            return self.limiter.enter(peer)

    def identify(self, slot: ConnectionSlot, forwarded_for: str | None) -> None:
        """Count a connection under the client that it is made for; a silent one yields to it. Raises `Rejected`."""
        try:
            self.limiter.identify(slot, forwarded_for)
        except Rejected as refused:
            client = client_behind(forwarded_for, self.proxies)
            network = None if client is None else prefixes_of(client)[-1]
            if refused.reason is not RejectReason.CONNECTIONS or not self._make_room(network, 0):
                raise
            self.limiter.identify(slot, forwarded_for)

    def require_origin(self, origins: Sequence[str]) -> None:
        """Raise `Rejected` for a page that the setting does not name."""
        if self._origins and not self._origins.issuperset(origin.lower() for origin in origins):
            raise Rejected(RejectReason.ORIGIN)

    def open_session(self, slot: ConnectionSlot) -> None:
        """Take a slot among the websockets; when all are taken a silent one yields. Raises `Rejected`."""
        try:
            self.limiter.open_session(slot)
        except Rejected:
            if not self._make_room(slot.network, slot.reach, sessions_only=True):
                raise
            self.limiter.open_session(slot)

    def _make_room(self, network: str | None, reach: int, *, sessions_only: bool = False) -> bool:
        """End the connection that yields to a newcomer; return whether there was one."""
        connections = [each for each in self.connections if each.slot is not None]
        occupants = [each.occupant() for each in connections]
        latest = self.clock.monotonic() - _SPARED_S
        index = first_to_yield(
            occupants, random.choice, network=network, reach=reach, latest=latest, sessions_only=sessions_only
        )
        if index is None and not sessions_only and self.limiter.admits(reach):
            # Only because others have taken all: a neighbour that is not served has no use of its slot.
            index = next((index for index, each in enumerate(occupants) if not each.is_served), None)
        if index is None:
            return False
        connections[index].abort_with(RejectReason.SILENT)
        connections[index].release_slot()
        return True

    def abort_all(self) -> None:
        """End what is left of every connection at once."""
        for connection in tuple(self.connections):
            connection.transport.abort()

    def close_idle(self) -> None:
        """End the connections that have not asked for anything yet."""
        for connection in tuple(self.connections):
            if connection.request is None:
                connection.transport.abort()


class LimitedConnection(ServerConnection):
    """Refuses connections beyond the bounds, and cuts off clients that flood or do not read."""

    guard: Guard

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slot: ConnectionSlot | None = None
        self._head_bytes = 0
        self._frames = TokenBucket(self.guard.limits.frames, self.guard.clock.monotonic())
        self._unread: asyncio.TimerHandle | None = None
        self._is_cut = False
        self.is_refused = False
        """Whether its request was refused, so that it only remains to be closed."""
        self.waiting_since: float | None = None
        """Since when a websocket waits for its client's next message (monotonic s); None while it does not."""

    def occupant(self) -> Occupant:
        """Return what decides whether it yields its slot; it has one."""
        assert self.slot is not None
        slot = self.slot
        is_served = self.request is not None and not self.is_refused
        return Occupant(slot.network, slot.reach, slot.in_session, is_served, self.waiting_since)

    @property
    def client(self) -> str | None:
        """The name that the client's own bounds count under; None if only the bounds for all are its."""
        return None if self.slot is None else self.slot.client

    @property
    def peer(self) -> ClientAddress | None:
        """The other end; None when it has gone."""
        return None if self.slot is None else self.slot.peer

    def identify(self, forwarded_for: str | None) -> None:
        """Count the connection under the client that it is made for. Raises `Rejected`."""
        if self.slot is not None:
            self.guard.identify(self.slot, forwarded_for)

    def open_session(self) -> None:
        """Take a slot among the websockets, held until the connection ends. Raises `Rejected`."""
        if self.slot is not None:
            self.guard.open_session(self.slot)

    def open_request(self) -> None:
        """Take a slot among the requests that are answered, held until the connection ends. Raises `Rejected`."""
        if self.slot is not None:
            self.guard.limiter.open_request(self.slot)

    def release_slot(self) -> None:
        """Release the slot; may be repeated."""
        if self.slot is not None:
            self.guard.connections.pop(self, None)
            self.guard.limiter.leave(self.slot)
            self.slot = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a slot, or say that there is none and close."""
        super().connection_made(transport)
        try:
            self.slot = self.guard.enter(peer_of(transport.get_extra_info("peername"), self.guard.proxies))
        except Rejected as error:
            self.guard.refuse(error.reason)
            # The library learns that the connection is lost before it has read anything.
            self.transport.write(_FULL)
            self.transport.close()
            return
        self.guard.connections[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the slot."""
        self._forget_unread()
        self.release_slot()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on in slices, until the request has grown too long or there are too many frames."""
        for start in range(0, len(data), _SLICE_BYTES):
            part = data[start : start + _SLICE_BYTES]
            if self.request is None:
                self._head_bytes += len(part)
                if self._head_bytes > self.guard.limits.request_bytes:
                    self.abort_with(RejectReason.REQUEST_SIZE)
            if self.transport.is_closing():
                return
            super().data_received(part)

    def process_event(self, event: Any) -> None:
        """Pass the request or a frame on, unless there are too many frames."""
        if self._is_cut:
            return
        # The library answers pings by itself, so that only here a flood of them is seen.
        if not isinstance(event, Request) and not self._frames.take(self.guard.clock.monotonic()):
            self.abort_with(RejectReason.FRAMES)
            return
        super().process_event(event)

    def pause_writing(self) -> None:
        """Give the client, who leaves much unread, a time to go on reading."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.guard.limits.send_s, self.abort_with, RejectReason.SLOW)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._forget_unread()

    def abort_with(self, reason: RejectReason) -> None:
        """Count why, and end the connection without another word."""
        if not self._is_cut:
            self._is_cut = True
            self.guard.refuse(reason)
            self.transport.abort()

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
