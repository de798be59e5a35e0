"""Settings that a running process reloads: its environment file, read again at SIGHUP."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import CannotStart
from pipeline.process import logs
from pipeline.process.logs import get_logger
from pipeline.settings.config import Config
from pipeline.settings.env_file import InvalidEnvFile, format_env, read_env_file
from pipeline.settings.schema import SETTINGS
from pipeline.settings.typos import UnknownSetting, unknown_settings

_log = get_logger("settings")
_NAMES = frozenset(setting.name for setting in SETTINGS)


@dataclass(frozen=True, slots=True)
class Reload:
    """Variables that a reload changed, and those whose change needs a restart."""

    changed: tuple[str, ...]
    pending: tuple[str, ...]


class ReloadableConfig:
    """Settings of this process, from its environment and an environment file, which wins.

    Settings that are not `live` stay as they were at the start. Any thread may read `config`; one reloads.
    """

    def __init__(self, path: Path | None, env: Mapping[str, str]) -> None:
        """Read both. Raises `InvalidEnvFile` or `InvalidConfig`. `path` None: there is no file, and nothing changes."""
        self.path = path
        self._env = dict(env)
        self.file = self._read()
        """Assignments of the file at the start of the process."""
        self._started = self._config = Config.from_env(self._env | self.file)
        self._after: Callable[[], None] = lambda: None

    @property
    def config(self) -> Config:
        """The settings in force, a consistent set."""
        return self._config

    def reload(self) -> Reload:
        """Apply the file as it is now. Raises as `__init__` does, and then nothing has changed."""
        file = self._read()
        wanted = Config.from_env(self._env | file)
        live = {each.field: getattr(wanted, each.field) for each in SETTINGS if each.live}
        changed = [
            each.name for each in SETTINGS if each.live and live[each.field] != getattr(self._config, each.field)
        ]
        pending = [
            each.name
            for each in SETTINGS
            if not each.live and getattr(wanted, each.field) != getattr(self._started, each.field)
        ]
        foreign = (file.keys() | self.file.keys()) - _NAMES
        pending += sorted(name for name in foreign if file.get(name) != self.file.get(name))
        self._config = replace(self._config, **live)
        return Reload(tuple(changed), tuple(pending))

    def reload_and_log(self) -> bool:
        """Reload and log the result, as on SIGHUP; return True if the file was valid."""
        try:
            done = self.reload()
        except CannotStart as error:
            _log.error("settings not reloaded, the old ones stay", error=str(error))
            return False
        logs.set_level(self._config.log_level)
        self._after()
        _log.info("settings reloaded", changed=",".join(done.changed))
        if done.pending:
            _log.warning("settings changed that need a restart", settings=",".join(done.pending))
        return True

    def follow_up(self, after: Callable[[], None]) -> None:
        """Call `after` now, and after each `reload_and_log` that found a valid file."""
        self._after = after
        after()

    def unknown(self) -> list[UnknownSetting]:
        """Return variables of environment and file that look like settings and are not."""
        return unknown_settings(self._env | self.file)

    def warn_of_unknown(self) -> None:
        """Log them in one line, if there are any."""
        if unknown := self.unknown():
            _log.warning("variables that are no settings", variables="; ".join(map(str, unknown)))

    def publish(self, path: Path) -> None:
        """Write every live setting to `path`, in one step, for stages to follow as their own file."""
        values = {each.name: each.show(getattr(self._config, each.field)) for each in SETTINGS if each.live}
        new = path.with_name(f"{path.name}.new")
        new.touch(mode=0o600)
        new.write_text(format_env(values))
        new.replace(path)

    def export(self) -> None:
        """Put the file's variables into this process's environment, where libraries look for theirs."""
        os.environ.update(self.file)

    def _read(self) -> dict[str, str]:
        return {} if self.path is None else read_settings_file(self.path)


def read_settings_file(path: Path) -> dict[str, str]:
    """Return the assignments in `path`. Raises `InvalidEnvFile` if it is not readable or has a misspelt setting.

    A setting under a wrong name would be ignored silently, and its default would hold.
    """
    found = read_env_file(path)
    misspelt = [f"{each.name} (did you mean {each.meant}?)" for each in unknown_settings(found) if each.meant]
    if misspelt:
        raise InvalidEnvFile(f"{path} has settings that do not exist: {', '.join(misspelt)}")
    return found
