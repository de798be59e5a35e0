"""A runtime directory of its own for each test, and metrics as processes in it have them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.process import metrics
from pipeline.process.metrics import Metrics
from pipeline.process.slots import prepare_runtime_directory


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A runtime directory, ready to use."""
    path = tmp_path / "runtime"
    prepare_runtime_directory(path)
    return path


@pytest.fixture
def process_metrics(runtime: Path) -> Iterator[Callable[[str], Metrics]]:
    """Makes metrics as a new process in the given slot would; the former one's must not be used afterwards."""

    def become(slot_name: str) -> Metrics:
        metrics.uninstall()
        metrics.install(runtime, slot_name)
        return Metrics()

    yield become
    metrics.uninstall()
