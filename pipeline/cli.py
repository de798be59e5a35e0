"""The `event-service` command."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from pipeline.errors import CannotStart

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.process.supervisor import StageSpec

EXIT_CANNOT_START = 3
STAGES = ("crawler", "saver", "forwarder", "sender", "sweeper")

# Ended in this order: what brings events in first, so that the rest can hand on what is left.
_DRAIN_ORDER = {"crawler": 0, "server": 0, "saver": 1, "forwarder": 2, "sender": 2, "sweeper": 3}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="event-service")
def main() -> None:
    """Crawl Nostr relays and hand on every event that matters to registered users.

    Settings come from the environment; `event-service check` shows them. Exit codes: 0 all is well, 1 an error, 2 wrong
    usage, 3 cannot start as configured (restarting will not help).
    """


@main.command()
def supervise() -> None:
    """Run all stages, restart what dies, and end them in order on SIGTERM.

    Example: EVENTS_ENVIRONMENT=DEVELOPMENT EVENTS_DATABASE_PATH=/tmp/events.db event-service supervise
    """
    config = _config_or_exit()
    from pipeline.process.supervisor import supervise as run_supervisor  # noqa: PLC0415  (a light --help)

    try:
        _prepare_database(config)
    except CannotStart as error:
        _cannot_start(error)
    sys.exit(run_supervisor(_specs(config), _stage_command, config, os.environ))


@main.command()
@click.argument("name", type=click.Choice(STAGES))
@click.option(
    "--slot", type=click.IntRange(0, 999), help="Which of the stage's slots to hold; default: the first free."
)
@click.option("--supervised", is_flag=True, hidden=True, help="Standard input is a lifeline from the supervisor.")
def stage(name: str, slot: int | None, supervised: bool) -> None:
    """Run one stage alone, in the foreground, also beside a running `supervise`.

    Example: event-service stage forwarder
    """
    config = _config_or_exit()
    from pipeline.process.stage import run_stage  # noqa: PLC0415  (a light --help)

    sys.exit(run_stage(name, slot, config, importlib.import_module(f"stages.{name}").run, supervised=supervised))


@main.command()
def check() -> None:
    """Print the effective settings, secrets hidden; exit with 3 and say why if any is wrong."""
    for name, value in _config_or_exit().effective():
        click.echo(f"{name}={value}")


def _config_or_exit() -> "Config":
    from pipeline.config import Config  # noqa: PLC0415  (a light --help)

    try:
        return Config.from_env(os.environ)
    except CannotStart as error:
        _cannot_start(error)


def _cannot_start(error: CannotStart) -> NoReturn:
    click.echo(f"event-service: cannot start: {error}", err=True)
    sys.exit(EXIT_CANNOT_START)


def _prepare_database(config: "Config") -> None:
    """Bring the schema up to date before the stages race for it, and find out what is wrong with the file."""
    from pipeline.process.clock import SystemClock  # noqa: PLC0415  (a light --help)
    from pipeline.store.schema import open_database  # noqa: PLC0415

    open_database(config.database_path, SystemClock()).close()


def _specs(config: "Config") -> "list[StageSpec]":
    from pipeline.process.supervisor import StageSpec  # noqa: PLC0415  (a light --help)

    counts = {"crawler": config.crawlers}
    return [StageSpec(name, counts.get(name, 1), _DRAIN_ORDER[name]) for name in STAGES]


def _stage_command(name: str, slot: int) -> Sequence[str]:
    """The public command for one slot, in the interpreter and environment that run this one."""
    return (sys.executable, "-m", "pipeline.cli", "stage", name, "--slot", str(slot), "--supervised")


if __name__ == "__main__":
    main(prog_name="event-service")
