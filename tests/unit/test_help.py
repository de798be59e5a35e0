"""`--help` teaches: every command shows examples, every example is one that the command takes, and it comes at once."""

import re

import click
import pytest

from tests.support.command_lines import all_commands, arguments, complaint

COMMANDS = dict(all_commands())


def examples(command: click.Command) -> list[str]:
    """The command lines after the word in a help text."""
    _, word, text = (command.help or "").partition("Example")
    return re.findall(r"(?:^|[:=] ?|\s)event-service ([^\n]+)", text) if word else []


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_shown_and_are_taken(name: str) -> None:
    shown = examples(COMMANDS[name])
    assert shown, f"{name} --help shows no example"
    own = name.removeprefix("event-service").strip()
    for line in shown:
        assert line.startswith(own)
        assert complaint(arguments(line)) == "", line


@pytest.mark.parametrize("given", [["nonsense"], ["status", "--nonsense"], ["dead", "show", "inbox"], ["explain", "x"]])
def test_what_no_command_takes_is_found(given: list[str]) -> None:
    assert complaint(given) != ""


def test_exit_codes_are_told() -> None:
    text = " ".join((COMMANDS["event-service"].help or "").split())
    assert "0 all is well, 1 an error, 2 wrong usage, 3 cannot start as configured" in text
