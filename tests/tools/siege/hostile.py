"""Relays of strangers, all in one process of their own. By hand:

    python -m tests.tools.siege.hostile PLAY [--mib N] [--mib-per-s N]

They listen at one port of every loopback address, so that one process is any number of relays. Plays:

- `quiet`: nothing is stored, nothing comes.
- `hoarse`: the same, and every other request is refused with text that a terminal would obey.
- `endless-document`, `slow-document`: the NIP-11 document never ends.
- names of `payloads.PAYLOADS`: each subscription gets such events, until so many bytes are sent.

It prints `listening on PORT`, answers each line with what it counted, and ends with its input.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.fakes.child import Child
from tests.fakes.net import pause
from tests.fakes.peer import Peer
from tests.fakes.relay_http import wants_websocket
from tests.tools.siege.names import literal
from tests.tools.siege.payloads import HOSTILE_TEXT, PAYLOADS, closed, notice

READY_S = 60.0
NICE = 10
"""How far those who attack stand back, so that the service is not measured without a processor."""
_SO_BINDTODEVICE = 25
_BACKLOG = 1024
_MIB = 1 << 20
_FULL_BYTES = 4 * _MIB
_BREATH_S = 0.02
_DRIP_S = 0.5
_PREPARED = 32
"""Events made before the first is sent, so that signing does not slow the flood."""
_quiet = logging.getLogger("tests.tools.siege.websockets")
_quiet.setLevel(logging.CRITICAL + 1)


class HostileRelays(Peer):
    """The process, as the parent sees it."""

    def __init__(self, play: str, addresses: Sequence[str], **options: float) -> None:
        self.addresses = addresses
        self.port = 0
        self._arguments = [play]
        for name, value in options.items():
            self._arguments += [f"--{name.replace('_', '-')}", str(value)]

    def start(self) -> None:
        """Start it and wait until it listens."""
        with self._starting(Child.module("tests.tools.siege.hostile", *self._arguments)) as child:
            self.port = int(child.wait_line(r"^listening on (\d+)$", READY_S)[1])

    @property
    def urls(self) -> list[str]:
        """Where its relays are."""
        return [literal(address, self.port) for address in self.addresses]

    def counts(self) -> dict[str, int]:
        """`dials` in all, the `hosts` that were dialled, connections that are `open`, `mib` that were sent."""
        self.child.say("counts")
        found: dict[str, int] = json.loads(self.child.wait_line(r"^\{.*\}$", READY_S)[0])
        return found

    def wait(self, name: str, least: int, timeout_s: float) -> bool:
        """Return True once a number of `counts` is so high, False when the time is up."""
        for _ in range(int(timeout_s / 0.1) + 1):
            if self.counts()[name] >= least:
                return True
            pause(0.1)
        return False


class _Relays:
    """What all of them do and have done."""

    def __init__(self, play: str, most_bytes: int, bytes_per_s: float) -> None:
        self.play = play
        self.most_bytes = most_bytes
        self.bytes_per_s = bytes_per_s
        self.dials = 0
        self.open = 0
        self.sent = 0
        self.hosts: Counter[str] = Counter()
        payloads = PAYLOADS.get(play)
        self._payloads = None if payloads is None else payloads(random.SystemRandom().randrange(1 << 62))
        self._prepared: list[str] = []
        if self._payloads is not None and play != "oversize":
            self._prepared = [next(self._payloads) for _ in range(_PREPARED)]

    def counts(self) -> str:
        return json.dumps({"dials": self.dials, "hosts": len(self.hosts), "open": self.open, "mib": self.sent // _MIB})

    def next_event(self) -> str | None:
        """The next event to send; `None` when enough was sent."""
        if self._payloads is None or self.sent >= self.most_bytes:
            return None
        event = self._prepared.pop() if self._prepared else next(self._payloads)
        self.sent += len(event)
        return event

    async def answer_plain(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request for the NIP-11 document as long as it is read, or let the handshake go on."""
        if wants_websocket(request):
            return None
        self._note(connection)
        if not self.play.endswith("-document"):
            return connection.respond(404, "")
        transport = connection.transport
        transport.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/nostr+json\r\n\r\n{"name":"')
        while not transport.is_closing() and self.sent < self.most_bytes:
            if self.play == "slow-document":
                transport.write(b"x")
                await asyncio.sleep(_DRIP_S)
            elif transport.get_write_buffer_size() > _FULL_BYTES:
                await asyncio.sleep(_BREATH_S)
            else:
                transport.write(b"x" * _MIB)
                self.sent += _MIB
                await asyncio.sleep(0)
        transport.abort()
        return connection.respond(404, "")

    def _note(self, connection: ServerConnection) -> None:
        self.dials += 1
        host = connection.transport.get_extra_info("sockname")
        self.hosts[host[0] if host else ""] += 1

    async def serve(self, connection: ServerConnection) -> None:
        """One client, until it goes."""
        self._note(connection)
        self.open += 1
        try:
            await self._talk(connection)
        except ConnectionClosed:
            return
        finally:
            self.open -= 1

    async def _talk(self, connection: ServerConnection) -> None:
        flood: asyncio.Task[None] | None = None
        if self.play == "hoarse":
            await connection.send(notice(HOSTILE_TEXT))
        try:
            async for raw in connection:
                message: list[Any] = json.loads(raw)
                if message[0] != "REQ":
                    continue
                if self.play == "hoarse" and len(self.hosts) and random.random() < 0.5:
                    await connection.send(closed(message[1], f"error: {HOSTILE_TEXT}"))
                    continue
                await connection.send(json.dumps(["EOSE", message[1]]))
                # Subscriptions stay open that select what the events are: a kind of anybody.
                if flood is None and any("authors" not in each and "ids" not in each for each in message[2:]):
                    flood = asyncio.create_task(self._flood(connection, message[1]))
        finally:
            if flood is not None:
                flood.cancel()

    async def _flood(self, connection: ServerConnection, subscription: str) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while (event := self.next_event()) is not None:
            await connection.send(f'["EVENT","{subscription}",{event}]')
            if self.bytes_per_s:
                due += len(event) / self.bytes_per_s
                await asyncio.sleep(max(0.0, due - loop.time()))


def _listener() -> socket.socket:
    """Every address of the loopback interface, and of no other."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, b"lo")
    listener.bind(("0.0.0.0", 0))
    listener.listen(_BACKLOG)
    return listener


async def _run(options: argparse.Namespace) -> None:
    relays = _Relays(options.play, int(options.mib * _MIB), options.mib_per_s * _MIB)
    listener = _listener()
    async with serve(
        relays.serve, sock=listener, process_request=relays.answer_plain, compression=None, ping_interval=None,
        max_size=None, close_timeout=1, logger=_quiet,
    ):  # fmt: skip
        print(f"listening on {listener.getsockname()[1]}", flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while await reader.readline():
            print(relays.counts(), flush=True)
    # Connections in the middle of a flood would be waited for.
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Read the options and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.siege.hostile", description=__doc__)
    parser.add_argument("play")
    parser.add_argument("--mib", type=float, default=64.0, help="send no more than that in all")
    parser.add_argument("--mib-per-s", type=float, default=0.0, help="0: as fast as it is read")
    options = parser.parse_args()
    # Strangers attack from machines of their own.
    os.nice(NICE)
    asyncio.run(_run(options))


if __name__ == "__main__":
    main()
