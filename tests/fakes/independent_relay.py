"""A real relay that we did not write: nostr-sdk's LocalRelay in a child process, on a loopback address of its own.

In tests: `with IndependentRelay() as relay: relay.load(events); … relay.url`. By hand:

    python -m tests.fakes.independent_relay --addr 127.0.0.9 --port 8081 [--max-limit 500] [--lmdb DIR]

It keeps only the newest version of a replaceable event and refuses protected ones.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.factories.events import SignedEvent
from tests.factories.workload import write_events
from tests.fakes.child import Child
from tests.fakes.net import free_port, loopback_address
from tests.fakes.peer import Peer
from tests.fakes.publisher import Answers, publish_events
from tests.fakes.scratch import scratch_path

READY_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 300.0
_SAVES_AT_ONCE = 2048


class IndependentRelay(Peer):
    """One relay in a process of its own; `start` after `stop` or `kill` serves at the same url again.

    With `lmdb` (a folder) it keeps its events over a restart; without, it forgets them. `max_limit` caps a REQ. `auth`
    demands NIP-42 of readers.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        port: int | None = None,
        max_limit: int = 500,
        max_reqs: int = 500,
        lmdb: Path | None = None,
        auth: bool = False,
    ) -> None:
        self.address = address or loopback_address()
        self.port = port or free_port(self.address)
        self.lmdb = lmdb
        self._arguments = ["--addr", self.address, "--port", str(self.port), "--max-limit", str(max_limit)]
        self._arguments += ["--max-reqs", str(max_reqs), *([] if lmdb is None else ["--lmdb", str(lmdb)])]
        self._arguments += ["--auth"] if auth else []

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"ws://{self.address}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it serves."""
        with self._starting(Child.module("tests.fakes.independent_relay", *self._arguments)) as child:
            child.wait_line(r"^listening on ws://", READY_TIMEOUT_S)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.child.terminate()
        self.kill()

    def restart(self) -> None:
        """End it and start it again at the same url."""
        self.stop()
        self.start()

    def load(self, events: Sequence[SignedEvent]) -> int:
        """Put events into it the quickest way; subscribers may not be told. Returns how many it took."""
        if self.lmdb is None:
            return len(self.publish(events).accepted)
        path = scratch_path("load.jsonl")
        write_events(path, events)
        try:
            self.child.say(f"load {path}")
            return int(self.child.wait_line(r"^loaded (\d+)$", LOAD_TIMEOUT_S)[1])
        finally:
            path.unlink()

    def publish(self, events: Sequence[SignedEvent], *, timeout_s: float = LOAD_TIMEOUT_S) -> Answers:
        """Publish events over its websocket, as any client does; subscribers get them. All are answered on return."""
        return publish_events(self.url, events, timeout_s=timeout_s)


class _Server:
    """The relay inside its own process; nostr-sdk has no types."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._database: Any = None
        self._relay: Any = None

    async def run(self) -> None:
        import nostr_sdk

        loop = asyncio.get_running_loop()
        nostr_sdk.uniffi_set_event_loop(loop)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        limits = nostr_sdk.RateLimit(max_reqs=self._options.max_reqs, notes_per_minute=10**8)
        builder = nostr_sdk.LocalRelayBuilder().addr(self._options.addr).port(self._options.port).rate_limit(limits)
        if self._options.lmdb:
            self._database = await nostr_sdk.NostrLmdb.open(str(self._options.lmdb))
            builder = builder.database(self._database)
        builder = builder.max_filter_limit(self._options.max_limit).default_filter_limit(self._options.max_limit)
        if self._options.auth:
            mode = nostr_sdk.LocalRelayBuilderNip42Mode.READ
            builder = builder.nip42(nostr_sdk.LocalRelayBuilderNip42(mode=mode))
        self._relay = builder.build()
        await self._relay.run()
        print(f"listening on {await self._relay.url()}", flush=True)
        commands = asyncio.create_task(self._obey(stop))
        await stop.wait()
        commands.cancel()
        self._relay.shutdown()

    async def _obey(self, stop: asyncio.Event) -> None:
        """Do what standard input says until it ends."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command, _, argument = line.decode().strip().partition(" ")
            if command == "load":
                print(f"loaded {await self._load(Path(argument))}", flush=True)
        stop.set()

    async def _load(self, path: Path) -> int:
        import nostr_sdk

        saved = 0
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        for start in range(0, len(lines), _SAVES_AT_ONCE):
            batch = [nostr_sdk.Event.from_json(line) for line in lines[start : start + _SAVES_AT_ONCE]]
            states = await asyncio.gather(*(self._database.save_event(event) for event in batch))
            saved += sum(state is not None and state.is_success() for state in states)
        return saved


def main() -> None:
    """Serve until SIGTERM, SIGINT or the end of standard input."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.independent_relay", description=__doc__)
    parser.add_argument("--addr", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-limit", type=int, default=500)
    parser.add_argument("--max-reqs", type=int, default=500, help="REQs that one connection may have open")
    parser.add_argument("--lmdb", type=Path, help="folder of its database; without: memory")
    parser.add_argument("--auth", action="store_true", help="demand NIP-42 of readers")
    asyncio.run(_Server(parser.parse_args()).run())


if __name__ == "__main__":
    main()
