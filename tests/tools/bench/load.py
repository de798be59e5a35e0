"""The parent's handle on the load generator."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.crawl.selection import crawler_of
from pipeline.nostr.address import parse_address
from tests.fakes.child import Child, ChildFailed
from tests.fakes.net import loopback_address
from tests.tools.bench.generator import Spec
from tests.tools.bench.machine import CORES

_START_S = 60.0
_ANSWER_S = 20.0
# The default of EVENTS_CRAWLERS.
_CRAWLERS = max(2, CORES)


@dataclass(frozen=True, slots=True)
class Sent:
    """What the relays put out: frames, different events among them, how late the latest was, clients lost.

    `is_over`: there was nothing left to put out.
    """

    frames: int
    unique: int
    late_s: float
    lost_peers: int
    is_over: bool

    @classmethod
    def from_value(cls, value: dict[str, Any]) -> Self:
        return cls(value["sent"], value["unique"], value["late_s"], value["lost_peers"], value["is_over"])


class LoadGenerator:
    """`tests.tools.bench.generator` as a child process; `urls` are its relays."""

    def __init__(self, spec: Spec, directory: Path) -> None:
        path = directory / "load.json"
        spec.save(path)
        self._child = Child.module("tests.tools.bench.generator", str(path))
        try:
            listening = json.loads(self._child.wait_line(r"^listening (.*)$", _START_S)[1])
        except BaseException:
            self.close()
            raise
        self.urls = [f"ws://{host}:{port}" for host, port in listening]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def wait_ready(self, timeout_s: float = _START_S) -> None:
        """Return once every relay has a client that subscribes to all authors and asks for nothing stored."""
        self._child.wait_line(r"^ready$", timeout_s)

    def go(self) -> None:
        """Begin to send."""
        self._child.say("go")

    def count(self) -> Sent:
        """What it has sent so far."""
        self._child.say("count")
        return Sent.from_value(json.loads(self._child.wait_line(r"^= (.*)$", _ANSWER_S)[1]))

    def wait_done(self, timeout_s: float) -> Sent:
        """What it sent, once it is through or its time is up and the last byte is the kernel's."""
        return Sent.from_value(json.loads(self._child.wait_line(r"^done (.*)$", timeout_s)[1]))

    def stop(self, timeout_s: float = _START_S) -> Sent:
        """End the sending; what it sent in all."""
        self._child.say("stop")
        return self.wait_done(timeout_s)

    def close(self) -> None:
        """End the process."""
        self._child.close()


def balanced_addresses(count: int) -> list[str]:
    """Loopback addresses that fall to the crawler processes in equal numbers, as hundreds of relays would."""
    found: list[str] = []
    for _ in range(100 * count):
        if len(found) == count:
            return found
        address = loopback_address()
        if crawler_of(parse_address(f"ws://{address}:1").host_key, _CRAWLERS) == len(found) % _CRAWLERS:
            found.append(address)
    raise ChildFailed("no balanced addresses")
