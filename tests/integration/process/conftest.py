import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.runtime import process_metrics, runtime

__all__ = ["process_metrics", "runtime"]

# Longer than any step takes on a busy machine; only a failing test waits so long.
PATIENCE_S = 60.0
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Entry:
    event: str
    slot: str
    pid: int


class Journal:
    """What the stages under test have done, in order."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._entries: list[Entry] = []
        self._caught_up: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._unread: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        # Open for writing too, so that it does not end when no stage happens to write.
        self._descriptor = os.open(path, os.O_RDWR)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def entries(self) -> list[Entry]:
        """Everything that was written before this was asked for, in order."""
        os.write(self._descriptor, b"asked - 0\n")
        self._caught_up.get(timeout=PATIENCE_S)
        return list(self._entries)

    def expect(self, event: str, *slots: str) -> dict[str, Entry]:
        """Wait until each of `slots` has written `event` after the last line read; other lines are passed over."""
        found: dict[str, Entry] = {}
        while set(found) != set(slots):
            entry = self._unread.get(timeout=PATIENCE_S)
            if entry.event == event and entry.slot in slots:
                found[entry.slot] = entry
        return found

    def close(self) -> None:
        os.write(self._descriptor, b"over - 0\n")
        self._reader.join()
        os.close(self._descriptor)

    def _read(self) -> None:
        with os.fdopen(os.dup(self._descriptor), "r") as lines:
            for line in lines:
                event, slot, pid = line.split()
                if event == "over":
                    return
                if event == "asked":
                    self._caught_up.put(None)
                    continue
                entry = Entry(event, slot, int(pid))
                self._entries.append(entry)
                self._unread.put(entry)


def wait_for_end(pids: list[int]) -> None:
    """Wait until none of the processes exists, whoever their parent is."""
    for pid in pids:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                ended, _, _ = select.select([descriptor], [], [], PATIENCE_S)
            finally:
                os.close(descriptor)
            assert ended, f"process {pid} does not end"


@dataclass
class Program:
    """A program of `tests.fakes.stages` under test."""

    process: subprocess.Popen[bytes]
    errors: Path
    journal: Journal

    @property
    def log(self) -> str:
        """Everything on standard error so far."""
        return self.errors.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)


@dataclass
class Programs:
    """Starts programs that share a journal and a runtime directory."""

    directory: Path
    journal: Journal
    started: list[Program] = field(default_factory=list)

    @property
    def runtime(self) -> Path:
        return self.directory / "runtime"

    def start(self, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> Program:
        errors = self.directory / f"errors-{len(self.started)}"
        settings = {
            "PATH": os.environ["PATH"],
            "EVENTS_DATABASE_PATH": str(self.directory / "events.db"),
            "EVENTS_ENVIRONMENT": "DEVELOPMENT",
            "EVENTS_RUNTIME_DIRECTORY": str(self.runtime),
            "FAKE_JOURNAL": str(self.journal.path),
            **(env or {}),
        }
        command = [sys.executable, "-m", "tests.fakes.stages", *arguments]
        with errors.open("wb") as stderr:
            process = subprocess.Popen(command, cwd=ROOT, env=settings, stderr=stderr, **options)
        program = Program(process, errors, self.journal)
        self.started.append(program)
        return program


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path, Journal(tmp_path / "journal"))
    yield programs
    for program in programs.started:
        program.process.kill()
        program.process.wait()
        if program.process.stdin is not None:
            program.process.stdin.close()
        print(program.process.args, program.log, sep="\n")
    entries = programs.journal.entries
    programs.journal.close()
    for entry in entries:
        with suppress(ProcessLookupError):
            os.kill(entry.pid, signal.SIGKILL)
