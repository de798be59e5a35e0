"""The book of a relay: which of the events that it took it really gives to a client that asks by id."""

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.fakes.greeting import greet
from tests.fakes.net import pause

_CHUNK = 100
_SMALL_CHUNK = 10
_CONNECTION_REQS = 300
_ANSWER_S = 20.0
# Where all came, the end of the answer is not waited for as long.
_END_S = 1.0
_MOST_TRIES = 4
_BREATH_S = 1.0
_PATIENCE = ("rate-limited", "error")
"""How a CLOSED begins that speaks of the moment and not of the request."""
_NAME = re.compile(r"\bbook(\d+)\b")
_WITHHELD = "auth-required"
"""How a CLOSED begins that leaves out some events only."""


class _Refused(Exception):
    """The relay does not answer a REQ of this size."""


def take_book(url: str, ids: Sequence[str]) -> set[str]:
    """Return those of `ids` that the relay gives; raises `TimeoutError` when it does not answer at all.

    What a chunk leaves out is asked again in small ones, and what is refused in smaller ones. An answer may end in EOSE
    or in CLOSED without a reason: some relays close every REQ by `ids`.
    """
    with _Reader(url) as reader:
        given = reader.read(ids, _CHUNK)
        lacking = [event_id for event_id in ids if event_id not in given]
        return given | reader.read(lacking, _SMALL_CHUNK)


class _Reader:
    def __init__(self, url: str) -> None:
        self._url = url
        self._open = ExitStack()
        self._socket: ClientConnection | None = None
        self._number = 0

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def read(self, ids: Sequence[str], chunk: int) -> set[str]:
        given: set[str] = set()
        at = 0
        while at < len(ids):
            try:
                given |= self._ask(ids[at : at + chunk])
                at += chunk
            except _Refused:
                if chunk == 1:
                    raise TimeoutError(f"{self._url} refuses a REQ for one id") from None
                chunk = (chunk + 1) // 2
        return given

    def _ask(self, ids: Sequence[str]) -> set[str]:
        """Ask for one chunk, again where the connection was lost or the relay asks for patience."""
        for _ in range(_MOST_TRIES):
            given: set[str] = set()
            try:
                if self._ask_once(ids, given):
                    return given
            except (OSError, WebSocketException):
                self._hang_up()
            pause(_BREATH_S)
        raise TimeoutError(f"{self._url} does not answer a REQ for {len(ids)} ids")

    def _ask_once(self, ids: Sequence[str], given: set[str]) -> bool:
        """Fill `given`; whether the answer was one. Raises `_Refused`."""
        self._number += 1
        name = f"book{self._number}"
        socket = self._subscribe(name, ids)
        deadline = monotonic() + _ANSWER_S
        while True:
            if len(given) == len(ids):
                deadline = min(deadline, monotonic() + _END_S)
            try:
                message = json.loads(socket.recv(timeout=max(deadline - monotonic(), 0.0)))
            except TimeoutError:
                if len(given) < len(ids):
                    raise
                message = ["EOSE", name]
            match message:
                case ["EVENT", str(subscription), {"id": str(event_id)}] if subscription == name:
                    given.add(event_id)
                case ["EOSE", str(subscription), *_] if subscription == name:
                    socket.send(json.dumps(["CLOSE", name]))
                    return True
                case ["CLOSED", str(subscription), str(reason), *_] if subscription == name:
                    return self._is_end(reason)
                case ["NOTICE", str(text), *_] if not given and not self._is_about_another(text):
                    raise _Refused
                case _:
                    continue

    def _is_about_another(self, text: str) -> bool:
        """Whether a NOTICE names an earlier REQ, as those do that confirm its CLOSE."""
        named = _NAME.findall(text)
        return bool(named) and str(self._number) not in named

    @staticmethod
    def _is_end(reason: str) -> bool:
        """Whether a CLOSED for this reason ends an answer; False if the same may be asked again."""
        if reason.lower().startswith(_PATIENCE):
            return False
        if reason and not reason.lower().startswith(_WITHHELD):
            raise _Refused
        return True

    def _subscribe(self, name: str, ids: Sequence[str]) -> ClientConnection:
        if self._number % _CONNECTION_REQS == 0:
            self._hang_up()
        if self._socket is None:
            connection = connect(self._url, max_size=None, compression=None, proxy=None, open_timeout=_ANSWER_S)
            self._socket = self._open.enter_context(connection)
            greet(self._socket)
        self._socket.send(json.dumps(["REQ", name, {"ids": list(ids), "limit": len(ids)}]))
        return self._socket

    def _hang_up(self) -> None:
        self._socket = None
        self._open.close()
