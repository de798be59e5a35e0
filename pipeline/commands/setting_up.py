"""What every command begins with: the settings and the database, or one clear line and exit code 3."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from pipeline.config import Config
from pipeline.errors import CannotStart
from pipeline.process.clock import SystemClock
from pipeline.process.reload import LiveSettings
from pipeline.store.database import Database
from pipeline.store.schema import open_database, open_to_read

EXIT_CANNOT_START = 3


def live_settings_or_exit(env_file: Path | None) -> LiveSettings:
    """The settings of the environment and of `env_file`, which goes into the environment; ends the program if wrong."""
    try:
        live = LiveSettings(env_file, os.environ)
    except CannotStart as error:
        cannot_start(error)
    live.export()
    return live


def config_or_exit() -> Config:
    """The settings of the environment; ends the program if they are wrong."""
    try:
        return Config.from_env(os.environ)
    except CannotStart as error:
        cannot_start(error)


def open_configured_database() -> Database:
    """The database of `EVENTS_DATABASE_PATH`; ends the program if it cannot be used."""
    return open_or_exit(config_or_exit())


def open_or_exit(config: Config) -> Database:
    """The database of `config`; ends the program if it cannot be used."""
    try:
        return open_database(config.database_path, SystemClock())
    except CannotStart as error:
        cannot_start(error)


def open_configured_to_read() -> Database:
    """The same for those who only look: the schema is left as a running service of another version may need it."""
    return open_to_read_or_exit(config_or_exit())


def open_to_read_or_exit(config: Config) -> Database:
    """The database of `config`, its schema left alone; ends the program if it cannot be used."""
    try:
        return open_to_read(config.database_path, SystemClock())
    except CannotStart as error:
        cannot_start(error)


def cannot_start(error: CannotStart) -> NoReturn:
    """Say why, in one line, and end the program."""
    click.echo(f"event-service: cannot start: {error}", err=True)
    sys.exit(EXIT_CANNOT_START)
