"""The whole service as a child of the demo, on settings of its own in a temporary folder."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from pipeline.errors import EventServiceError

HOST: Final = "127.0.0.1"
_END_S: Final = 30.0
_LOG_TAIL: Final = 5
_PREFIX: Final = "EVENTS_"
_OUR_OWN: Final = ("RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "PUBSUB_EMULATOR_HOST")


class DemoFailed(EventServiceError):
    """The service could not be shown; the text says why."""


def settings(env: Mapping[str, str], folder: Path, relay: str, port: int) -> dict[str, str]:
    """Return the child's environment: ours without any setting of the service, and those that make it a demo."""
    inherited = {name: value for name, value in env.items() if not name.startswith(_PREFIX) and name not in _OUR_OWN}
    return inherited | {
        "EVENTS_ENVIRONMENT": "DEVELOPMENT",
        "EVENTS_DATABASE_PATH": str(folder / "events.db"),
        "EVENTS_RUNTIME_DIRECTORY": str(folder / "run"),
        "EVENTS_SINK": f"jsonl:{folder / 'events.jsonl'}",
        "EVENTS_BOOTSTRAP_RELAYS": relay,
        "EVENTS_DISCOVER_RELAYS": "false",
        "EVENTS_ALLOW_PRIVATE_RELAYS": "true",
        "EVENTS_LISTEN_ADDRESS": f"{HOST}:{port}",
    }


@asynccontextmanager
async def running(env: dict[str, str], folder: Path, stop: asyncio.Event) -> AsyncIterator[asyncio.Task[int]]:
    """`supervise`, ready to work; gives a task that ends when it ends, with its exit code.

    Raises `DemoFailed` if it ends, or `stop` is set, before it is ready. It has ended when the block is left.
    """
    log = folder / "service.log"
    with _notify_socket() as (notify, name), log.open("wb") as file:
        # In a session of its own, so that Ctrl-C reaches it by us alone, who end it in order.
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pipeline.cli", "supervise", env=env | {"NOTIFY_SOCKET": name},
            stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
        ended = asyncio.create_task(child.wait())
        try:
            await _ready(notify, ended, stop, log)
            yield ended
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(ended), _END_S)
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await ended


@contextlib.contextmanager
def _notify_socket() -> Iterator[tuple[socket.socket, str]]:
    """A socket, and how systemd would name it: without a path, since that of the folder may be too long for one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        # The kernel chooses a free one.
        sock.bind("")
        sock.setblocking(False)
        yield sock, "@" + os.fsdecode(sock.getsockname()[1:])


async def _ready(notify: socket.socket, ended: "asyncio.Task[int]", stop: asyncio.Event, log: Path) -> None:
    """Wait until the supervisor says that all stages run, as it says it to systemd."""
    stopped = asyncio.create_task(stop.wait())
    try:
        while True:
            word = asyncio.create_task(asyncio.get_running_loop().sock_recv(notify, 4096))
            done, _ = await asyncio.wait({word, ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if word not in done:
                word.cancel()
                raise DemoFailed("stopped" if stopped in done else f"the service did not start:\n{_tail(log)}")
            if word.result().startswith(b"READY=1"):
                return
    finally:
        stopped.cancel()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL:])
