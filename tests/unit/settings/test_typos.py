"""A setting under a wrong name is found, and nothing else is taken for one."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings.env_file import InvalidEnvFile
from pipeline.settings.reload import read_settings_file
from pipeline.settings.schema import SETTINGS
from pipeline.settings.typos import UnknownSetting, unknown_settings

NAMES = sorted(setting.name for setting in SETTINGS)


def test_settings_are_known_and_other_variables_are_not_ours() -> None:
    assert unknown_settings([*NAMES, "PATH", "PUBSUB_EMULATOR_HOST", "events_sink", "MY_EVENTS_SINK"]) == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("EVENTS_TARGET_RELAYS", "EVENTS_TARGET_RELAY"),
        ("EVENTS_TARGETRELAY", "EVENTS_TARGET_RELAY"),
        ("EVENTS_DATABSE_PATH", "EVENTS_DATABASE_PATH"),
        ("EVENTS_SNIK", "EVENTS_SINK"),
        ("EVENTS_PUBSUB_PROJECT", None),
        ("EVENTS_FRESH", None),
    ],
)
def test_a_slip_of_the_pen_names_what_was_meant(written: str, meant: str | None) -> None:
    assert unknown_settings([written]) == [UnknownSetting(written, meant)]


@pytest.mark.parametrize(
    "name", ["EVENTS_PORT", "EVENTS_PORT_8008_TCP_ADDR", "EVENTS_SERVICE_HOST", "EVENTS_SERVICE_PORT_HTTP"]
)
def test_what_kubernetes_injects_is_passed_over(name: str) -> None:
    assert unknown_settings([name]) == []


@given(st.sampled_from(NAMES), st.data())
def test_any_one_letter_left_out_is_found(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(len("EVENTS_"), len(name) - 1))
    written = name[:at] + name[at + 1 :]
    if written not in NAMES:
        (unknown,) = unknown_settings([written])
        assert unknown.meant in NAMES


def test_a_file_with_a_slip_is_refused_and_one_with_a_stranger_is_not(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text("EVENTS_TARGET_RELAYS=\n")
    with pytest.raises(InvalidEnvFile, match=r"EVENTS_TARGET_RELAYS \(did you mean EVENTS_TARGET_RELAY\?\)"):
        read_settings_file(file)
    file.write_text("EVENTS_COLOUR=red\nHOME=/\n")
    assert read_settings_file(file) == {"EVENTS_COLOUR": "red", "HOME": "/"}


def test_this_process_has_no_unknown_settings() -> None:
    assert unknown_settings(os.environ) == []
