"""The README tells every command and every setting, with its default."""

import re
from pathlib import Path

import click

from pipeline.cli import main
from pipeline.settings.schema import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def _rows(first_cell: str) -> dict[str, list[str]]:
    """The rows of the table whose header begins with `first_cell`, by their first cell without backticks."""
    table = README[README.index(f"| {first_cell} |") :].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_setting_has_its_row_and_no_other_has_one() -> None:
    rows = _rows("setting")
    assert list(rows) == [setting.name for setting in SETTINGS]


def test_the_settings_that_a_reload_changes_are_marked() -> None:
    marked = [name for name, (meaning, *_) in _rows("setting").items() if meaning.startswith("↻ ")]
    assert marked == [setting.name for setting in SETTINGS if setting.live]


def test_every_default_is_told() -> None:
    for setting in SETTINGS:
        if setting.default is not None:
            for part in setting.default.split(","):
                assert f"`{part}`" in README, setting.name


def _leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[str]:
    if not isinstance(command, click.Group):
        return [" ".join(path)]
    context = click.Context(command)
    found = []
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        found += _leaves(inner, (*path, name))
    return found


def test_every_command_is_told() -> None:
    told = {re.sub(r" [A-Z].*", "", name) for name in _rows("command")}
    missing = [leaf for leaf in _leaves(main, ("event-service",)) if leaf not in told]
    assert missing == []


def test_every_script_is_told() -> None:
    scripts = {f"bin/{path.name}" for path in (ROOT / "bin").iterdir() if path.suffix == ""}
    assert {script for script in scripts if script not in README} == set()


def test_every_command_teaches() -> None:
    """Each command has a help text of its own."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        assert command.help
