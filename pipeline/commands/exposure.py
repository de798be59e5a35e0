"""Secrets that every user of this machine may read, for `event-service check`."""

import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.settings.config import Config


def exposed_secrets(config: Config, env_file: Path | None) -> Iterator[str]:
    """Yield what is exposed and what to do, a line each; `env_file`: where settings were read from, if anywhere."""
    for name, path in (
        ("EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH", config.google_pubsub_credentials_json_path),
        ("EVENTS_SECRET_KEY_PATH", config.secret_key_path),
        ("EVENTS_DATABASE_PATH", config.database_path),
        ("EVENTS_PYROSCOPE_BASIC_AUTH_PASSWORD in", env_file if config.pyroscope_basic_auth_password else None),
    ):
        if path is not None and (mode := _mode(path)) & stat.S_IROTH:
            yield f"{name} {path} can be read by every user of this machine (mode {mode:04o}): chmod 600 {path}"


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0
