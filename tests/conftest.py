"""What holds for all tests."""

import signal
import sys
from time import time

import pytest

# Under nohup children inherit that SIGHUP is ignored, which the program respects and its tests do not expect.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
_A_DAY_S = 86_400


@pytest.fixture(autouse=True)
def present(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `NOW`, where it is the real time, be that of the test: a crawl reaches back minutes, a run takes longer.

    In every module of tests, since one builds its events with functions of another.
    """
    for name, module in list(sys.modules.items()):
        now = getattr(module, "NOW", None) if name.startswith("tests.") else None
        if isinstance(now, int) and abs(time() - now) < _A_DAY_S:
            monkeypatch.setattr(module, "NOW", int(time()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long tests begin first, so that in the end no worker has one before it while the others have nothing."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
