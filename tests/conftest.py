"""What holds for all tests."""

import signal
from time import time

import pytest

# Under nohup children inherit that SIGHUP is ignored, which the program respects and its tests do not expect.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
_A_DAY_S = 86_400


@pytest.fixture(autouse=True)
def present(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `NOW`, where it is the real time, be that of the test: a crawl reaches back minutes, a run takes longer."""
    now = getattr(request.module, "NOW", None)
    if isinstance(now, int) and abs(time() - now) < _A_DAY_S:
        monkeypatch.setattr(request.module, "NOW", int(time()))
