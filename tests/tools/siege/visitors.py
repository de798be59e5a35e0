"""Hostile clients of the web server, many at once, in one process of their own. By hand:

    python -m tests.tools.siege.visitors PLAY HOST PORT SECONDS [--clients N]

Each client opens a connection, does what the play says and opens another when it is cut off. Plays:

- `silent`: from this machine, without a byte.
- `networks`: websockets of IPv6 visitors of one /48, sixteen /64s of each /56, behind the trusted proxy.
- `addresses`: idle websockets behind the proxy, each from an IPv4 address of its own.
- `slow-headers`: behind the proxy, a header byte by byte.
- `pings`: websockets behind the proxy that send pings as fast as they are read.
- `scrapes`: visitors behind the proxy that ask for `/metrics`, the page and `/public-keys` without a pause.

It prints what it counted as one line of JSON and ends.
"""

import argparse
import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.fakes.child import Child
from tests.tools.siege.clients import PROXY
from tests.tools.siege.hostile import NICE

_LIMIT_S = 60.0
_AGAIN_S = 0.05
_DRIP_S = 0.2
_ANSWER_BYTES = 65_536
_PING = b"\x89\xfd" + bytes(4) + b"p" * 125
_PINGS_AT_ONCE = 64
_PATHS = ("/metrics", "/", "/public-keys/" + "0" * 64)
Play = Callable[["Visitors", int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Visitors:
    """All of them."""

    host: str
    port: int
    play: str
    counts: Counter[str] = field(default_factory=Counter)

    async def run(self, clients: int, seconds: float) -> None:
        """Let so many come and come again for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for number in range(clients):
                    group.create_task(self._come(number))

    async def _come(self, number: int) -> None:
        play, is_behind_proxy = _PLAYS[self.play]
        source = (PROXY, 0) if is_behind_proxy else None
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(self.host, self.port, local_addr=source)
                self.counts["opened"] += 1
                try:
                    await play(self, number, reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(_AGAIN_S)

    async def read_status(self, reader: asyncio.StreamReader) -> int:
        """Return the status of an answer, 0 for none."""
        words = (await reader.readline()).split(b" ", 2)
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        self.counts[f"status {status}"] += 1
        return status


async def _silent(_: Visitors, __: int, reader: asyncio.StreamReader, ___: asyncio.StreamWriter) -> None:
    await reader.read()


async def _network(visitors: Visitors, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    subnet = number % 16 + 256 * (number // 512)
    if await _upgrade(visitors, f"2a0b:4d07:2:{subnet:x}::{number + 1:x}", reader, writer):
        await reader.read()


async def _address(visitors: Visitors, _: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await _upgrade(visitors, _visitor(visitors.counts["opened"]), reader, writer):
        await reader.read()


async def _slow(_: Visitors, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(f"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {_visitor(number)}\r\nX-Slow: ".encode())
    while not reader.at_eof():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(_DRIP_S)


async def _pings(visitors: Visitors, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if not await _upgrade(visitors, _visitor(number), reader, writer):
        return
    while not reader.at_eof():
        writer.write(_PING * _PINGS_AT_ONCE)
        visitors.counts["pings"] += _PINGS_AT_ONCE
        await writer.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                await reader.read(_ANSWER_BYTES)


async def _scrapes(visitors: Visitors, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    visitors.counts["asked"] += 1
    path = _PATHS[visitors.counts["asked"] % len(_PATHS)]
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\nX-Forwarded-For: {_visitor(number)}\r\n"
        "Connection: close\r\n\r\n".encode()
    )
    await visitors.read_status(reader)
    await reader.read()


async def _upgrade(
    visitors: Visitors, visitor: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    writer.write(
        f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Forwarded-For: {visitor}\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return await visitors.read_status(reader) == 101


def _visitor(number: int) -> str:
    return f"12.{number // 250}.{number % 250}.9"


_PLAYS: dict[str, tuple[Play, bool]] = {
    "silent": (_silent, False),
    "networks": (_network, True),
    "addresses": (_address, True),
    "slow-headers": (_slow, True),
    "pings": (_pings, True),
    "scrapes": (_scrapes, True),
}


class VisitorProcess:
    """The process, as the parent sees it."""

    def __init__(self, play: str, host: str, port: int, *, seconds: float, clients: int) -> None:
        self._seconds = seconds
        self._child = Child.module(
            "tests.tools.siege.visitors", play, host, str(port), str(seconds), "--clients", str(clients)
        )

    def wait(self) -> dict[str, int]:
        """Return what it counted, once it has ended."""
        try:
            found: dict[str, int] = json.loads(self._child.wait_line(r"^\{.*\}$", self._seconds + _LIMIT_S)[0])
            return found
        finally:
            self._child.close()


def main() -> None:
    """Read the options and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.siege.visitors", description=__doc__)
    parser.add_argument("play", choices=sorted(_PLAYS))
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--clients", type=int, default=100)
    options = parser.parse_args()
    os.nice(NICE)
    visitors = Visitors(options.host, options.port, options.play)
    asyncio.run(visitors.run(options.clients, options.seconds))
    print(json.dumps(visitors.counts), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
