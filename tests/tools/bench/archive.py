"""A far relay in one cheap process, which holds stored events and answers each request after a round trip.

    python -m tests.tools.bench.archive SPEC.json

It refuses connections until a line on standard input says `open`, and ends with standard input. An answer has the
newest events that a filter matches, `cap` at most, and then EOSE; nothing is sent live.
"""

import heapq
import itertools
import json
import os
import selectors
import socket
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.fakes.child import Child
from tests.fakes.net import free_port
from tests.tools.bench.relay_peer import PUBKEY, Peer

_IDLE_S = 0.2
_START_S = 60.0
_STDIN = 0
# `{"id":"…"`: where the id stands in the lines of the workload.
_ID = slice(7, 71)
_KIND = 1


@dataclass(frozen=True, slots=True)
class ArchiveSpec:
    """The relay's address, the files of its events, the round trip in seconds, and how many events a page has."""

    address: str
    port: int
    files: list[str]
    round_trip_s: float
    cap: int


class Archive:
    """The relay as a child process of the bench."""

    def __init__(self, address: str, files: list[str], round_trip_s: float, cap: int, directory: Path) -> None:
        spec = ArchiveSpec(address, free_port(address), files, round_trip_s, cap)
        path = directory / "archive.json"
        path.write_text(json.dumps(asdict(spec)))
        self.url = f"ws://{address}:{spec.port}"
        self._child = Child.module("tests.tools.bench.archive", str(path))

    def __enter__(self) -> Self:
        self._child.wait_line(r"^loaded$", _START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def open(self) -> None:
        """Let the relay take connections from now on."""
        self._child.say("open")
        self._child.wait_line(r"^listening$", _START_S)


class _Stored(NamedTuple):
    created_at: int
    mentioned: frozenset[str]
    line: bytes

    @classmethod
    def of(cls, line: bytes) -> Self:
        event = json.loads(line)
        return cls(event["created_at"], frozenset(tag[1] for tag in event["tags"] if tag[0] == "p"), line)


class StoredEvents:
    """Events by time."""

    def __init__(self, lines: list[bytes]) -> None:
        found = sorted((_Stored.of(line) for line in lines), key=lambda each: each.created_at)
        self._times = [each.created_at for each in found]
        self._mentioned = [each.mentioned for each in found]
        self._lines = [each.line for each in found]
        self._places = {line[_ID].decode(): place for place, line in enumerate(self._lines)}

    def matching(self, wanted: dict[str, Any]) -> Iterator[bytes]:
        """Yield the events that a filter matches, the newest first."""
        if _KIND not in wanted.get("kinds", [_KIND]):
            return
        mentioned = set(wanted["#p"]) if "#p" in wanted else None
        authors = {str(each).encode() for each in wanted["authors"]} if "authors" in wanted else None
        since, end = wanted.get("since", 0), bisect_right(self._times, wanted.get("until", 2**63))
        places: Sequence[int] = range(end - 1, -1, -1)
        if "ids" in wanted:
            places = sorted(self._places[each] for each in wanted["ids"] if each in self._places)
        for place in places:
            if self._times[place] < since:
                return
            is_named = mentioned is None or not mentioned.isdisjoint(self._mentioned[place])
            if is_named and (authors is None or self._lines[place][PUBKEY] in authors):
                yield self._lines[place]


class _FarPeer(Peer):
    """A connection whose client hears each answer a round trip later."""

    def __init__(self, sock: socket.socket, store: StoredEvents, spec: ArchiveSpec) -> None:
        super().__init__(sock)
        self._store = store
        self._spec = spec
        self._answers: list[tuple[float, int, bytes]] = []
        self._numbers = itertools.count()

    def on_message(self, message: list[object]) -> None:
        """See `Peer.on_message`."""
        match message:
            case ["REQ", str(subscription), *filters]:
                answer = self._answer_to(subscription, [each for each in filters if isinstance(each, dict)])
                due = time.monotonic() + self._spec.round_trip_s
                heapq.heappush(self._answers, (due, next(self._numbers), answer))
            case _:
                pass

    def put_due(self) -> float:
        """Put out the answers that are due; return when (monotonic) to call again at the latest."""
        while self._answers and self._answers[0][0] <= time.monotonic():
            self.out.append(memoryview(heapq.heappop(self._answers)[2]))
        self.write()
        return self._answers[0][0] if self._answers else time.monotonic() + _IDLE_S

    def _answer_to(self, subscription: str, filters: list[dict[str, Any]]) -> bytes:
        route = b'["EVENT",' + json.dumps(subscription).encode() + b","
        parts: list[bytes] = []
        for each in filters:
            most = min(self._spec.cap, each.get("limit", self._spec.cap))
            for line in itertools.islice(self._store.matching(each), most):
                parts += (b"\x81\x7e", (len(route) + len(line) + 1).to_bytes(2), route, line, b"]")
        end = json.dumps(["EOSE", subscription]).encode()
        return b"".join([*parts, b"\x81\x7e", len(end).to_bytes(2), end])


def main() -> None:
    """Serve until standard input ends."""
    spec = ArchiveSpec(**json.loads(Path(sys.argv[1]).read_text()))
    lines = [line for path in spec.files for line in Path(path).read_bytes().splitlines()]
    store = StoredEvents(lines)
    _say("loaded")
    _serve(spec, store)


def _serve(spec: ArchiveSpec, store: StoredEvents) -> None:
    selector = selectors.DefaultSelector()
    selector.register(_STDIN, selectors.EVENT_READ)
    peers: dict[int, _FarPeer] = {}
    listener: socket.socket | None = None
    wait_s = _IDLE_S
    while True:
        for key, _ in selector.select(wait_s):
            if key.fd == _STDIN:
                if not os.read(_STDIN, 4096):
                    return
                listener = socket.create_server((spec.address, spec.port))
                selector.register(listener, selectors.EVENT_READ)
                _say("listening")
            elif listener is not None and key.fd == listener.fileno():
                peer = _FarPeer(listener.accept()[0], store, spec)
                peers[peer.sock.fileno()] = peer
                selector.register(peer.sock, selectors.EVENT_READ)
            else:
                peers[key.fd].read()
        for peer in [each for each in peers.values() if each.is_closed]:
            del peers[peer.sock.fileno()]
            selector.unregister(peer.sock)
            peer.sock.close()
        due = min((peer.put_due() for peer in peers.values()), default=time.monotonic() + _IDLE_S)
        # What the kernel did not take is offered again soon.
        backed_up = any(peer.is_backed_up for peer in peers.values())
        wait_s = max(0.0, due - time.monotonic()) if not backed_up else 0.001


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
