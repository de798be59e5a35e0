"""Prints what this Python lacks of the checkout's dependencies, one a line; prints nothing where it can run as it is.

Its argument is what pip would be given: `.`, or `.[test]` with an extra. It asks no network. bin/environment.sh runs it
with the Python of .venv.
"""

import sys
from collections.abc import Iterator
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

_NAME = "event-service"
_SETUP = ConfigParser()
_SETUP.read(Path(__file__).resolve().parents[1] / "setup.cfg")


def _lines(section: str, option: str) -> list[str]:
    text = _SETUP.get(section, option, fallback="")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _wanted(extras: set[str]) -> Iterator[Requirement]:
    """Yield what the project needs with these extras; an extra may name others of the project."""
    texts = _lines("options", "install_requires")
    for extra in extras:
        texts += _lines("options.extras_require", extra)
    for each in map(Requirement, texts):
        if each.name == _NAME:
            yield from _wanted(each.extras)
        elif each.marker is None or each.marker.evaluate():
            yield each


def _has(wanted: Requirement, seen: set[str]) -> bool:
    """Return True if a fitting version is installed, with what its extras need."""
    try:
        found = metadata.distribution(wanted.name)
    except metadata.PackageNotFoundError:
        return False
    if not wanted.specifier.contains(found.version, prereleases=True):
        return False
    if str(wanted) in seen:
        return True
    seen.add(str(wanted))
    return all(
        _has(each, seen)
        for each in map(Requirement, found.requires or ())
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras))
    )


def _commands() -> set[str]:
    return {f"{each.name} = {each.value}" for each in metadata.distribution(_NAME).entry_points}


def main() -> None:
    """Print what is unmet."""
    seen: set[str] = set()
    for wanted in _wanted(Requirement(f"{_NAME}{sys.argv[1].removeprefix('.')}").extras):
        if not _has(wanted, seen):
            sys.stdout.write(f"{wanted}\n")
    try:
        has_commands = _commands() >= set(_lines("options.entry_points", "console_scripts"))
    except metadata.PackageNotFoundError:
        has_commands = False
    if not has_commands:
        sys.stdout.write(f"{_NAME} itself\n")


if __name__ == "__main__":
    main()
