"""The service as its users run it: `event-service …` from the checkout, in a child process with its own environment.

with EventService(tmp_path, settings(relays=[relay.url])) as service:   # supervise, healthy
    service.register(author)
    …
    assert service.stop() == 0
"""

import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import Any, Self

import websocket

from tests.factories.events import Author, SignedEvent
from tests.fakes.child import Child, ChildFailed
from tests.fakes.net import free_port, loopback_address, pause
from tests.fakes.procs import Process, session_members
from tests.fakes.scrape import Scrape

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 75.0
"""Longer than the supervisor gives its stages."""
REQUEST_TIMEOUT_S = 30.0
_POLL_S = 0.1
_COMMAND = (sys.executable, "-m", "pipeline.cli")
_STAGE = re.compile(r"\bstage ([a-z]+)(?: --sink ([a-z0-9-]+))?(?: .*--slot (\d+))?")
_INHERITED = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH", "SSL_CERT_FILE")


def settings(
    *,
    relays: Iterable[str] = (),
    target: str = "",
    pubsub: str | None = None,
    **others: str,
) -> dict[str, str]:
    """An environment for a run on loopback: these bootstrap relays and no others, nothing sent anywhere else.

    `pubsub` is the `host:port` of a fake or emulator; without it events go to the JSONL file beside the database.
    `others` are further variables by their full names; they win.
    """
    env = {
        "EVENTS_BOOTSTRAP_RELAYS": ",".join(relays),
        "EVENTS_SKIP_RELAYS": "",
        "EVENTS_DISCOVER_RELAYS": "false",
        "EVENTS_ALLOW_PRIVATE_RELAYS": "true",
        "EVENTS_TARGET_RELAY": target,
        "EVENTS_ENVIRONMENT": "DEVELOPMENT",
    }
    if pubsub is not None:
        env |= {
            "EVENTS_ENVIRONMENT": "PRODUCTION",
            "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "test",
            "PUBSUB_EMULATOR_HOST": pubsub,
        }
    return env | others


@dataclass(frozen=True, slots=True)
class StageProcess:
    """One running stage; `slot` is `None` where its command names none, `sink` empty."""

    name: str
    slot: int | None
    process: Process
    sink: str = ""

    @property
    def group(self) -> str:
        """The stage, of further sinks with their name."""
        return f"{self.name}-{self.sink}" if self.sink else self.name

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


class EventService:
    """One `event-service` with its database, runtime folder and logs in `directory`, which outlive it.

    `start` after `stop` or `kill` runs it again over the same files. Logs of all runs go to `directory/service.log`.
    """

    def __init__(
        self,
        directory: Path,
        env: Mapping[str, str] | None = None,
        *,
        arguments: tuple[str, ...] = ("supervise",),
        command: tuple[str, ...] = _COMMAND,
    ) -> None:
        self.directory = directory
        self.database = directory / "events.db"
        self.log = directory / "service.log"
        self.host = loopback_address()
        self.port = free_port(self.host)
        self.env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self.env |= {
            "EVENTS_DATABASE_PATH": str(self.database),
            "EVENTS_RUNTIME_DIRECTORY": str(directory / "run"),
            "EVENTS_LISTEN_ADDRESS": f"{self.host}:{self.port}",
        }
        self.env |= settings() if env is None else env
        self._command = (*command, *arguments)
        self._child: Child | None = None

    @classmethod
    def stage(cls, name: str, directory: Path, env: Mapping[str, str], *, slot: int | None = None) -> "EventService":
        """One stage run alone, with `/metrics` and `/_health` of its own on `port`."""
        slots = () if slot is None else ("--slot", str(slot))
        alone = cls(directory, env, arguments=("stage", name, *slots))
        alone.env.setdefault("EVENTS_STAGE_LISTEN_ADDRESS", f"{alone.host}:{alone.port}")
        return alone

    @classmethod
    def placed(cls, directory: Path, env: Mapping[str, str], inside: tuple[str, ...], address: str) -> "EventService":
        """One whose command begins with `inside`, which runs it elsewhere, and whose server is at `address` there."""
        found = cls(directory, env, command=(*inside, *_COMMAND))
        found.host = address
        found.env["EVENTS_LISTEN_ADDRESS"] = f"{found.host}:{found.port}"
        return found

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where its web server is."""
        return f"http://{self.host}:{self.port}"

    @property
    def sink_path(self) -> Path:
        """Where the JSONL sink writes by default."""
        return self.database.with_suffix(".jsonl")

    @property
    def child(self) -> Child:
        """The running process."""
        assert self._child is not None, "not started"
        return self._child

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.running

    def start(self, *, wait: bool = True, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start it, and unless told not to, wait until `/_health` says 200."""
        self.close()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._child = Child(self._command, env=self.env, log=self.log)
        if wait:
            try:
                self.wait_healthy(timeout_s)
            except BaseException:
                self.close()
                raise

    def wait_healthy(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once `/_health` answers 200; raises `ChildFailed` when the process ends or the time is up."""
        self._poll(lambda: self.get("/_health")[0] == 200, timeout_s, "healthy")

    def start_ill(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start it and wait until it answers, though something it needs is missing and it may never be well."""
        self.start(wait=False)
        self._poll(lambda: bool(self.get("/_health")[0]), timeout_s, "answering")

    def wait_metric(
        self, name: str, enough: Callable[[float], bool], *, timeout_s: float = READY_TIMEOUT_S, **labels: str
    ) -> float:
        """The metric's value once it is `enough`, summed over the series with these labels."""
        value = 0.0

        def reached() -> bool:
            nonlocal value
            value = self.scrape().value(name, **labels)
            return enough(value)

        self._poll(reached, timeout_s, f"{name}{labels or ''} where it should be")
        return value

    def _poll(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = monotonic() + timeout_s
        while True:
            try:
                if done():
                    return
            except OSError as error:
                what = f"{what.partition(' (')[0]} ({error})"
            if not self.running:
                raise ChildFailed(f"ended with {self.child.process.returncode}\n{self.child.tail()}")
            if monotonic() > deadline:
                raise ChildFailed(f"not {what} after {timeout_s} s\n{self.child.tail()}")
            pause(_POLL_S)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM; its exit code once it ended. Raises `ChildFailed` when it does not."""
        try:
            return self.child.terminate(timeout_s)
        finally:
            self.close()

    def wait_exit(self, timeout_s: float = READY_TIMEOUT_S) -> int:
        """Its exit code once it ended by itself."""
        return self.child.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL to the process started alone; its stages have to notice by themselves."""
        self.child.kill()

    def close(self) -> None:
        """End whatever is left of it at once. May be repeated."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def log_text(self) -> str:
        """What it has logged, in all runs."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def processes(self) -> list[Process]:
        """Every living process of the run, the one started first among them."""
        return session_members(self.child.pid)

    def stages(self, name: str | None = None) -> list[StageProcess]:
        """The living stages, of this name if given, by process id."""
        found: list[StageProcess] = []
        for one in self.processes():
            match = _STAGE.search(" ".join(one.command))
            if match is not None and name in (None, match[1]):
                found.append(StageProcess(match[1], int(match[3]) if match[3] else None, one, match[2] or ""))
        return found

    def wait_stages(self, enough: Callable[[list[StageProcess]], bool], timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once the living stages are as wanted."""
        self._poll(lambda: enough(self.stages()), timeout_s, f"the stages that are wanted: {self.stages()}")

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and body of a GET; raises `OSError` when nothing answers."""
        request = urllib.request.Request(self.url + path, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def scrape(self) -> Scrape:
        """What `/metrics` shows."""
        status, body = self.get("/metrics")
        assert status == 200, body
        return Scrape(body)

    def public_key(self, pubkey: str) -> Any:
        """What `/public-keys/{hex}` answers, decoded."""
        return json.loads(self.get(f"/public-keys/{pubkey}")[1])

    def register(self, who: Author | SignedEvent, relays: Iterable[str] = ()) -> tuple[bool, str]:
        """Register an author (or send a registration made elsewhere); whether it was accepted, and the reason."""
        event = who.registration(int(time()), relays) if isinstance(who, Author) else who
        client = websocket.create_connection(self.url.replace("http:", "ws:"), timeout=REQUEST_TIMEOUT_S)
        # The library forgets its socket, open as it is, when the other side closes first.
        with closing(client.sock), closing(client):
            client.send(f'["EVENT",{event.raw}]')
            match json.loads(client.recv()):
                case ["OK", event.id, bool(accepted), str(reason)]:
                    return accepted, reason
                case other:
                    raise AssertionError(f"no answer to the registration: {other!r}")
