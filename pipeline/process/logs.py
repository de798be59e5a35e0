"""Logs: one line each on standard error, readable on a terminal and JSON elsewhere, with its priority in the journal.

Messages are constant texts; what varies goes into named fields, which are escaped and cut, so that nothing a stranger
sends can forge or flood a line. `RateLimitedLogger` bounds how many lines a stranger can cause.
"""

import json
import logging
import math
import os
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.process.clock import Clock

if TYPE_CHECKING:
    from pipeline.settings.choices import LogLevel

TRACE = 5
# Fields come from the network; a line is for a reader, not an archive.
MAX_VALUE_CHARS = 200
# Enough for any stack of ours; the text of an exception may be a stranger's.
_MAX_TRACEBACK_CHARS = 16_000
_ROOT = "event_service"
_THRESHOLDS: Mapping[str, int] = {
    "TRACE": TRACE,
    "DEBUG": logging.DEBUG,
    "ERROR": logging.ERROR,
    "DISABLED": logging.CRITICAL + 1,
}
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7
_FIELDS = "event_service_fields"
_PLAIN_PUNCTUATION = frozenset("._-:/@%+,[]{}()<>*#?&=!~^;|")


class Logger:
    """Logger of one part of the program; safe in every thread, not in signal handlers."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def trace(self, message: str, /, **fields: object) -> None:
        """For debugging: one line per event and more."""
        self.log(TRACE, message, fields)

    def debug(self, message: str, /, **fields: object) -> None:
        """What happens in the ordinary course."""
        self.log(logging.DEBUG, message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        """A turn in the life of the process: started, stopped, connected. Shown wherever `debug` is."""
        self.log(logging.INFO, message, fields)

    def warning(self, message: str, /, **fields: object) -> None:
        """Something an operator may want to look into. Shown wherever `debug` is."""
        self.log(logging.WARNING, message, fields)

    def error(self, message: str, /, **fields: object) -> None:
        """Something that an operator should look into."""
        self.log(logging.ERROR, message, fields)

    def exception(self, message: str, /, *, cause: BaseException | None = None, **fields: object) -> None:
        """An `error` with the traceback of `cause`, by default of the exception that is being handled."""
        self._logger.error(message, exc_info=cause or True, extra={_FIELDS: fields})

    def is_enabled_for(self, level: int) -> bool:
        """Return True if a line of `level` would be written, to spare the work of making its fields."""
        return self._logger.isEnabledFor(level)

    def log(self, level: int, message: str, fields: Mapping[str, object]) -> None:
        """Write one line of `level`."""
        if self._logger.isEnabledFor(level):
            self._logger.log(level, message, extra={_FIELDS: fields})


class RateLimitedLogger:
    """Logger of at most `lines` lines per `interval_s` and key; the next line of a key counts those dropped."""

    # Keys come from the network; those beyond share one allowance.
    MAX_KEYS = 1000

    def __init__(self, log: Logger, clock: Clock, *, lines: int = 5, interval_s: float = 60.0) -> None:
        self._log = log
        self._clock = clock
        self._lines = lines
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._windows: dict[str, tuple[float, int, int]] = {}

    def debug(self, key: str, message: str, /, **fields: object) -> None:
        """`Logger.debug`, within the allowance of `key`."""
        self._write(logging.DEBUG, key, message, fields)

    def warning(self, key: str, message: str, /, **fields: object) -> None:
        """`Logger.warning`, within the allowance of `key`."""
        self._write(logging.WARNING, key, message, fields)

    def error(self, key: str, message: str, /, **fields: object) -> None:
        """`Logger.error`, within the allowance of `key`."""
        self._write(logging.ERROR, key, message, fields)

    def exception(self, key: str, message: str, /, **fields: object) -> None:
        """`Logger.exception` of the exception that is being handled, within the allowance of `key`."""
        suppressed = self._admit(key) if self._log.is_enabled_for(logging.ERROR) else None
        if suppressed is None:
            return
        if suppressed:
            fields["suppressed"] = suppressed
        self._log.exception(message, cause=None, **fields)

    def _write(self, level: int, key: str, message: str, fields: dict[str, object]) -> None:
        if not self._log.is_enabled_for(level):
            return
        suppressed = self._admit(key)
        if suppressed is None:
            return
        if suppressed:
            fields["suppressed"] = suppressed
        self._log.log(level, message, fields)

    def _admit(self, key: str) -> int | None:
        """Return how many lines of `key` were dropped before this one; None if this one is dropped too."""
        now_s = self._clock.monotonic()
        with self._lock:
            if key not in self._windows and len(self._windows) >= self.MAX_KEYS:
                self._forget_before(now_s - self._interval_s)
                key = key if len(self._windows) < self.MAX_KEYS else ""
            began_s, written, suppressed = self._windows.get(key, (now_s, 0, 0))
            if now_s - began_s >= self._interval_s:
                began_s, written = now_s, 0
            if written >= self._lines:
                self._windows[key] = began_s, written, suppressed + 1
                return None
            self._windows[key] = began_s, written + 1, 0
            return suppressed

    def _forget_before(self, began_s: float) -> None:
        self._windows = {key: window for key, window in self._windows.items() if window[0] > began_s}


def get_logger(name: str) -> Logger:
    """Return the logger of one part of the program, such as `relay`; usable before `configure`."""
    return Logger(logging.getLogger(f"{_ROOT}.{name}"))


def configure(level: "LogLevel", slot: str, *, as_json: bool | None = None, stream: TextIO | None = None) -> None:
    """Write lines of `level` and above to `stream`, in the name of process `slot`; may be called again.

    `as_json` None means JSON unless the stream is a terminal. Libraries are heard from WARNING up, and bounded, since
    what they say may be a stranger's doing.
    """
    stream = stream if stream is not None else sys.stderr
    if as_json is None:
        as_json = not stream.isatty()
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(stream)
    if as_json and is_journal(stream):
        handler.setFormatter(_JournalFormatter(slot))
    else:
        handler.setFormatter(_JsonFormatter(slot) if as_json else _TextFormatter(slot))
    handler.addFilter(_LibraryBound())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, _JsonFormatter | _TextFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)


def is_journal(stream: TextIO) -> bool:
    """Return True if what is written to `stream` goes to systemd's journal by itself, as in systemd.exec(5)."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def journal_priority(level: int) -> str:
    """Return the mark before a line by which the journal knows its priority (sd-daemon(3))."""
    number = next((number for least, number in _PRIORITIES if level >= least), _DEBUG_PRIORITY)
    return f"<{number}>"


def set_level(level: "LogLevel") -> None:
    """Write lines of `level` and above from now on."""
    threshold = _THRESHOLDS[level]
    logging.getLogger().setLevel(max(threshold, logging.WARNING))
    logging.getLogger(_ROOT).setLevel(threshold)


class _LibraryBound(logging.Filter):
    """Bound on the lines a minute of each library's logger; the next one has the number of those dropped."""

    LINES = 20
    INTERVAL_S = 60.0

    def __init__(self) -> None:
        super().__init__()
        # One entry per logger; their names come from code.
        self._windows: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith(_ROOT):
            return True
        began, seen = self._windows.get(record.name, (record.created, 0))
        # A clock that was set back begins a new minute too.
        if not 0 <= record.created - began < self.INTERVAL_S:
            if seen > self.LINES:
                setattr(record, _FIELDS, {"suppressed": seen - self.LINES})
            began, seen = record.created, 0
        self._windows[record.name] = began, seen + 1
        return seen < self.LINES


class _TextFormatter(logging.Formatter):
    def __init__(self, slot: str) -> None:
        super().__init__()
        self._slot = slot

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {self._slot} {_part(record)}: {_escape(_message(record))}"
        for name, value in _fields(record).items():
            line += f" {name}={_quote(_text(value))}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)[:_MAX_TRACEBACK_CHARS]
        return line


class _JsonFormatter(logging.Formatter):
    def __init__(self, slot: str) -> None:
        super().__init__()
        self._slot = slot

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "process": self._slot,
            "logger": _part(record),
            "message": _message(record),
        }
        for name, value in _fields(record).items():
            # JSON knows no infinity.
            plain = value if isinstance(value, int | None) or _is_finite(value) else _text(value)
            line[f"{name}_" if name in line else name] = plain
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[:_MAX_TRACEBACK_CHARS]
        return json.dumps(line)


class _JournalFormatter(_JsonFormatter):
    """JSON with the priority that `journalctl -p` goes by."""

    def format(self, record: logging.LogRecord) -> str:
        return journal_priority(record.levelno) + super().format(record)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _part(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{_ROOT}.")


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    # A library's message may carry anything; ours are constants.
    return text if len(text) <= 5 * MAX_VALUE_CHARS else text[: 5 * MAX_VALUE_CHARS] + "…"


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, _FIELDS, {})
    return fields


def _text(value: object) -> str:
    if isinstance(value, bytes):
        text = value[: MAX_VALUE_CHARS // 2 + 1].hex()
    elif isinstance(value, BaseException):
        text = f"{type(value).__name__}: {value}"
    else:
        text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _escape(text: str) -> str:
    """`text` without anything that a terminal obeys or that ends a line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _quote(text: str) -> str:
    if text and all(c.isalnum() or c in _PLAIN_PUNCTUATION for c in text):
        return text
    escaped = _escape(text.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{escaped}"'
