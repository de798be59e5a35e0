"""Notes what a process should not do with transactions: wait long for the lock, hold it long, use the network in one.

Each note is one line of JSON in the process's own file: `Observation`.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apsw

from . import notes_in

NETWORK, WAITED, HELD = "network", "waited", "held"
NOTED_WAIT_S = 0.3
_SHOWN = 60
_CALLS = ("connect", "connect_ex", "send", "sendall", "recv", "recv_into")
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True)
class Observation:
    """`kind`: what happened, between two times of the monotonic clock; `detail`: in which stage, and what."""

    kind: str
    began: float
    ended: float
    detail: str


class _Open(threading.local):
    """The connections of this thread on which a transaction was begun and not seen to end."""

    def __init__(self) -> None:
        self.connections: list[apsw.Connection] = []


_open = _Open()
_state: dict[str, Any] = {}


def install(folder: Path) -> None:
    """Watch the sockets of this process, and its Pub/Sub calls once it has such a client."""

    def take_file() -> None:
        _state["path"] = notes_in(folder) / str(os.getpid())

    take_file()
    os.register_at_fork(after_in_child=take_file)
    for name in _CALLS:
        setattr(socket.socket, name, _watched(name, getattr(socket.socket, name)))


def opened(connection: apsw.Connection) -> None:
    """A transaction of this thread has begun."""
    _open.connections.append(connection)
    if "grpc" not in _state and "grpc._channel" in sys.modules:
        _watch_grpc(sys.modules["grpc._channel"])


def look_again() -> bool:
    """Whether a transaction of this thread is open; some end without a word, as when a commit fails."""
    if _open.connections:
        _open.connections = [each for each in _open.connections if _is_open(each)]
    return bool(_open.connections)


def _is_open(connection: apsw.Connection) -> bool:
    try:
        return connection.in_transaction
    except apsw.ConnectionClosedError:
        return False


def waited(began: float, ended: float) -> None:
    """The thread waited for the write lock."""
    if ended - began >= NOTED_WAIT_S:
        note(WAITED, began, "")


def held(began: float, slowest: str, slowest_s: float) -> None:
    """The thread has ended a transaction that it had the write lock for; its slowest statement took so long."""
    if time.monotonic() - began >= NOTED_WAIT_S:
        note(HELD, began, f"{' '.join(slowest.split())[:_SHOWN]!r} for {slowest_s:.1f} s of it")


def note(kind: str, began: float, detail: str) -> None:
    """Write it down."""
    told = Observation(kind, began, time.monotonic(), f"{' '.join(sys.argv[1:4])} {detail}")
    with Path(_state["path"]).open("a") as file:
        file.write(json.dumps(asdict(told)) + "\n")


def _watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def watched(self: socket.socket, *arguments: Any, **named: Any) -> Any:
        if self.family in _FAMILIES and look_again():
            note(NETWORK, time.monotonic(), f"socket.{name}")
        return call(self, *arguments, **named)

    return watched


def _watch_grpc(channel: Any) -> None:
    _state["grpc"] = True
    kind = channel._UnaryUnaryMultiCallable
    for name in ("__call__", "with_call", "future"):
        call = getattr(kind, name)

        def watched(*arguments: Any, _name: str = name, _call: Callable[..., Any] = call, **named: Any) -> Any:
            if look_again():
                note(NETWORK, time.monotonic(), f"grpc.{_name}")
            return _call(*arguments, **named)

        setattr(kind, name, watched)
