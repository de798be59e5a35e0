"""The first words of a client to a relay that may not listen yet."""

import json
from time import monotonic

from websockets.sync.client import ClientConnection

_MOST_TRIES = 8
_ANSWER_S = 0.5


def greet(socket: ClientConnection) -> None:
    """Wait until the relay answers a request, but no longer than some seconds.

    nostream drops what comes in the first moments of a connection.
    """
    for number in range(_MOST_TRIES):
        name = f"greeting{number}"
        socket.send(json.dumps(["REQ", name, {"ids": ["0" * 64], "limit": 1}]))
        if _is_answered(socket, name):
            return


def _is_answered(socket: ClientConnection, name: str) -> bool:
    deadline = monotonic() + _ANSWER_S
    while (left := deadline - monotonic()) > 0:
        try:
            message = json.loads(socket.recv(timeout=left))
        except TimeoutError:
            return False
        match message:
            case ["EOSE", subscription, *_] if subscription == name:
                socket.send(json.dumps(["CLOSE", name]))
                return True
            case ["CLOSED", subscription, *_] if subscription == name:
                return True
            case ["NOTICE", *_]:
                return True
    return False
