"""A copy of the source tree for one run, so that edits made meanwhile, and deliberate damage, concern nobody else."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.child import ROOT

PACKAGES = ("pipeline", "stages")
_HOOKS = "chaos_hooks"


@dataclass(frozen=True, slots=True)
class Replacement:
    """One text in one file of the tree that is exchanged for another; it must occur there exactly once."""

    path: str
    old: str
    new: str


class NoMatch(AssertionError):
    """The text to be replaced is not there, or not once: the tree has changed since the replacement was written."""


class PatchedSource:
    """The packages of the service, and the hooks that are imported before them, in `path`."""

    def __init__(self, path: Path, source: Path = ROOT) -> None:
        self.path = path
        for package in PACKAGES:
            shutil.copytree(source / package, path / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(Path(__file__).with_name("hooks"), path / _HOOKS, ignore=shutil.ignore_patterns("__pycache__"))
        (path / "sitecustomize.py").write_text(f"import {_HOOKS}.install\n")

    def env(self) -> dict[str, str]:
        """What makes every interpreter import from this copy, whatever folder it is started in."""
        return {"PYTHONPATH": str(self.path), "PYTHONSAFEPATH": "1"}

    def replace(self, *replacements: Replacement) -> None:
        """Apply all replacements; raises `NoMatch`."""
        for each in replacements:
            file = self.path / each.path
            text = file.read_text()
            if text.count(each.old) != 1:
                raise NoMatch(f"{each.path} has {text.count(each.old)} times {each.old!r}")
            file.write_text(text.replace(each.old, each.new))
