"""The scripted relay as a process of its own, for loads that must not share the test's interpreter. By hand:

python -m tests.fakes.relay_process --addr 127.0.0.9 --port 8081 [--preset strfry] [--events FILE.jsonl]
"""

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from tests.factories.events import SignedEvent
from tests.factories.workload import read_events, write_events
from tests.fakes.behaviour import PRESETS
from tests.fakes.child import Child
from tests.fakes.net import free_port, loopback_address, pause
from tests.fakes.peer import Peer
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Connected, Disconnected, Req
from tests.fakes.relay_stream import Times, stream
from tests.fakes.scratch import scratch_path

READY_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 600.0
_POLL_S = 0.05


class RelayProcess(Peer):
    """A `ScriptedRelay` in a child process, with a preset behaviour; its events do not outlive the process.

    Thread-safe, one command at a time: `stats` waits for a `stream` to end.
    """

    def __init__(self, preset: str = "honest", *, address: str | None = None, port: int | None = None) -> None:
        assert preset in PRESETS, preset
        self.address = address or loopback_address()
        self.port = port or free_port(self.address)
        self._arguments = ["--addr", self.address, "--port", str(self.port), "--preset", preset]
        self._asking = threading.Lock()

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"ws://{self.address}:{self.port}"

    def start(self) -> None:
        """Start it, empty, and wait until it serves."""
        with self._starting(Child.module("tests.fakes.relay_process", *self._arguments)) as child:
            child.wait_line(r"^listening on ", READY_TIMEOUT_S)

    def _ask(self, command: str, **arguments: Any) -> Any:
        with self._asking:
            self.child.say(json.dumps([command, arguments]))
            answer = json.loads(self.child.wait_line(r"^= (.*)$", ANSWER_TIMEOUT_S)[1])
        assert "error" not in answer, answer
        return answer["is"]

    def _with_file(self, command: str, events: Sequence[SignedEvent], **arguments: Any) -> Any:
        path = scratch_path("events.jsonl")
        write_events(path, events)
        try:
            return self._ask(command, path=str(path), **arguments)
        finally:
            path.unlink()

    def hold(self, events: Sequence[SignedEvent]) -> int:
        """Put events into its store; returns how many were new."""
        return int(self._with_file("hold", events))

    def stream(self, events: Sequence[SignedEvent], per_s: float | None = None) -> Times:
        """Publish live at a rate, or as fast as clients read; returns when all are out."""
        return [(at, count) for at, count in self._with_file("stream", events, per_s=per_s)]

    def behave(self, preset: str) -> None:
        """Behave like another preset from now on."""
        self._ask("behave", preset=preset)

    def stats(self) -> dict[str, int]:
        """`opened`, `gone`, `reqs`: how many so far; `subscriptions`, `events`: how many now."""
        answer = self._ask("stats")
        return {str(name): int(value) for name, value in answer.items()}

    def wait_stats(self, name: str, least: int, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once a number of `stats` has been reached; raises `TimeoutError`."""
        deadline = monotonic() + timeout_s
        while (stats := self.stats())[name] < least:
            if monotonic() > deadline:
                raise TimeoutError(f"{name} not {least} after {timeout_s} s: {stats}")
            pause(_POLL_S)


def _obey(relay: ScriptedRelay, command: str, arguments: dict[str, Any]) -> Any:
    match command:
        case "hold":
            return relay.hold(read_events(Path(arguments["path"])))
        case "stream":
            return stream(relay, read_events(Path(arguments["path"])), arguments["per_s"])
        case "behave":
            return relay.behave(PRESETS[arguments["preset"]])
        case "stats":
            journal = relay.journal
            kinds = {"opened": Connected, "gone": Disconnected, "reqs": Req}
            counts = {name: len(journal.of(kind)) for name, kind in kinds.items()}
            return counts | {"subscriptions": relay.open_subscriptions, "events": len(relay.stored())}
        case _:
            raise ValueError(f"unknown command {command!r}")


def main() -> None:
    """Serve until standard input ends; each line of it is a command of the test."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.relay_process", description=__doc__)
    parser.add_argument("--addr", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="honest")
    parser.add_argument("--events", type=Path, help="JSONL file of events that it holds")
    options = parser.parse_args()
    events = read_events(options.events) if options.events else []
    preset = PRESETS[options.preset]
    with ScriptedRelay(preset, events=events, address=options.addr, port=options.port) as relay:
        print(f"listening on {relay.url}", flush=True)
        for line in sys.stdin:
            command, arguments = json.loads(line)
            try:
                answer = {"is": _obey(relay, command, arguments)}
            except (ValueError, KeyError, TimeoutError) as error:
                answer = {"error": repr(error)}
            print(f"= {json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
