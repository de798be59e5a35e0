"""A relay in memory, enough for one crawler on the same machine (NIP-01): REQ, CLOSE, EOSE, live events."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, broadcast, serve

from pipeline.nostr import json_text
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter, InvalidFilter, parse_filter
from pipeline.nostr.frame import InvalidMessage, parse_frame

HOST: Final = "127.0.0.1"
_MOST_EVENTS: Final = 50_000
_MAX_LIMIT: Final = 500

Subscriptions = dict[str, list[Filter]]


class DemoRelay:
    """Relay that stores what is published and answers requests; for one event loop."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._clients: dict[ServerConnection, Subscriptions] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve on a free port of loopback; gives the relay's address."""
        async with serve(self._serve, HOST, 0, compression=None) as server:
            (sock, *_) = server.sockets
            yield f"ws://{HOST}:{sock.getsockname()[1]}"

    def publish(self, event: Event) -> None:
        """Keep `event` and send it to every subscription that it matches."""
        self._events.append(event)
        del self._events[:-_MOST_EVENTS]
        for client, subscriptions in self._clients.items():
            for subscription, filters in subscriptions.items():
                if any(each.matches(event) for each in filters):
                    broadcast([client], _event_message(subscription, event))

    async def _serve(self, client: ServerConnection) -> None:
        subscriptions = self._clients[client] = {}
        try:
            async for raw in client:
                data = raw.encode() if isinstance(raw, str) else raw
                for answer in self._answers(subscriptions, data):
                    await client.send(answer)
        finally:
            del self._clients[client]

    def _answers(self, subscriptions: Subscriptions, raw: bytes) -> list[str]:
        try:
            match parse_frame(raw):
                case ["REQ", str(subscription), *values]:
                    filters = [parse_filter(value) for value in values]
                    subscriptions[subscription] = filters
                    stored = [_event_message(subscription, event) for event in self._stored(filters)]
                    return [*stored, _message("EOSE", subscription)]
                case ["CLOSE", str(subscription), *_]:
                    with contextlib.suppress(KeyError):
                        del subscriptions[subscription]
                    return []
                case _:
                    return [_message("NOTICE", "unsupported")]
        except (InvalidMessage, InvalidFilter) as error:
            return [_message("NOTICE", f"invalid: {error}")]

    def _stored(self, filters: Sequence[Filter]) -> list[Event]:
        found: dict[bytes, Event] = {}
        for each in filters:
            matching = sorted(filter(each.matches, self._events), key=attrgetter("created_at"), reverse=True)
            limit = _MAX_LIMIT if each.limit is None else min(each.limit, _MAX_LIMIT)
            found |= {event.id: event for event in matching[:limit]}
        return list(found.values())


def _event_message(subscription: str, event: Event) -> str:
    return f'["EVENT",{json_text.encode(subscription).decode()},{event.to_json().decode()}]'


def _message(*elements: Any) -> str:
    return json_text.encode(elements).decode()
