"""One client of a load-generating relay: just enough of NIP-01 to be subscribed to, and frames made at little cost."""

import json
import socket
from collections import deque
from collections.abc import Iterable

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

_READ_BYTES = 64 << 10
# `{"id":"…","pubkey":"…"`: where the key stands in the lines of the workload.
PUBKEY = slice(83, 147)


class Peer:
    """A connection. Its socket never blocks; what it does not take now waits in `out`, and nobody adds to that."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        # As relays do: Nagle's algorithm would hold back each event until the one before it was acknowledged.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.out: deque[memoryview] = deque()
        self.routes: dict[bytes, bytes] = {}
        self.open_pages: set[str] = set()
        self.is_closed = False
        self.is_watched = False
        """For the owner: whether it waits for the socket to take more."""
        self._protocol = ServerProtocol(max_size=1 << 20)

    @property
    def is_backed_up(self) -> bool:
        """Whether the client has to read before anything more is put out."""
        return bool(self.out)

    def read(self) -> None:
        """Take what the client sent, and answer it."""
        try:
            data = self.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.is_closed = True
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._answer(event)
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.on_message(json.loads(bytes(event.data)))
        self._put_out(self._protocol.data_to_send())

    def write(self) -> None:
        """Hand the kernel what it takes."""
        while self.out:
            try:
                sent = self.sock.send(self.out[0])
            except BlockingIOError:
                return
            except OSError:
                self.is_closed = True
                return
            if sent < len(self.out[0]):
                self.out[0] = self.out[0][sent:]
                return
            self.out.popleft()

    def put_events(self, lines: Iterable[bytes]) -> int:
        """Put out events for the subscription that asks for each; returns how many those are."""
        parts: list[bytes] = []
        for line in lines:
            route = self.routes.get(line[PUBKEY])
            if route is not None:
                length = len(route) + len(line) + 1
                parts += (b"\x81\x7e", length.to_bytes(2), route, line, b"]")
        if parts:
            self.out.append(memoryview(b"".join(parts)))
        return len(parts) // 5

    def _answer(self, request: Request) -> None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            self._protocol.send_response(self._protocol.accept(request))
        else:
            self._protocol.send_response(self._protocol.reject(404, "no information document\n"))

    def on_message(self, message: list[object]) -> None:
        """Answer a message of the client."""
        match message:
            case ["REQ", str(subscription), *filters]:
                self._subscribe(subscription, [each for each in filters if isinstance(each, dict)])
                self._protocol.send_text(json.dumps(["EOSE", subscription]).encode())
            case ["CLOSE", str(subscription)]:
                self.open_pages.discard(subscription)
                self._forget(subscription)
            case _:
                pass

    def _subscribe(self, subscription: str, filters: list[dict[str, object]]) -> None:
        """Nothing is stored; from now on events go to the subscription whose filter has authors and no other bound."""
        self._forget(subscription)
        route = b'["EVENT",' + json.dumps(subscription).encode() + b","
        for each in filters:
            members = each.get("authors")
            if isinstance(members, list) and each.keys() <= {"authors", "limit"}:
                self.routes.update((str(member).encode(), route) for member in members)
        if any(each.get("limit") != 0 for each in filters):
            self.open_pages.add(subscription)

    def _forget(self, subscription: str) -> None:
        route = b'["EVENT",' + json.dumps(subscription).encode() + b","
        self.routes = {member: known for member, known in self.routes.items() if known != route}

    def _put_out(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            if piece:
                self.out.append(memoryview(piece))
            else:
                self.is_closed = not self.out
