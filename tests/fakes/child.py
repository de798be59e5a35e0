"""Child processes of tests: started in a session of their own, logged to a file, and always ended.

A guard process outside holds the other end of a pipe: should the test run itself be killed, the guard ends the sessions
that are still there.
"""

import atexit
import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Self

from tests.fakes.procs import kill_session
from tests.fakes.scratch import scratch_path

ROOT = Path(__file__).parents[2]
"""The checkout; children run here, so that `-m tests…` and `-m pipeline…` are found."""
MAX_KEPT_LINES = 10_000
"""Lines of standard output kept for `wait_line`; a child that says more is read through its own files."""
STOP_TIMEOUT_S = 60.0

_GUARD = """
import sys
from tests.fakes.procs import kill_session
sessions = set()
for line in sys.stdin:
    (sessions.add if line[0] == "+" else sessions.discard)(int(line[1:]))
for session in sessions:
    kill_session(session)
"""


class _Guard:
    """The process that outlives a killed test run by a moment; started with the first child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def tell(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _GUARD],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                atexit.register(self._end, self._process)
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(STOP_TIMEOUT_S)


_guard = _Guard()


class ChildFailed(AssertionError):
    """A child ended or stayed silent when it should not have; the text ends with the tail of its log."""


class Child:
    """One command as a child process, usable as a context manager that ends it.

    Standard input is a pipe that stays open until the end (a lifeline for children that read it), standard output is
    read line by line, standard error goes to `log` (a temporary file unless given). Not restartable: start another.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.log = log or scratch_path("child.log")
        self._lines: deque[str] = deque(maxlen=MAX_KEPT_LINES)
        self._said = threading.Condition()
        self._silent = False
        with self.log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=None if env is None else dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        _guard.tell(f"+{self.pid}")
        self._reader = threading.Thread(target=self._read, name=f"stdout of {self.pid}", daemon=True)
        self._reader.start()

    @classmethod
    def module(
        cls, module: str, *arguments: str, env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> Self:
        """`python -m module arguments…` with this interpreter."""
        return cls([sys.executable, "-m", module, *arguments], env=env, log=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id, which is its session's too."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            with self._said:
                self._lines.append(raw.decode(errors="replace").rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self._silent = True
            self._said.notify_all()

    def lines(self) -> list[str]:
        """What it has printed and nobody has waited for yet."""
        with self._said:
            return list(self._lines)

    def wait_line(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """The next line of standard output that matches; it and those before it are consumed."""
        deadline = monotonic() + timeout_s
        with self._said:
            while True:
                while self._lines:
                    match = re.search(pattern, self._lines.popleft())
                    if match:
                        return match
                left = deadline - monotonic()
                if self._silent or left <= 0:
                    raise ChildFailed(f"no line {pattern!r} from {self.process.args!r}\n{self.tail()}")
                self._said.wait(left)

    def say(self, line: str) -> None:
        """Write one line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, not to what it has started."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Its exit code once it ended by itself, negative for a signal; raises `ChildFailed` when it does not."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"{self.process.args!r} still runs after {timeout_s} s\n{self.tail()}") from None
        self._reader.join(timeout_s)
        return code

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, then its exit code; raises `ChildFailed` when it does not end in time."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL to the process alone, and wait until it is gone."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        """End whatever is left of its session, at once. May be repeated."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)
        kill_session(self.pid)
        self._reader.join(STOP_TIMEOUT_S)
        if self.process.stdout is not None and not self._reader.is_alive():
            self.process.stdout.close()
        _guard.tell(f"-{self.pid}")

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
