"""What a process runs with, as commands of another environment read it."""

from pathlib import Path

import pytest

from pipeline.settings.config import Config
from pipeline.settings.running import differences, record_settings, recorded_settings, with_recorded

HERE = {"EVENTS_DATABASE_PATH": "/tmp/here.db", "EVENTS_ENVIRONMENT": "DEVELOPMENT", "EVENTS_RUNTIME_DIRECTORY": "/r"}
THERE = HERE | {
    "EVENTS_DATABASE_PATH": "/tmp/there.db",
    "EVENTS_SINK": "stdout",
    "EVENTS_TARGET_RELAY": "wss://target.example",
    "EVENTS_TRACE_SAMPLE": "0.00001",
    "EVENTS_BACKFILL": "90m",
    "EVENTS_ALLOWED_PORTS": "22,6379",
    "EVENTS_PYROSCOPE_BASIC_AUTH_PASSWORD": "open sesame",
    "EVENTS_PYROSCOPE_BASIC_AUTH_USER": "somebody",
    "EVENTS_TRUSTED_PROXIES": "10.0.0.0/8",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "supervisor"


def test_commands_see_the_settings_of_the_service(path: Path) -> None:
    there, here = Config.from_env(THERE), Config.from_env(HERE)
    record_settings(there, path)
    seen = with_recorded(here, recorded_settings(path))
    secret = {"EVENTS_PYROSCOPE_BASIC_AUTH_PASSWORD", "EVENTS_PYROSCOPE_BASIC_AUTH_USER"}
    own = {"EVENTS_DATABASE_PATH", "EVENTS_RUNTIME_DIRECTORY"}
    of_here = dict(here.effective())
    for name, text in there.effective():
        expected = of_here[name] if name in own | secret else text
        assert dict(seen.effective())[name] == expected, name


def test_secrets_are_not_written_down(path: Path) -> None:
    record_settings(Config.from_env(THERE), path)
    assert "sesame" not in path.read_text()
    assert "somebody" not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_setting_that_cannot_be_read_here_stays_ours(path: Path, tmp_path: Path) -> None:
    """A file of the service's user, a plugin that is not installed here."""
    recorded = {"EVENTS_SECRET_KEY_PATH": str(tmp_path / "none"), "EVENTS_SINK": "kafka:x", "EVENTS_MAX_USERS": "7"}
    here = Config.from_env(HERE)
    seen = with_recorded(here, recorded)
    assert (seen.secret_key_path, seen.sink, seen.max_users) == (None, here.sink, 7)


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_what_is_no_record_says_nothing(path: Path, text: str) -> None:
    assert recorded_settings(path) == {}
    path.write_text(text)
    assert recorded_settings(path) == {}


def test_only_what_this_environment_sets_otherwise_differs(path: Path) -> None:
    record_settings(Config.from_env(THERE), path)
    recorded = recorded_settings(path)
    assert differences({}, recorded) == {}
    assert differences(THERE, recorded) == {}
    assert differences({"EVENTS_BACKFILL": "5400s"}, recorded) == {}, "the same in other words"
    other = {"EVENTS_SINK": "none", "EVENTS_DATABASE_PATH": "/elsewhere", "EVENTS_TARGET_RELAY": ""}
    assert differences(other, recorded) == {
        "EVENTS_SINK": ("none", "stdout"),
        "EVENTS_TARGET_RELAY": ("nothing", "wss://target.example"),
    }
