"""The `event-service` command. What costs time to import is imported by the command that needs it: --help is quick."""

import errno
import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from pipeline import __version__
from pipeline.errors import CannotStart
from pipeline.process.standard_streams import open_closed_streams

if TYPE_CHECKING:
    from pipeline.process.slots import Slot
    from pipeline.process.supervisor import StageSpec
    from pipeline.settings.config import Config

STAGES = ("crawler", "saver", "forwarder", "sender", "server", "sweeper")
# Where several hosts crawl: what each of them does of it, by its role.
STAGES_OF_ROLE = {
    "crawler": ("crawler", "uplink", "server", "sweeper"),
    "home": ("hub", "saver", "forwarder", "sender", "server", "sweeper"),
}
_ALL_STAGES = tuple(dict.fromkeys([*STAGES, *STAGES_OF_ROLE["crawler"], *STAGES_OF_ROLE["home"]]))

# Stopped in this order: sources of events first, so that the others can deliver what is left.
_DRAIN_ORDER = {
    "crawler": 0, "hub": 0, "server": 0, "saver": 1, "uplink": 1, "forwarder": 2, "sender": 2, "sweeper": 3,
}  # fmt: skip


def _load(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Take the settings of an environment file into this process's environment, for a command that looks once."""
    if path is not None:
        from pipeline.commands.bootstrap import load_env_file_or_exit  # noqa: PLC0415

        load_env_file_or_exit(path)


def _with_env_file(command: click.Command) -> click.Command:
    """Return the command, and all commands below it, with the option that takes settings from a file."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _with_env_file(each)
    elif not any(option.name == "env_file" for option in command.params):
        command.params.append(
            click.Option(
                ["--env-file"], type=click.Path(path_type=Path), metavar="FILE", is_eager=True, expose_value=False,
                callback=_load, help="NAME=value lines that win over the environment.",
            )
        )  # fmt: skip
    return command


class _Commands(click.Group):
    """Those defined here, and those in modules of their own, which are imported when they are named."""

    _LAZY_COMMANDS: ClassVar = {
        "audit": "Ask relays again, and print what the service missed.",
        "backfill": "Have a running service fetch a span of the past.",
        "backup": "Copy the database of a running service.",
        "coverage": "Show how complete the service is for one user.",
        "demo": "Run the whole service on a relay of its own.",
        "explain": "Trace one event.",
        "dead": "List, show, requeue and purge dead letters.",
        "hub": "Set up and show the hub by which several hosts crawl.",
        "import-go": "Import users, contacts, relays and pending events of the Go service.",
        "replay": "Deliver again what the sink was given in a span of time.",
        "relays": "List, show and probe relays; add, remove, set how each is asked.",
        "status": "Show problems and what to do, then stages, queues and relays.",
        "users": "Add, remove, block and list registered users.",
    }

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except OSError as error:
            # A file would be named: this is what prints the answer.
            if error.filename is None and error.errno in _OUTPUT_ERRORS:
                raise click.ClickException(f"the output cannot be written: {error.strerror}") from None
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._LAZY_COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._LAZY_COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"pipeline.commands.{module}"), module)
        assert isinstance(command, click.Command), "a command module defines the command that it is named for"
        return _with_env_file(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        here = {name: command.get_short_help_str(200) for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted((here | self._LAZY_COMMANDS).items()))


# What a device answers that takes no more.
_OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

# Files 0640, folders 0750 at most.
_PRIVATE_UMASK = 0o027


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option(
    "--env-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="NAME=value lines that win over the environment; may also be given to each command.",
)
@click.pass_context
def main(ctx: click.Context, env_file: Path | None) -> None:
    """Crawl Nostr relays and deliver every event that is relevant to registered users.

    Settings come from the environment; `event-service check` shows them. Every command works beside a running service.
    `event-service COMMAND --help` has examples.

    \b
    Examples:
      event-service demo                     see it work; it needs nothing else
      event-service check --online           are topic and relays reachable?
      event-service supervise                run it
      event-service status --watch           problems, rates and queues
      event-service explain note1…           trace this event

    Exit codes: 0 all is well, 1 an error, 2 wrong usage, 3 cannot start as configured (restarting will not help),
    4 a disk is full (a stage; it can go on once there is room), 5 an audit that missed nothing and proves nothing.
    """
    open_closed_streams()
    # What is made here is for this user only, by hand as under systemd.
    os.umask(os.umask(_PRIVATE_UMASK) | _PRIVATE_UMASK)
    if env_file is not None:
        # Those that follow a file take it as their own; the others look at it once.
        if ctx.invoked_subcommand in ("supervise", "stage", "check"):
            ctx.default_map = {ctx.invoked_subcommand: {"env_file": env_file}}
        else:
            _load(ctx, ctx.command.params[0], env_file)


def _env_file(meaning: str) -> "Callable[[Callable[..., None]], Callable[..., None]]":
    return click.option("--env-file", type=click.Path(path_type=Path), metavar="FILE", help=meaning)


_follows_env_file = _env_file("NAME=value lines that win over the environment; read again at SIGHUP.")


@main.command()
@_follows_env_file
def supervise(env_file: Path | None) -> None:
    """Run all stages, restart those that exit, and stop them in order on SIGTERM.

    Example: EVENTS_ENVIRONMENT=DEVELOPMENT EVENTS_DATABASE_PATH=/tmp/events.db event-service supervise
    """
    from pipeline.commands.bootstrap import (  # noqa: PLC0415
        announce_runtime_directory,
        live_settings_or_exit,
        open_or_exit,
    )
    from pipeline.process.supervision import SETTINGS_FILE  # noqa: PLC0415
    from pipeline.process.supervision import supervise as run_supervisor  # noqa: PLC0415

    live = live_settings_or_exit(env_file)
    config = live.config
    # Once before the stages race for it, and to say in one line what may be wrong with the file.
    open_or_exit(config, _extending_start()).close()
    settings_file = None if env_file is None else config.runtime_directory / SETTINGS_FILE

    def started() -> None:
        announce_runtime_directory(config)
        # Not before: a supervisor that is refused needs none of it.
        _import_stages(config)

    sys.exit(
        run_supervisor(
            _specs(config), partial(_run_slot, settings_file), config, os.environ, live=live, started=started
        )
    )


@main.command()
@click.argument("name", type=click.Choice(_ALL_STAGES))
@click.option(
    "--slot", type=click.IntRange(0, 999), help="Which of the stage's slots to hold; default: the first free."
)
@click.option("--sink", help="Of several sinks the one that a forwarder delivers to; default: the one named first.")
@_follows_env_file
def stage(name: str, slot: int | None, sink: str | None, env_file: Path | None) -> None:
    """Run one stage alone, in the foreground, also beside a running `supervise`.

    \b
    Examples:
      event-service stage saver
      event-service stage forwarder --sink jsonl
    """
    from pipeline.commands.bootstrap import (  # noqa: PLC0415
        announce_runtime_directory,
        cannot_start,
        live_settings_or_exit,
    )
    from pipeline.errors import CannotStart  # noqa: PLC0415
    from pipeline.process.stage import run_stage  # noqa: PLC0415

    live = live_settings_or_exit(env_file)
    if name not in _stages(live.config):
        cannot_start(CannotStart(f"stage {name} is not of this host: {_role_text(live.config)}"))
    of_sink = _other_sink(name, sink, live.config)
    announce_runtime_directory(live.config, unless_known=True)
    run = importlib.import_module(f"stages.{name}").run
    sys.exit(run_stage(name, slot, live.config, run, supervised=False, sink=of_sink, live=live))


def _other_sink(stage: str, sink: str | None, config: "Config") -> str:
    """Return the sink as a slot has it: empty for the one that is named first."""
    if sink is None:
        return ""
    if stage != "forwarder":
        raise click.UsageError("--sink goes with forwarder alone")
    if sink not in config.sink_names:
        names = ", ".join(config.sink_names) or "none"
        raise click.UsageError(f"there is no sink {sink}; EVENTS_SINK names {names}")
    return "" if sink == config.sink_names[0] else sink


@main.command()
@click.option("--online", is_flag=True, help="Also test whether topic and relays can be reached; changes nothing.")
@_env_file("NAME=value lines that win over the environment, as supervise and stage take them.")
def check(online: bool, env_file: Path | None) -> None:
    """Print the effective settings, secrets hidden; exit with 3 and say why if any is wrong.

    With --online, exit with 1 if the topic does not exist or must not be published to, the target relay does not
    answer, or a bootstrap relay does not resolve.

    \b
    Examples:
      event-service check
      event-service check --online --env-file /etc/event-service/environment
    """
    from pipeline.commands.bootstrap import cannot_start, live_settings_or_exit  # noqa: PLC0415
    from pipeline.commands.exposure import exposed_secrets  # noqa: PLC0415
    from pipeline.commands.parts import unnamed_collector, unusable_parts  # noqa: PLC0415

    live = live_settings_or_exit(env_file)
    config = live.config
    for name, value in config.effective():
        click.echo(f"{name}={value}")
    for warning in (*live.unknown(), *exposed_secrets(config, env_file), *unnamed_collector(config)):
        click.echo(f"warning: {warning}", err=True)
    if problems := list(unusable_parts(config)):
        cannot_start(CannotStart("; ".join(problems)))
    if online:
        from pipeline.commands.preflight import preflight  # noqa: PLC0415

        findings = list(preflight(config))
        for finding in findings:
            click.echo(f"{'ok    ' if finding.is_ok else 'FAILED'} {finding.subject}: {finding.text}")
        sys.exit(0 if all(finding.is_ok for finding in findings) else 1)


def _extending_start() -> "Callable[[], None]":
    """Return a function that reports to systemd, at most every few seconds, that the service is starting."""
    from pipeline.process.clock import SystemClock  # noqa: PLC0415
    from pipeline.process.notify import Notifier  # noqa: PLC0415
    from pipeline.process.supervisor import EXTEND_EVERY_S, EXTEND_S  # noqa: PLC0415

    notifier, clock, last_s = Notifier.from_env(os.environ), SystemClock(), [-EXTEND_EVERY_S]

    def extend() -> None:
        if (now_s := clock.monotonic()) - last_s[0] >= EXTEND_EVERY_S:
            last_s[0] = now_s
            notifier.extend(EXTEND_S)
            notifier.status("bringing the database up to date")

    return extend


def _stages(config: "Config") -> tuple[str, ...]:
    """Return the stages that this host runs."""
    return STAGES if config.role is None else STAGES_OF_ROLE[config.role.value]


def _role_text(config: "Config") -> str:
    return "EVENTS_HUB is not set" if config.role is None else f"EVENTS_ROLE is {config.role.value}"


def _specs(config: "Config") -> "list[StageSpec]":
    from pipeline.process.supervisor import StageSpec  # noqa: PLC0415

    counts = {"crawler": config.crawlers}
    stages = [StageSpec(name, counts.get(name, 1), _DRAIN_ORDER[name]) for name in _stages(config)]
    return stages + [StageSpec("forwarder", 1, _DRAIN_ORDER["forwarder"], sink) for sink in config.sink_names[1:]]


def _import_stages(config: "Config") -> None:
    """Import what the stages of this configuration need, to be shared by all of them; no client is made."""
    from pipeline.settings.choices import SinkKind  # noqa: PLC0415

    for name in _stages(config):
        importlib.import_module(f"stages.{name}")
    modules = {SinkKind.PUBSUB: "pubsub", SinkKind.JSONL: "jsonl", SinkKind.STDOUT: "jsonl", SinkKind.PLUGIN: "plugins"}
    for sink in config.sink:
        importlib.import_module(f"pipeline.sinks.{modules[sink.kind]}")


def _run_slot(env_file: Path | None, slot: "Slot") -> int:
    """Be the process of a slot whose standard input is a lifeline from the supervisor; return the exit code."""
    from pipeline.commands.bootstrap import live_settings_or_exit  # noqa: PLC0415
    from pipeline.process.stage import run_stage  # noqa: PLC0415

    live = live_settings_or_exit(env_file)
    run = importlib.import_module(f"stages.{slot.stage}").run
    return run_stage(slot.stage, slot.index, live.config, run, supervised=True, sink=slot.sink, live=live)


if __name__ == "__main__":
    main(prog_name="event-service")
