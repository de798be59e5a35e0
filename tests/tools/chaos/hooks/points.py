"""Lets a process of the service stop itself (SIGSTOP) at a named point, so that the test can look and then kill it."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import apsw

from . import points_in, transaction_monitor

BEFORE, AFTER, COMMITTED = "before", "after", "committed"
"""Moments: before a statement, after it has changed rows, after the commit of a transaction in which it did."""
_BEGIN = "BEGIN IMMEDIATE"
_ENDS = ("COMMIT", "ROLLBACK")
_folder = Path()


def _stage() -> str:
    arguments = sys.argv
    return arguments[arguments.index("stage") + 1] if "stage" in arguments[:-1] else "none"


class Connection(apsw.Connection):
    """A connection that stops its process at the point that is asked for, and whose transactions are watched."""

    _wanted: tuple[str, str] | None = None
    _reached = False
    # Since when this has the write lock, and what took longest meanwhile.
    _locked_at: float | None = None
    _slowest = (0.0, "")

    def execute(self, statements: str, *arguments: Any, **named: Any) -> Any:
        began, text = time.monotonic(), statements.lstrip()
        try:
            return self._execute(text, statements, *arguments, **named)
        finally:
            self._note_time(text, began)

    def _execute(self, text: str, statements: str, *arguments: Any, **named: Any) -> Any:
        if text == _BEGIN:
            self._wanted, self._reached = _asked(), False
            began = time.monotonic()
            try:
                begun = super().execute(statements, *arguments, **named)
            finally:
                transaction_monitor.waited(began, time.monotonic())
            transaction_monitor.opened(self)
            self._locked_at, self._slowest = time.monotonic(), (0.0, "")
            return begun
        try:
            if self._wanted is None:
                return super().execute(statements, *arguments, **named)
            return self._watched(text, lambda: super(Connection, self).execute(statements, *arguments, **named))
        finally:
            if text == "BEGIN":
                transaction_monitor.opened(self)
            elif text in _ENDS:
                transaction_monitor.look_again()

    def executemany(self, statements: str, *arguments: Any, **named: Any) -> Any:
        began, text, run = time.monotonic(), statements.lstrip(), super().executemany
        try:
            if self._wanted is None:
                return run(statements, *arguments, **named)
            return self._watched(text, lambda: run(statements, *arguments, **named))
        finally:
            self._note_time(text, began)

    def _note_time(self, text: str, began: float) -> None:
        """Take note of how long a statement took while others wait for the write lock."""
        if self._locked_at is None:
            return
        self._slowest = max(self._slowest, (time.monotonic() - began, text))
        if text in _ENDS:
            transaction_monitor.held(self._locked_at, self._slowest[1], self._slowest[0])
            self._locked_at = None

    def _watched(self, text: str, run: Any) -> Any:
        assert self._wanted is not None
        moment, wanted = self._wanted
        matches = text.startswith(wanted)
        if matches and moment == BEFORE:
            self._stand_still()
        before = self.total_changes()
        result = run()
        changed = matches and (text == "COMMIT" or self.total_changes() != before)
        self._reached |= changed
        if (changed and moment == AFTER) or (self._reached and moment == COMMITTED and text == "COMMIT"):
            self._stand_still()
        if text in _ENDS:
            self._wanted = None
        return result

    def _stand_still(self) -> None:
        self._wanted = None
        try:
            (_folder / _stage()).rename(_folder / f"{os.getpid()}.stopped")
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGSTOP)


def _asked() -> tuple[str, str] | None:
    try:
        moment, statement, _ = (_folder / _stage()).read_text().split("|")
    except OSError:
        return None
    return moment, statement


def install(folder: Path) -> None:
    """Let whoever opens a database from now on get such a connection."""
    global _folder  # noqa: PLW0603  (one per process)
    _folder = points_in(folder)
    apsw.Connection = Connection  # type: ignore[misc]
