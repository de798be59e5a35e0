"""What every command begins with: the settings and the database, or one clear line and exit code 3."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click

from pipeline.errors import CannotStart, EventServiceError
from pipeline.process.clock import SystemClock
from pipeline.process.heartbeat import read_heartbeats
from pipeline.process.logs import is_journal, journal_priority
from pipeline.process.slots import settings_directory
from pipeline.process.supervisor import SLOT_NAME
from pipeline.settings.config import Config
from pipeline.settings.reload import ReloadableConfig, read_settings_file
from pipeline.settings.running import recorded_settings, with_recorded
from pipeline.store import runtime_directory
from pipeline.store.database import Database
from pipeline.store.database_errors import DatabaseFailed
from pipeline.store.ownership import is_there
from pipeline.store.schema import open_database, open_to_read

EXIT_CANNOT_START = 3
_CREATES_IT = "create it with event-service supervise or users add"


def live_settings_or_exit(env_file: Path | None) -> ReloadableConfig:
    """Return the settings of the environment and of `env_file`, which is exported; ends the program if wrong."""
    try:
        live = ReloadableConfig(env_file, os.environ)
    except CannotStart as error:
        cannot_start(error)
    live.export()
    return live


def load_env_file_or_exit(path: Path) -> None:
    """Put what the file says into the environment; ends the program if it cannot be read."""
    try:
        os.environ.update(read_settings_file(path))
    except CannotStart as error:
        cannot_start(error)


def config_or_exit() -> Config:
    """Return the settings that a command needs which runs no stage; ends the program if they are wrong."""
    try:
        return Config.from_env(os.environ, runs=False)
    except CannotStart as error:
        cannot_start(error)


def of_running_service(config: Config, database: Database) -> Config:
    """Return `config` with what the service on `database` runs with: its runtime directory, unless the operator names
    one, and its settings.
    """
    if not (os.environ.get("EVENTS_RUNTIME_DIRECTORY") or os.environ.get("RUNTIME_DIRECTORY")):
        with database.read() as tx:
            directory = runtime_directory.recorded(tx)
        config = config if directory is None else replace(config, runtime_directory=directory)
    return with_recorded(config, settings_of_service(config.runtime_directory))


def settings_of_service(directory: Path) -> dict[str, str]:
    """Return what the supervisor in this runtime directory runs with, else a stage that runs alone; {} if none does."""
    alive = {each.slot_name for each in read_heartbeats(directory, SystemClock()) if each.alive}
    # Of stages that run alone those first that say where events go.
    first = [SLOT_NAME, *sorted(name for name in alive if name.startswith(("forwarder-", "saver-"))), *sorted(alive)]
    recorded = (recorded_settings(settings_directory(directory) / name) for name in first if name in alive)
    return next(filter(None, recorded), {})


def announce_runtime_directory(config: Config, *, unless_known: bool = False) -> None:
    """Let commands find the heartbeats and metrics of what runs.

    `unless_known`: leave alone the record of a directory that exists.
    """
    with open_or_exit(config) as database:
        with database.read() as tx:
            known = runtime_directory.recorded(tx)
        if known is None or not (unless_known and known.exists()):
            with database.write() as tx:
                runtime_directory.record(tx, config.runtime_directory)


def open_configured_database() -> Database:
    """Return the database of `EVENTS_DATABASE_PATH`; ends the program if it is missing or cannot be used."""
    return open_existing_or_exit(config_or_exit())


def open_or_create_configured_database() -> Database:
    """Return the same for a command that may come before the first start; it says so if it makes a database."""
    config = config_or_exit()
    is_new = is_there(config.database_path) is False
    database = open_or_exit(config)
    if is_new:
        click.echo(f"event-service: made a new database, {config.database_path}", err=True)
    return database


def open_existing_or_exit(config: Config) -> Database:
    """Return the database of `config` to change it; ends the program if it is missing or cannot be used."""
    _require_database(config.database_path)
    return open_or_exit(config)


def open_or_exit(config: Config, on_progress: Callable[[], None] | None = None) -> Database:
    """Return the database of `config`; ends the program if it cannot be used. `on_progress`: see `open_database`."""
    try:
        return open_database(config.database_path, SystemClock(), on_progress=on_progress)
    except (CannotStart, DatabaseFailed) as error:
        cannot_start(CannotStart(f"{error}{_state_directory_hint(config.database_path)}"))


def _state_directory_hint(database: Path) -> str:
    """Return what to do about a database that a unit of systemd may not write; empty where that is not the reason."""
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if not state or database.resolve().is_relative_to(Path(state).resolve()):
        return ""
    return (
        f"; under systemd only what is below {state} can be written:"
        f" leave EVENTS_DATABASE_PATH out or set it to {state}/events.db, and take {database} over with import-go"
    )


def open_configured_to_read() -> Database:
    """Return the same to read only: the schema is left as a running service of another version may need it."""
    return open_to_read_or_exit(config_or_exit())


def open_to_read_or_exit(config: Config) -> Database:
    """Return the database of `config`, its schema left alone; ends the program if it is missing or cannot be used."""
    _require_database(config.database_path)
    try:
        return open_to_read(config.database_path, SystemClock())
    except (CannotStart, DatabaseFailed) as error:
        cannot_start(error)


def _require_database(path: Path) -> None:
    """End the program if nothing is there: at a mistyped path no empty database is made that says that all is well."""
    if is_there(path) is False:
        cannot_start(CannotStart(f"there is no database {path}: correct EVENTS_DATABASE_PATH, or {_CREATES_IT}"))


def cannot_start(error: EventServiceError) -> NoReturn:
    """Say why, in one line, and end the program."""
    priority = journal_priority(logging.ERROR) if is_journal(sys.stderr) else ""
    click.echo(f"{priority}event-service: cannot start: {error}", err=True)
    sys.exit(EXIT_CANNOT_START)
