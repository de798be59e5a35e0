from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.stages.support import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An empty database; events go to a JSONL file, to no target relay."""
    made = World(tmp_path)
    yield made
    made.close()
