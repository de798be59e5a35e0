import io
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from pipeline.process import logs
from pipeline.process.clock import ManualClock
from pipeline.process.logs import MAX_VALUE_CHARS, RateLimitedLogger
from pipeline.settings.choices import LogLevel

LOG = logs.get_logger("relay")


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    own = logging.getLogger("event_service")
    own_level = own.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    own.setLevel(own_level)


def text_lines(out: io.StringIO) -> list[str]:
    """The lines without their times, which are checked to be times."""
    times_and_rests = [line.split(" ", 1) for line in out.getvalue().splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment) for moment, _ in times_and_rests)
    return [rest for _, rest in times_and_rests]


def configure(out: io.StringIO, level: LogLevel = LogLevel.DEBUG, *, as_json: bool = False) -> None:
    logs.configure(level, "crawler-0", as_json=as_json, stream=out)


def test_text_line(out: io.StringIO) -> None:
    configure(out)
    LOG.error("connection lost", relay="wss://relay.example/a?b=c", reason="dial", attempt=3, id=b"\x01\xff")
    expected = "ERROR crawler-0 relay: connection lost relay=wss://relay.example/a?b=c reason=dial attempt=3 id=01ff"
    assert text_lines(out) == [expected]


def test_json_line(out: io.StringIO) -> None:
    configure(out, as_json=True)
    LOG.info("connected", relay="wss://a b\n", count=3, share=0.5, age=inf, wanted=True, nothing=None, logger="x")
    line = json.loads(out.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "process": "crawler-0",
        "logger": "relay",
        "message": "connected",
        "relay": "wss://a b\n",
        "count": 3,
        "share": 0.5,
        "age": "inf",
        "wanted": True,
        "nothing": None,
        "logger_": "x",
    }


def test_stream_that_is_no_terminal_gets_json(out: io.StringIO) -> None:
    logs.configure(LogLevel.DEBUG, "crawler-0", stream=out)
    LOG.debug("x")
    assert json.loads(out.getvalue())["message"] == "x"


@pytest.mark.parametrize("hostile", ["a\nERROR fake", "a\r\x1b[2Jb", "\u2028", "\x00", "\u202e", "\x85"])
@pytest.mark.parametrize("as_json", [True, False])
def test_hostile_value_stays_within_its_line(out: io.StringIO, hostile: str, as_json: bool) -> None:
    configure(out, as_json=as_json)
    LOG.debug("notice", text=hostile)
    written = out.getvalue()
    assert written.endswith("\n")
    assert written[:-1].isprintable()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("", '""'),
        ("a b", '"a b"'),
        ('say "x"', r'"say \"x\""'),
        ("a\\nb", r'"a\\nb"'),
        ("a\nb", r'"a\nb"'),
        (ValueError("no"), '"ValueError: no"'),
    ],
)
def test_text_values_are_quoted_where_needed(out: io.StringIO, value: object, written: str) -> None:
    configure(out)
    LOG.debug("x", v=value)
    assert text_lines(out) == [f"DEBUG crawler-0 relay: x v={written}"]


@pytest.mark.parametrize("as_json", [True, False])
def test_long_values_are_cut(out: io.StringIO, as_json: bool) -> None:
    configure(out, as_json=as_json)
    LOG.debug("x", text="y" * 10**6, raw=b"z" * 10**6)
    assert len(out.getvalue()) < 4 * MAX_VALUE_CHARS


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (LogLevel.TRACE, ["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"]),
        (LogLevel.DEBUG, ["DEBUG", "INFO", "WARNING", "ERROR"]),
        (LogLevel.ERROR, ["ERROR"]),
        (LogLevel.DISABLED, []),
    ],
)
def test_levels(out: io.StringIO, level: LogLevel, shown: list[str]) -> None:
    configure(out, level)
    for write in (LOG.trace, LOG.debug, LOG.info, LOG.warning, LOG.error):
        write("x")
    assert [line.split()[0] for line in text_lines(out)] == shown


def test_libraries_are_heard_from_warning_up(out: io.StringIO) -> None:
    configure(out, LogLevel.TRACE)
    library = logging.getLogger("websockets.server")
    library.info("every frame")
    library.warning("over %d\nlines", 2)
    assert text_lines(out) == [r"WARNING crawler-0 websockets.server: over 2\nlines"]


def test_disabled_silences_libraries_too(out: io.StringIO) -> None:
    configure(out, LogLevel.DISABLED)
    logging.getLogger("websockets.server").error("x")
    assert out.getvalue() == ""


def test_configuring_again_replaces(out: io.StringIO) -> None:
    configure(io.StringIO())
    configure(out)
    LOG.debug("x")
    assert len(text_lines(out)) == 1


def test_exception_is_one_json_line_with_its_traceback(out: io.StringIO) -> None:
    configure(out, as_json=True)
    try:
        raise ValueError("broken")
    except ValueError:
        LOG.exception("stage failed", relay="wss://a")
    line = json.loads(out.getvalue())
    assert (line["level"], line["message"], line["relay"]) == ("ERROR", "stage failed", "wss://a")
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("ValueError: broken")


def test_exception_of_another_thread_is_given_as_cause(out: io.StringIO) -> None:
    configure(out)
    LOG.exception("thread failed", cause=ValueError("broken"))
    assert "ValueError: broken" in out.getvalue()


def test_rate_limit_counts_what_it_leaves_out(out: io.StringIO) -> None:
    configure(out)
    clock = ManualClock()
    limited = RateLimitedLogger(LOG, clock, lines=2, interval_s=60)
    for _ in range(10):
        limited.debug("wss://a", "bad frame")
    limited.error("wss://b", "bad frame")
    clock.advance(60)
    limited.debug("wss://a", "bad frame")
    limited.debug("wss://a", "bad frame")
    assert text_lines(out) == [
        "DEBUG crawler-0 relay: bad frame",
        "DEBUG crawler-0 relay: bad frame",
        "ERROR crawler-0 relay: bad frame",
        "DEBUG crawler-0 relay: bad frame suppressed=8",
        "DEBUG crawler-0 relay: bad frame",
    ]


def test_rate_limit_over_very_many_keys_is_bounded(out: io.StringIO) -> None:
    configure(out)
    clock = ManualClock()
    limited = RateLimitedLogger(LOG, clock, lines=1, interval_s=60)
    for number in range(3 * RateLimitedLogger.MAX_KEYS):
        limited.warning(str(number), "bad frame")
    assert len(text_lines(out)) == RateLimitedLogger.MAX_KEYS + 1
    clock.advance(60)
    limited.warning("new", "bad frame")
    assert len(text_lines(out)) == RateLimitedLogger.MAX_KEYS + 2


def test_line_of_a_disabled_level_uses_no_allowance(out: io.StringIO) -> None:
    configure(out, LogLevel.ERROR)
    limited = RateLimitedLogger(LOG, ManualClock(), lines=1)
    limited.debug("k", "x")
    limited.error("k", "x")
    assert text_lines(out) == ["ERROR crawler-0 relay: x"]


def test_tracebacks_are_bounded_too(out: io.StringIO) -> None:
    configure(out, as_json=True)
    clock = ManualClock()
    limited = RateLimitedLogger(LOG, clock, lines=1)
    for _ in range(3):
        try:
            raise ValueError("broken")
        except ValueError:
            limited.exception("ValueError", "relay failed", relay="wss://a")
        clock.advance(40)
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["traceback"].endswith("ValueError: broken")
    assert (second["traceback"], second["suppressed"]) == (first["traceback"], 1)


def test_what_a_library_says_over_and_over_is_bounded(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(out)
    now = 1_700_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "time_ns", lambda: round(now * 1e9))
    for _ in range(100):
        logging.getLogger("library").warning("odd frame")
        LOG.warning("ours")
    logging.getLogger("another").warning("odd frame")
    now += 60
    logging.getLogger("library").warning("odd frame")
    said = text_lines(out)
    assert said.count("WARNING crawler-0 relay: ours") == 100
    assert said.count("WARNING crawler-0 library: odd frame") == 20
    assert said[-2:] == [
        "WARNING crawler-0 another: odd frame",
        "WARNING crawler-0 library: odd frame suppressed=80",
    ]


def test_lines_for_the_journal_carry_their_priority(
    out: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that `journalctl -p err` finds errors; other files named by the environment are not the journal."""
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        logs.configure(LogLevel.TRACE, "crawler-0", stream=journal)
        for write in (LOG.error, LOG.warning, LOG.info, LOG.debug, LOG.trace):
            write("said")
        journal.seek(0)
        lines = journal.read().splitlines()
    assert [line[:4] for line in lines] == ["<3>{", "<4>{", "<6>{", "<7>{", "<7>{"]
    assert json.loads(lines[0][3:])["message"] == "said"
    configure(out, as_json=True)
    LOG.error("said")
    assert out.getvalue().startswith("{")
