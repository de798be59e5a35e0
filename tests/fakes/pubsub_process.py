"""The fake Pub/Sub as a process of its own, and the handle that tests hold on it."""

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from tests.fakes.child import Child
from tests.fakes.net import loopback_address, pause
from tests.fakes.peer import Peer
from tests.fakes.pubsub import DEFAULT_TIMEOUT_S, TOPIC, FakePubSub
from tests.fakes.pubsub_record import Batch, read_record
from tests.fakes.pubsub_rules import Rule, rules_from_json, rules_to_json
from tests.fakes.scratch import scratch_path
from tests.oracle.delivery import Delivered

READY_TIMEOUT_S = 60.0
_POLL_S = 0.05


class PubSubProcess(Peer):
    """A `FakePubSub` in a child process. `start` after `stop` or `kill` listens on the same port again.

    What it took is in the file `record` before it is answered, so that nothing acknowledged is missing after a kill;
    with `count_only` nothing is kept but the number, and that only for the life of one process.
    """

    def __init__(
        self,
        *,
        topics: Sequence[str] = (TOPIC,),
        rules: Sequence[Rule] = (),
        count_only: bool = False,
        record: Path | None = None,
    ) -> None:
        self.record = record or scratch_path("pubsub.record")
        self.host = loopback_address()
        self.port = 0
        self._topics = list(topics)
        self._rules = list(rules)
        self._count_only = count_only
        self._asking = threading.Lock()

    @property
    def address(self) -> str:
        """`host:port`, for `PUBSUB_EMULATOR_HOST`."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it listens."""
        keep = ["--count-only"] if self._count_only else ["--record", str(self.record)]
        topics = [argument for topic in self._topics for argument in ("--topic", topic)]
        script = ["--script", rules_to_json(self._rules)]
        where = ["--addr", self.host, "--port", str(self.port)]
        with self._starting(Child.module("tests.fakes.pubsub", *where, *topics, *script, *keep)) as child:
            self.port = int(child.wait_line(r"^listening on \S+:(\d+)$", READY_TIMEOUT_S)[1])

    def set_rules(self, *rules: Rule) -> None:
        """Replace the script; when this returns the new one is in force."""
        self._rules = list(rules)
        self._ask(f"rules {rules_to_json(rules)}")

    def _ask(self, line: str) -> str:
        with self._asking:
            self.child.say(line)
            return self.child.wait_line(r"^= (.*)$", DEFAULT_TIMEOUT_S)[1]

    @property
    def count(self) -> int:
        """Messages taken by the running process, repeats included."""
        return int(self._ask("count"))

    def batches(self) -> list[Batch]:
        """Everything on record, from before a restart too."""
        return read_record(self.record)

    def deliveries(self) -> list[Delivered]:
        """Every message on record, for the ledger."""
        return [delivered for batch in self.batches() for delivered in batch.deliveries()]

    def wait_count(self, messages: int, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Return once the running process has taken so many messages; raises `TimeoutError`."""
        deadline = monotonic() + timeout_s
        while (taken := self.count) < messages:
            if monotonic() > deadline:
                raise TimeoutError(f"{taken} of {messages} messages after {timeout_s} s")
            pause(_POLL_S)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.pubsub", description="A fake Google Pub/Sub.")
    parser.add_argument("--addr", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--topic", action="append", help="full name of a topic that exists; may be repeated")
    parser.add_argument("--script", default="[]", help="rules as a JSON list")
    parser.add_argument("--record", type=Path, help="file that each batch is appended to")
    parser.add_argument("--count-only", action="store_true")
    options = parser.parse_args()
    server = FakePubSub(
        topics=options.topic or [TOPIC],
        rules=rules_from_json(options.script),
        count_only=options.count_only,
        record=options.record,
        on_die=lambda: os._exit(1),
        host=options.addr,
    )
    server.start(options.port)
    print(f"listening on {server.address}", flush=True)
    for line in sys.stdin:
        print("= " + _answer(server, line.strip()), flush=True)
    server.stop()


def _answer(server: FakePubSub, line: str) -> str:
    """Obey one line of the test that started us."""
    command, _, rest = line.partition(" ")
    if command == "rules":
        server.set_rules(*rules_from_json(rest))
        return "ok"
    if command == "count":
        return str(server.count)
    return json.dumps({"unknown": command})
