"""What holds for all tests."""

import os
import signal
import sys
from collections.abc import Generator
from time import time

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.support.seeds import FINDS_NEW

# No time that a machine takes is a finding, neither for an example nor for making one.
hypothesis_settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=not FINDS_NEW
)
hypothesis_settings.load_profile("untimed")
# Under nohup children inherit that SIGHUP is ignored, which the program respects and its tests do not expect.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
_A_DAY_S = 86_400
# With TEST_PEERS=required no test may be skipped since a program of others is not installed, but for those that no
# registry has and those that are not built for every machine.
_PEERS_REQUIRED = os.environ.get("TEST_PEERS") == "required"
_LACKING = "not installed"
_MAY_BE_LACKING = ("Pub/Sub emulator", "Firestore emulator", "pyroscope-io")


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test that lacks a peer fail where all peers are required."""
    report = yield
    if _PEERS_REQUIRED and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if _LACKING in reason and not any(name in reason for name in _MAY_BE_LACKING):
            report.outcome = "failed"
            report.longrepr = f"{reason}; bin/peers installs it"
    return report
