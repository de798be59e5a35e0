"""Command lines found in prose: read by the real commands as far as their arguments, without running them."""

import re
import shlex
from collections.abc import Iterator

import click

from pipeline.cli import main

_LINE = re.compile(r"(?:^|[;&|>$] ?|\bsudo |\bbin/|(?<=\s))event-service (?!\|)([^\n]*)", re.MULTILINE)

_NOTE = "note1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqskcx45n"


def all_commands(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command and group that is shown, by its whole name."""
    yield " ".join(("event-service", *path)), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            if not inner.hidden:
                yield from all_commands(inner, (*path, name))


def arguments(line: str) -> list[str]:
    """The arguments of a command line, up to a pipe, a comment or what is said of it after two blanks."""
    line = line.replace("note1…", _NOTE).replace("ADDRESS", "wss://relay.example.com")
    return shlex.split(re.split(r"  +| \| | #|;", line.strip())[0])


def complaint(given: list[str]) -> str:
    """What the command line would be refused for; empty if it would be run."""
    command: click.Command = main
    parent: click.Context | None = None
    rest = given
    try:
        while isinstance(command, click.Group):
            parent = command.make_context(command.name, rest, parent=parent)
            _, inner, rest = command.resolve_command(parent, [*parent._protected_args, *parent.args])
            assert inner is not None
            command = inner
        command.make_context(command.name, rest, parent=parent)
    except click.exceptions.Exit:
        return ""
    except click.ClickException as error:
        return error.format_message()
    return ""
