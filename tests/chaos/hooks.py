"""Copied as `sitecustomize` beside the service under test: it stands still at named points and tells another time.

Only the standard library and apsw: it is imported before everything else, in every process of the service. A process
that reaches the point it was given stops itself (SIGSTOP), so that the test can look before it kills it.
"""

import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

import apsw

POINTS = "CHAOS_POINTS"
"""Folder with one file per stage that is to stop: `MOMENT|STATEMENT`; it is renamed to `PID.stopped` by who does."""
CLOCK = "CHAOS_CLOCK"
"""File with the number of nanoseconds by which the clock is wrong."""
BEFORE, AFTER, COMMITTED = "before", "after", "committed"
"""Moments: before a statement, after it has changed rows, after the commit of a transaction in which it did."""
_BEGIN = "BEGIN IMMEDIATE"


def _stage() -> str:
    arguments = sys.argv
    return arguments[arguments.index("stage") + 1] if "stage" in arguments[:-1] else "none"


class Connection(apsw.Connection):
    """A connection that stops its process at the point that is asked for."""

    _wanted: tuple[str, str] | None = None
    _reached = False

    def execute(self, statements: str, *arguments: Any, **named: Any) -> Any:
        text = statements.lstrip()
        if text == _BEGIN:
            self._wanted, self._reached = _asked(), False
        if self._wanted is None:
            return super().execute(statements, *arguments, **named)
        return self._watched(text, lambda: super(Connection, self).execute(statements, *arguments, **named))

    def executemany(self, statements: str, *arguments: Any, **named: Any) -> Any:
        if self._wanted is None:
            return super().executemany(statements, *arguments, **named)
        run = super().executemany
        return self._watched(statements.lstrip(), lambda: run(statements, *arguments, **named))

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
        if text in ("COMMIT", "ROLLBACK"):
            self._wanted = None
        return result

    def _stand_still(self) -> None:
        self._wanted = None
        folder = Path(os.environ[POINTS])
        try:
            (folder / _stage()).rename(folder / f"{os.getpid()}.stopped")
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGSTOP)


def _asked() -> tuple[str, str] | None:
    try:
        moment, _, statement = (Path(os.environ[POINTS]) / _stage()).read_text().partition("|")
    except OSError:
        return None
    return moment, statement


def _tell_other_time() -> None:
    with Path(os.environ[CLOCK]).open("rb") as file:
        view = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    real = time.time_ns
    time.time_ns = lambda: real() + int(struct.unpack_from("=q", view)[0])


if POINTS in os.environ:
    apsw.Connection = Connection  # type: ignore[misc]  # whoever opens a database from now on gets ours
if CLOCK in os.environ:
    _tell_other_time()
