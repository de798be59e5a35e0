"""A relay that somebody else wrote, started by its command line.

In the command `{address}` and `{port}` stand for where it must listen, `{folder}` for a folder of its own, in which it
is started, `{root}` for the checkout and `{python}` for its Python. No shell reads the command; it may be `sh -c '…'`.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.fakes.child import ROOT, Child, ChildFailed
from tests.fakes.net import free_port, loopback_address, pause
from tests.fakes.peer import Peer

READY_TIMEOUT_S = 60.0
_TRY_EVERY_S = 0.1


class CommandRelay(Peer):
    """One relay; `start` after `kill` runs the same command in the same folder, at the same url."""

    def __init__(self, command: str, folder: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.address = loopback_address()
        self.port = free_port(self.address)
        self.folder = folder
        places = {
            "{address}": self.address, "{port}": str(self.port), "{folder}": str(folder.absolute()),
            "{root}": str(ROOT), "{python}": sys.executable,
        }  # fmt: skip
        self._command = [_filled(word, places) for word in shlex.split(command)]
        self._env = os.environ | dict(env or {})

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"ws://{self.address}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it takes websockets."""
        self.folder.mkdir(parents=True, exist_ok=True)
        child = Child(self._command, env=self._env, log=self.folder / "relay.log", cwd=self.folder)
        with self._starting(child):
            self._wait_open(child)

    def _wait_open(self, child: Child) -> None:
        deadline = monotonic() + READY_TIMEOUT_S
        while True:
            try:
                with connect(self.url, proxy=None, compression=None, open_timeout=READY_TIMEOUT_S):
                    return
            except (OSError, WebSocketException) as error:
                if not child.running or monotonic() > deadline:
                    said = "\n".join([*child.lines()[-20:], child.tail(20)])
                    raise ChildFailed(f"no websocket at {self.url} ({error}): {self._command}\n{said}") from None
            pause(_TRY_EVERY_S)


def _filled(word: str, places: Mapping[str, str]) -> str:
    for place, value in places.items():
        word = word.replace(place, value)
    return word
