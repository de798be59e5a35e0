"""A naive Nostr client to try the fake relays with."""

import json
from typing import Any, Self

from websockets.sync.client import connect

from tests.factories.events import SignedEvent, from_raw

TIMEOUT_S = 60.0
SILENCE_S = 0.3
"""How long nothing has to come for it to count as silence."""


class NaiveClient:
    """One connection; messages come out as decoded JSON."""

    def __init__(self, url: str, *, compression: str | None = None) -> None:
        self._connecting = connect(url, max_size=None, proxy=None, compression=compression, open_timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        self.socket = self._connecting.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def extensions(self) -> str:
        """What the server agreed to."""
        assert self.socket.response is not None
        return self.socket.response.headers.get("Sec-WebSocket-Extensions", "")

    def send(self, *parts: object) -> None:
        self.socket.send(json.dumps(parts))

    def receive(self, timeout_s: float = TIMEOUT_S) -> list[Any]:
        message = json.loads(self.socket.recv(timeout=timeout_s))
        assert isinstance(message, list)
        return message

    def is_silent(self) -> bool:
        try:
            self.receive(SILENCE_S)
        except TimeoutError:
            return True
        return False

    def page(self, *filters: object, subscription: str = "s") -> tuple[list[SignedEvent], list[Any]]:
        """Ask, and take events until some other message comes; that one is returned too."""
        self.send("REQ", subscription, *filters)
        events = []
        while (message := self.receive())[0] == "EVENT":
            assert message[1] == subscription
            events.append(from_raw(json.dumps(message[2])))
        return events, message
