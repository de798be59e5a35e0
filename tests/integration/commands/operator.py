"""`event-service` as its operator runs it: a child process with settings of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.service import settings

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Operator:
    """Runs commands on the database at `path`."""

    path: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipeline.cli", *arguments]

    @property
    def env(self) -> dict[str, str]:
        return os.environ | settings(EVENTS_DATABASE_PATH=str(self.path))

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments), env=self.env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )

    def succeed(self, *arguments: str) -> str:
        """Standard output of a command that must end with 0."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fail(self, *arguments: str, code: int = 1) -> str:
        """Standard error of a command that must end with `code`."""
        done = self.run(*arguments)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr
