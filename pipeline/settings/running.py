"""Settings that a process runs with, kept beside its heartbeat for commands that an operator starts elsewhere.

A command in a second terminal has another environment: its own settings say nothing of the service. Secrets are left
out, since commands need none.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pipeline.settings.config import Config
from pipeline.settings.schema import SETTINGS
from pipeline.settings.values import InvalidValue

_NOTHING: Final = "nothing"
# By these a command has found the service.
_OWN: Final = ("EVENTS_DATABASE_PATH", "EVENTS_RUNTIME_DIRECTORY")


def record_settings(config: Config, path: Path) -> None:
    """Write what `config` says to `path`, in one step."""
    secret = {setting.name for setting in SETTINGS if setting.secret}
    new = path.with_name(f"{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({name: text for name, text in config.effective() if name not in secret}))
    new.replace(path)


def recorded_settings(path: Path) -> dict[str, str]:
    """Return each variable with its text as it was recorded; empty if nothing is there or it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def with_recorded(config: Config, recorded: Mapping[str, str]) -> Config:
    """Return `config` with what was recorded, as far as it can be read here: a file may be closed to this user."""
    known: dict[str, Any] = {}
    for setting in SETTINGS:
        if setting.name in recorded and setting.name not in _OWN:
            try:
                known[setting.field] = setting.read(recorded)
            except InvalidValue:
                continue
    return replace(config, **known)


def differences(env: Mapping[str, str], recorded: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the variables that `env` sets to something else than was recorded, each with both texts."""
    found: dict[str, tuple[str, str]] = {}
    for setting in SETTINGS:
        if setting.name in env and setting.name in recorded and setting.name not in _OWN:
            try:
                here = setting.show(setting.read(env))
            except InvalidValue:
                here = env[setting.name]
            # Where empty is no value, another setting decides.
            if here != recorded[setting.name] and (here or setting.empty_means_none):
                found[setting.name] = (here or _NOTHING, recorded[setting.name] or _NOTHING)
    return found
