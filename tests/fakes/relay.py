"""A scripted relay: a real websocket server on loopback, right by NIP-01 unless its behaviour says otherwise.

    with ScriptedRelay(STRFRY) as relay:
        relay.hold(events)                      # in its store, nobody is told
        relay.wait_for_req(lambda req: 0 in req.filters[0].get("kinds", ()))
        relay.publish(event)                    # stored, and live to whoever subscribed
        relay.behave(Behaviour(eose=False))     # from now on
        relay.journal.of(Req)                   # what was asked

It runs in a thread of its own; everything public may be called from any thread. `behaviour.py` lists what it can play.
"""

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from time import monotonic
from typing import Any, Self, TypeVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from tests.factories.events import SignedEvent
from tests.fakes.behaviour import HONEST, Behaviour, Upgrade
from tests.fakes.net import free_port, loopback_address
from tests.fakes.relay_connection import Connection
from tests.fakes.relay_frames import reset
from tests.fakes.relay_http import EARLY_ANSWER, nip11_response, plain_headers, refused_upgrade, wants_websocket
from tests.fakes.relay_journal import (
    DEFAULT_TIMEOUT_S,
    Answered,
    Close,
    Connected,
    Disconnected,
    HttpRequest,
    Journal,
    Published,
    Req,
)
from tests.fakes.relay_store import MemoryStore

_quiet = logging.getLogger("tests.fakes.relay.websockets")
_quiet.setLevel(logging.CRITICAL + 1)
T = TypeVar("T")
_LOOK_S = 0.01


class ScriptedRelay:
    """One relay at an address of its own. `start` after `stop` serves at the same url with the same events.

    `replaces`: it keeps only the newest version of a replaceable event; otherwise everything it was ever given.
    """

    def __init__(
        self,
        behaviour: Behaviour = HONEST,
        *,
        events: Iterable[SignedEvent] = (),
        address: str | None = None,
        port: int | None = None,
        replaces: bool = False,
        seed: int = 0,
        arriving: Iterable[SignedEvent] = (),
    ) -> None:
        """`arriving`: what comes later, as its behaviour says, in this order."""
        self.behaviour = behaviour
        self.journal = Journal()
        self.store = MemoryStore(replaces=replaces, seed=seed)
        self.store.add_all(events)
        self._arriving = deque(arriving)
        self.address = address or loopback_address()
        self.port = port or free_port(self.address)
        self._turns: Counter[object] = Counter()
        self._connections: dict[int, tuple[Connection, ServerConnection]] = {}
        self._opened = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"ws://{self.address}:{self.port}"

    def start(self) -> None:
        """Serve; returns when it listens."""
        assert self._loop is None, "already started"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"relay {self.address}", daemon=True)
        self._thread.start()
        try:
            self._server = self._run(self._serve())
        except BaseException:
            self.stop()
            raise

    async def _serve(self) -> Server:
        return await serve(
            self._handle,
            self.address,
            self.port,
            process_request=self._process_request,
            compression="deflate" if self.behaviour.compression else None,
            server_header="scripted",
            ping_interval=None,
            close_timeout=1,
            max_size=None,
            logger=_quiet,
        )

    def stop(self) -> None:
        """Reset all connections and stop listening. May be repeated."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        asyncio.run_coroutine_threadsafe(self._shut(), loop).result(DEFAULT_TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        if self._thread is not None:
            self._thread.join(DEFAULT_TIMEOUT_S)
        loop.close()

    async def _shut(self) -> None:
        for _, socket in self._connections.values():
            reset(socket)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None, "not started"
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEFAULT_TIMEOUT_S * 2)

    def _call(self, action: Callable[[], T]) -> T:
        """Do something on the relay's thread, or here when it does not run."""
        if self._loop is None:
            return action()

        async def act() -> T:
            return action()

        return self._run(act())

    def behave(self, behaviour: Behaviour) -> None:
        """Behave like this from the next message on; counts of `times` begin anew."""

        def change() -> None:
            self.behaviour = behaviour
            self._turns.clear()

        self._call(change)

    def hold(self, events: Iterable[SignedEvent]) -> int:
        """Put events into the store without telling subscribers; returns how many were new."""
        return self._call(lambda: self.store.add_all(events))

    def publish(self, *events: SignedEvent) -> int:
        """Store events and hand them to live subscriptions; returns to how many subscriptions they went in all."""
        return self._call(lambda: sum(self._publish(event) for event in events))

    def _publish(self, event: SignedEvent) -> int:
        if self.store.add(event):
            return 0
        return sum(connection.offer(event) for connection, _ in list(self._connections.values()))

    def arrive(self) -> None:
        """Take in whatever is still about to arrive."""
        self._call(lambda: self.let_arrive(len(self._arriving)))

    def let_arrive(self, count: int) -> None:
        """See `relay_intake.Relay`."""
        for _ in range(min(count, len(self._arriving))):
            self._publish(self._arriving.popleft())

    def shout(self, *frames: str) -> int:
        """Send frames as they stand to every client; returns to how many."""

        def send() -> int:
            for connection, _ in self._connections.values():
                for text in frames:
                    connection.output.text(text)
            return len(self._connections)

        return self._call(send)

    def drop(self, *, then_hold: Iterable[SignedEvent] = ()) -> int:
        """Reset every connection; returns how many there were. No client is back before it holds `then_hold`."""

        def cut() -> int:
            for _, socket in self._connections.values():
                reset(socket)
            self.store.add_all(then_hold)
            return len(self._connections)

        return self._call(cut)

    def stored(self) -> list[SignedEvent]:
        """What it holds, newest first."""
        return self._call(lambda: list(self.store))

    @property
    def connections(self) -> int:
        """Clients connected at this moment."""
        return self._call(lambda: len(self._connections))

    @property
    def open_subscriptions(self) -> int:
        """Subscriptions open at this moment, over all clients."""
        return self._call(lambda: sum(len(connection.subscriptions) for connection, _ in self._connections.values()))

    @property
    def unread_bytes(self) -> int:
        """The most that waits for any one client to read it."""
        sockets = self._connections.values()
        return self._call(lambda: max((one.transport.get_write_buffer_size() for _, one in sockets), default=0))

    def turn(self, rule: object, *, skip: int = 0, times: int | None = None) -> bool:
        """See `relay_intake.Relay`."""
        self._turns[rule] += 1
        number = self._turns[rule] - skip
        return number > 0 and (times is None or number <= times)

    def accept(self, event: SignedEvent) -> str:
        """See `relay_intake.Relay`."""
        why = "" if 20000 <= event.kind < 30000 else self.store.add(event)
        if not why:
            for connection, _ in list(self._connections.values()):
                connection.offer(event)
        return why

    async def _handle(self, socket: ServerConnection) -> None:
        self._opened += 1
        number = self._opened
        assert socket.request is not None
        connection = Connection(self, socket, number)
        self._connections[number] = (connection, socket)
        headers = plain_headers(socket.request)
        client = str((socket.remote_address or ("",))[0])
        self.journal.add(
            Connected(at=monotonic(), connection=number, client=client, path=socket.request.path, headers=headers)
        )
        try:
            await connection.serve()
        finally:
            del self._connections[number]
            self.journal.add(Disconnected(at=monotonic(), connection=number, code=socket.close_code or 1006))

    async def _process_request(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP and refused handshakes; `None` lets the handshake go on."""
        upgrade = self.behaviour.upgrade
        if wants_websocket(request):
            socket.transport.write(EARLY_ANSWER * self.behaviour.early_answers)
        if not wants_websocket(request):
            await asyncio.sleep(self.behaviour.nip11_delay_s)
            while self.behaviour.nip11_after_req and not self.journal.of(Req):
                await asyncio.sleep(_LOOK_S)
            response = nip11_response(request, self.behaviour)
        elif upgrade is not None and self.turn(upgrade, times=upgrade.times):
            response = refused_upgrade(upgrade)
        elif self.behaviour.only_path not in (None, request.path):
            response = refused_upgrade(Upgrade(404))
        else:
            return None
        headers = plain_headers(request)
        status = response.status_code
        self.journal.add(HttpRequest(at=monotonic(), connection=0, path=request.path, headers=headers, status=status))
        return response

    def wait_for_req(
        self, match: Callable[[Req], bool] | None = None, *, count: int = 1, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Req:
        """The REQ number `count` of those that match, over all time; raises `TimeoutError`."""
        return self.journal.wait_for(Req, match, count=count, timeout_s=timeout_s)

    def wait_for_close(self, subscription: str | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Close:
        """A CLOSE, of this subscription if given."""
        match = None if subscription is None else (lambda close: bool(close.subscription == subscription))
        return self.journal.wait_for(Close, match, timeout_s=timeout_s)

    def wait_for_answer(
        self, subscription: str | None = None, *, count: int = 1, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Answered:
        """A page that was sent to its end, of this subscription if given."""
        match = None if subscription is None else (lambda page: bool(page.subscription == subscription))
        return self.journal.wait_for(Answered, match, count=count, timeout_s=timeout_s)

    def wait_for_connection(self, count: int = 1, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Connected:
        """The handshake number `count`."""
        return self.journal.wait_for(Connected, count=count, timeout_s=timeout_s)

    def wait_for_disconnection(self, count: int = 1, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Disconnected:
        """The end number `count` of a connection."""
        return self.journal.wait_for(Disconnected, count=count, timeout_s=timeout_s)

    def wait_for_published(
        self, event_id: str | None = None, *, count: int = 1, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Published:
        """An EVENT that came in, with this id if given."""
        match = None if event_id is None else (lambda entry: bool(entry.event_id == event_id))
        return self.journal.wait_for(Published, match, count=count, timeout_s=timeout_s)
