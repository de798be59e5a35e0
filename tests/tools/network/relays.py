"""One process that plays every relay of a network: each at an address of its own, strict and plain by NIP-01.

Run as a child: it says `ready PORT`, then answers each line with one line of JSON; it ends with its input. The line
`gone ADDRESS` says that this client is gone from now on; what it asked is to be asked by another.
"""

import argparse
import asyncio
import json
import logging
import math
import random
import socket
import sys
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from time import monotonic, time
from typing import Any

import orjson
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.factories.events import SignedEvent
from tests.tools.network.world import Network, Placed

CAP = 500
MAX_SUBSCRIPTIONS = 20
REACH_S = 90 * 60
# Of a hundred relays so many are named and not there, so many give nothing to filters for everything.
DOWN, NARROW = 5, 3
_quiet = logging.getLogger("tests.tools.network.websockets")
_quiet.setLevel(logging.CRITICAL + 1)


@dataclass(slots=True)
class Stats:
    """What all relays together have seen."""

    dials: int = 0
    connected: int = 0
    requests: int = 0
    broad_requests: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    sent_events: int = 0
    copies: int = 0
    published: int = 0
    banned: int = 0
    """Handshakes of the client that a part of the relays ban."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter of a client."""

    authors: frozenset[str] | None
    kinds: frozenset[int] | None
    mentions: frozenset[str] | None
    since: int
    until: int
    limit: int

    @classmethod
    def read(cls, value: dict[str, Any]) -> "Wanted":
        """What a filter says; members that none of ours has are not looked at."""
        authors, kinds, mentions = (
            frozenset(value[name]) if name in value else None for name in ("authors", "kinds", "#p")
        )
        limit = min(value.get("limit", CAP), CAP)
        return cls(authors, kinds, mentions, value.get("since", 0), value.get("until", 1 << 60), limit)

    @property
    def is_broad(self) -> bool:
        """Whether it asks for everything."""
        return self.authors is None and self.kinds is None and self.mentions is None

    def matches(self, event: SignedEvent) -> bool:
        """Whether an event is what is asked for, times left aside."""
        return (
            (self.authors is None or event.pubkey in self.authors)
            and (self.kinds is None or event.kind in self.kinds)
            and (self.mentions is None or not self.mentions.isdisjoint(event.mentioned()))
        )


@dataclass(slots=True)
class Client:
    """A connection and what it subscribed to."""

    connection: ServerConnection
    address: str
    has_asked: bool = False
    subscriptions: dict[str, list[Wanted]] = field(default_factory=dict)


@dataclass(slots=True)
class Relay:
    """One relay: its events in the order of time, and its clients."""

    is_narrow: bool
    stats: Stats
    events: list[tuple[int, int, SignedEvent]] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    unasked_since: float | None = None
    """Since when nobody asks it (monotonic); None: somebody does, or nobody ever came."""
    longest_unasked_s: float = 0.0
    asked_at: float = -math.inf
    """When somebody asked it for the first time in a connection, the last time that one did (monotonic)."""

    def on_dialled(self) -> None:
        """Somebody came, who may be refused."""
        if self.unasked_since is None and not self.is_asked:
            self.unasked_since = monotonic()

    def on_asked(self, client: Client) -> None:
        """A client asks for the first time."""
        client.has_asked = True
        self.asked_at = monotonic()
        self.longest_unasked_s, self.unasked_since = self.unasked_for(), None

    def on_left(self, client: Client) -> None:
        """A client left."""
        self.clients.remove(client)
        if client.has_asked and not self.is_asked:
            self.unasked_since = monotonic()

    @property
    def is_asked(self) -> bool:
        """Whether somebody is connected who asked something."""
        return any(each.has_asked for each in self.clients)

    def unasked_for(self) -> float:
        """For how long it was not asked at most (s), now included."""
        now_s = 0.0 if self.unasked_since is None else monotonic() - self.unasked_since
        return max(self.longest_unasked_s, now_s)

    def hold(self, event: SignedEvent, number: int) -> None:
        """Store an event; nobody is told."""
        insort(self.events, (event.created_at, number, event))

    async def publish(self, event: SignedEvent, number: int) -> None:
        """Store an event and tell whoever subscribed to it."""
        self.hold(event, number)
        for client in list(self.clients):
            for name, filters in list(client.subscriptions.items()):
                if any(each.matches(event) for each in filters):
                    await self.send(client, f'["EVENT","{name}",{event.raw}]')
                    self.stats.sent_events += 1

    async def send(self, client: Client, text: str) -> None:
        """Send a message to somebody who may be gone."""
        self.stats.sent_bytes += len(text)
        try:
            await client.connection.send(text)
        except ConnectionClosed:
            return

    async def hear(self, client: Client, text: str) -> None:
        """Take a message of a client."""
        self.stats.received_bytes += len(text)
        kind, name, *values = orjson.loads(text)
        if kind == "CLOSE":
            client.subscriptions.pop(name, None)
            return
        if kind != "REQ":
            return
        self.stats.requests += 1
        if not client.has_asked:
            self.on_asked(client)
        filters = [Wanted.read(value) for value in values]
        self.stats.broad_requests += any(each.is_broad for each in filters)
        if name not in client.subscriptions and len(client.subscriptions) >= MAX_SUBSCRIPTIONS:
            await self.send(client, '["NOTICE","ERROR: too many concurrent REQs"]')
            return
        if self.is_narrow and any(each.is_broad for each in filters):
            await self.send(client, f'["CLOSED","{name}","blocked: can\'t handle empty filters"]')
            return
        client.subscriptions[name] = filters
        for event in self.page(filters):
            await self.send(client, f'["EVENT","{name}",{event.raw}]')
            self.stats.sent_events += 1
        await self.send(client, f'["EOSE","{name}"]')

    def page(self, filters: list[Wanted]) -> Iterator[SignedEvent]:
        """What is stored, the newest first."""
        for each in filters:
            low = bisect_left(self.events, (each.since,))
            high = bisect_right(self.events, (each.until + 1,))
            left = each.limit
            for index in range(high - 1, low - 1, -1):
                if not left:
                    break
                event = self.events[index][2]
                if each.matches(event):
                    left -= 1
                    yield event


class Relays:
    """All relays of a network, and the file of what the service must have in the end."""

    def __init__(self, network: Network, expected: Path, banned: str = "") -> None:
        self.network = network
        self.stats = Stats()
        self.relays = [Relay(_is_narrow(number), self.stats) for number in range(network.relays)]
        self._by_address = {network.address(number): number for number in range(network.relays)}
        self._expected = expected.open("w")
        self._numbers = 0
        self._banned = banned
        self._gone: dict[int, float] = {}
        self._again_s: list[float] = []

    def addresses(self) -> list[str]:
        """Where somebody listens."""
        return [self.network.address(number) for number in range(self.network.relays) if not is_down(number)]

    def place(self, placed: Placed) -> list[Relay]:
        """Note who holds an event, and that it must come where anybody does; relays that are down have nothing."""
        holders = [number for number in placed.relays if not is_down(number)]
        self._numbers += 1
        self.stats.published += 1
        self.stats.copies += len(holders)
        if placed.is_wanted and holders:
            self._expected.write(f"{placed.event.id}\n")
        return [self.relays[number] for number in holders]

    def hold(self, placed: Placed) -> None:
        """Store an event on its relays."""
        for relay in self.place(placed):
            relay.hold(placed.event, self._numbers)

    async def publish(self, placed: Placed) -> None:
        """The same, live."""
        for relay in self.place(placed):
            await relay.publish(placed.event, self._numbers)
        self._expected.flush()

    def admit(self, connection: ServerConnection, _: Request) -> Response | None:
        """Refuse the client that a part of the relays ban."""
        number = self._by_address[connection.local_address[0]]
        self.relays[number].on_dialled()
        if connection.remote_address[0] == self._banned and bans(number):
            self.stats.banned += 1
            return connection.respond(HTTPStatus.FORBIDDEN, "banned\n")
        return None

    def on_gone(self, address: str) -> None:
        """Measure from now on when others ask what this client asked."""
        self._gone = {
            number: monotonic()
            for number, relay in enumerate(self.relays)
            if any(each.has_asked and each.address == address for each in relay.clients)
        }

    def report(self) -> dict[str, Any]:
        """Return all figures as they are now."""
        for number, since in list(self._gone.items()):
            asked_at = self.relays[number].asked_at
            if asked_at > since:
                self._again_s.append(asked_at - since)
                del self._gone[number]
        asked_by = Counter(each.address for relay in self.relays for each in relay.clients if each.has_asked)
        return asdict(self.stats) | {
            "asked_by": dict(asked_by),
            "unasked_s": max((relay.unasked_for() for relay in self.relays), default=0.0),
            "unasked": sum(relay.unasked_since is not None for relay in self.relays),
            "still_gone": len(self._gone),
            "asked_again_s": self._again_s,
        }

    async def serve(self, connection: ServerConnection) -> None:
        """One connection, from its upgrade to its end."""
        relay = self.relays[self._by_address[connection.local_address[0]]]
        client = Client(connection, connection.remote_address[0])
        self.stats.dials += 1
        self.stats.connected += 1
        relay.clients.append(client)
        try:
            async for message in connection:
                await relay.hear(client, str(message))
        except ConnectionClosed:
            pass
        finally:
            relay.on_left(client)
            self.stats.connected -= 1


def is_down(relay: int) -> bool:
    """Whether a relay is named by people and not there; the largest are."""
    return relay >= 10 and relay % 100 < DOWN


def bans(relay: int) -> bool:
    """Whether a relay bans the client that some ban."""
    return relay >= 10 and relay % 5 == 4


def _is_narrow(relay: int) -> bool:
    return relay >= 10 and DOWN <= relay % 100 < DOWN + NARROW


async def play(options: argparse.Namespace) -> None:
    """Fill the relays, open them, publish until the time is up, and go on answering until standard input ends."""
    network = Network.make(
        options.seed, relays=options.relays, people=options.people, users=options.users, wanted=options.wanted,
        base=options.base,
    )  # fmt: skip
    relays = Relays(network, options.expected, options.banned)
    now = int(time())
    rng = random.Random(f"{options.seed} notes")
    for placed in network.relay_lists(now - REACH_S, now, options.port):
        relays.hold(placed)
    for placed in network.contact_lists(now - 60):
        relays.hold(placed)
    for _ in range(options.stored):
        relays.hold(network.note(rng, rng.randint(now - REACH_S, now)))
    listeners = [socket.create_server((address, options.port)) for address in relays.addresses()]
    async with AsyncExitStack() as stack:
        for listener in listeners:
            await stack.enter_async_context(
                serve(
                    relays.serve,
                    sock=listener,
                    compression=None,
                    max_size=1 << 20,
                    ping_interval=None,
                    logger=_quiet,
                    process_request=relays.admit,
                )
            )
        print("ready", flush=True)
        publisher = asyncio.create_task(_publish(relays, network, rng, options))
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            if publisher.done():
                publisher.result()
            if line.startswith(b"gone "):
                relays.on_gone(line.split()[1].decode())
            print(json.dumps(relays.report() | {"publishing": not publisher.done()}), flush=True)
        publisher.cancel()


async def _publish(relays: Relays, network: Network, rng: random.Random, options: argparse.Namespace) -> None:
    """Notes at random times, `rate` a second on average, some of them back-dated."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    at = 0.0
    while at < options.seconds:
        at += rng.expovariate(options.rate)
        await asyncio.sleep(max(0.0, began + at - loop.time()))
        back = rng.randrange(600) if rng.random() < 0.05 else 0
        await relays.publish(network.note(rng, int(time()) - back))


def main() -> None:
    """Read the options and play."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("seed", "relays", "people", "users", "wanted", "stored", "port", "seconds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--expected", type=Path, required=True)
    parser.add_argument("--base", default="", help="what addresses of relays begin with")
    parser.add_argument("--banned", default="", help="the client that a fifth of the relays refuse")
    asyncio.run(play(parser.parse_args()))


if __name__ == "__main__":
    main()
