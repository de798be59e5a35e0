import json
import os
from collections.abc import Iterator
from dataclasses import fields
from io import StringIO
from pathlib import Path

import pytest

from pipeline.process import logs
from pipeline.settings.choices import LogLevel
from pipeline.settings.config import Config, InvalidConfig
from pipeline.settings.env_file import InvalidEnvFile, read_env_file
from pipeline.settings.reload import Reload, ReloadableConfig
from pipeline.settings.schema import SETTINGS

ENV = {"EVENTS_DATABASE_PATH": "/tmp/events.db", "EVENTS_ENVIRONMENT": "DEVELOPMENT", "EVENTS_CRAWLERS": "3"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "environment"
    path.write_text("EVENTS_BACKPRESSURE_HIGH=100\nEVENTS_BACKPRESSURE_LOW=50\n")
    return path


@pytest.fixture
def log() -> Iterator[StringIO]:
    stream = StringIO()
    logs.configure(LogLevel.DEBUG, "test", as_json=True, stream=stream)
    yield stream
    logs.configure(LogLevel.DEBUG, "test")


def test_the_file_wins_over_the_environment(file: Path) -> None:
    live = ReloadableConfig(file, ENV | {"EVENTS_BACKPRESSURE_HIGH": "7000"})
    assert (live.config.backpressure_high, live.config.crawlers) == (100, 3)


def test_without_a_file_the_environment_is_all() -> None:
    live = ReloadableConfig(None, ENV)
    assert live.config == Config.from_env(ENV)
    assert live.reload() == Reload((), ())


def test_what_may_change_changes_and_the_rest_waits_for_a_restart(file: Path) -> None:
    live = ReloadableConfig(file, ENV)
    before = live.config
    file.write_text("EVENTS_LOG_LEVEL=error\nEVENTS_BOOTSTRAP_RELAYS=\nEVENTS_CRAWLERS=9\nPUBSUB_EMULATOR_HOST=h:1\n")
    changed = ("EVENTS_LOG_LEVEL", "EVENTS_BOOTSTRAP_RELAYS", "EVENTS_BACKPRESSURE_HIGH", "EVENTS_BACKPRESSURE_LOW")
    assert live.reload() == Reload(changed, ("EVENTS_CRAWLERS", "PUBSUB_EMULATOR_HOST"))
    assert (live.config.log_level, live.config.bootstrap_relays) == (LogLevel.ERROR, ())
    # What the file no longer says is the default again.
    assert live.config.backpressure_high == 20000
    untouched = {each.field for each in SETTINGS if not each.live}
    for field in fields(Config):
        if field.name in untouched:
            assert getattr(live.config, field.name) == getattr(before, field.name)
    # Said again as long as it holds, and no more once it is taken back.
    assert live.reload() == Reload((), ("EVENTS_CRAWLERS", "PUBSUB_EMULATOR_HOST"))
    file.write_text("EVENTS_LOG_LEVEL=error\nEVENTS_BOOTSTRAP_RELAYS=\n")
    assert live.reload() == Reload((), ())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("EVENTS_LOG_LEVEL=ERROR\nEVENTS_MAX_RELAYS=many", InvalidConfig),
        ("EVENTS_LOG_LEVEL=ERROR\nEVENTS_BACKPRESSURE_LOW=30000", InvalidConfig),
        ("EVENTS_LOG_LEVEL=ERROR\nwhat", InvalidEnvFile),
        (None, InvalidEnvFile),
    ],
)
def test_a_bad_file_changes_nothing(file: Path, text: str | None, error: type[Exception]) -> None:
    live = ReloadableConfig(file, ENV)
    before = live.config
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(error):
        live.reload()
    assert live.config == before


def test_following_says_what_came_of_it(file: Path, log: StringIO) -> None:
    live = ReloadableConfig(file, ENV)
    file.write_text("EVENTS_SKIP_RELAYS=a.example\nEVENTS_MAX_RELAYS=5\n")
    assert live.reload_and_log()
    file.write_text("EVENTS_MAX_RELAYS=many\n")
    assert not live.reload_and_log()
    good, pending, bad = (json.loads(line) for line in log.getvalue().splitlines())
    assert good["message"] == "settings reloaded"
    assert good["changed"] == "EVENTS_SKIP_RELAYS,EVENTS_BACKPRESSURE_HIGH,EVENTS_BACKPRESSURE_LOW"
    assert (pending["message"], pending["settings"]) == ("settings changed that need a restart", "EVENTS_MAX_RELAYS")
    assert (bad["level"], bad["message"]) == ("ERROR", "settings not reloaded, the old ones stay")
    assert bad["error"].startswith("EVENTS_MAX_RELAYS: must be")


def test_following_sets_the_log_level(file: Path, log: StringIO) -> None:
    live = ReloadableConfig(file, ENV)
    file.write_text("EVENTS_LOG_LEVEL=ERROR\n")
    assert live.reload_and_log()
    logs.get_logger("x").info("not written")
    logs.get_logger("x").error("written")
    assert [json.loads(line)["message"] for line in log.getvalue().splitlines()] == ["written"]


def test_stages_read_back_exactly_the_live_settings(file: Path, tmp_path: Path) -> None:
    """Whatever a stage's own environment says of them, and nothing but them."""
    file.write_text("EVENTS_SKIP_RELAYS=\nEVENTS_LOG_LEVEL=trace\nEVENTS_MAX_QUEUE_AGE=90s\nEVENTS_MAX_USERS=7\n")
    live = ReloadableConfig(file, ENV)
    published = tmp_path / "settings"
    live.publish(published)
    assert set(read_env_file(published)) == {each.name for each in SETTINGS if each.live}
    assert published.stat().st_mode & 0o777 == 0o600
    stage = ReloadableConfig(published, ENV | {"EVENTS_SKIP_RELAYS": "x.example", "EVENTS_MAX_USERS": "7"})
    assert stage.config == live.config
    assert [path.name for path in tmp_path.iterdir() if "new" in path.name] == []


def test_no_secret_is_live() -> None:
    """Since live settings lie in a file of the runtime directory."""
    assert [each.name for each in SETTINGS if each.live and each.secret] == []


def test_libraries_find_the_files_variables(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "elsewhere")
    file.write_text("PUBSUB_EMULATOR_HOST=127.0.0.1:1\n")
    ReloadableConfig(file, ENV).export()
    assert os.environ["PUBSUB_EMULATOR_HOST"] == "127.0.0.1:1"
