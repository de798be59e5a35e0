"""A reactor that stands still while all else in its process goes on."""

import importlib.abc
import importlib.machinery
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from . import asleep_in

_MODULE = "pipeline.crawl.reactor"
_STEP_S = 0.1


class _Loader(importlib.abc.Loader):
    def __init__(self, real: Any, asleep: Path) -> None:
        self._real = real
        self._asleep = asleep

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._real.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        reactor: Any = module
        turn, asleep = reactor.Reactor._round, self._asleep

        def turn_unless_asleep(self: Any) -> None:
            while asleep.exists():
                time.sleep(_STEP_S)
            turn(self)

        reactor.Reactor._round = turn_unless_asleep


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, asleep: Path) -> None:
        self._asleep = asleep

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._asleep)
        return spec


def install(folder: Path) -> None:
    """Let every reactor stand still for as long as the file is there."""
    sys.meta_path.insert(0, _Finder(asleep_in(folder)))
