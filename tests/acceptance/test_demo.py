"""The demo as a newcomer runs it."""

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.fakes.child import Child
from tests.fakes.net import free_port
from tests.integration.operations.support import until

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 60.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_shows_events_on_their_way_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """In a temporary folder of any length, other than the name of a Unix socket."""
    tmp_path /= "long" * 25
    tmp_path.mkdir()
    port = free_port("127.0.0.1")
    env = os.environ | {"TMPDIR": str(tmp_path), "EVENTS_DATABASE_PATH": "/nowhere/else", "PYTHONUNBUFFERED": "1"}
    with Child.module("pipeline.cli", "demo", "--port", str(port), env=env) as demo:
        shown = demo.wait_line(rf"^Status page +(http://localhost:{port}/\?token=[\w-]+)$", START_TIMEOUT_S)
        demo.wait_line(r"[1-9]\d* relevant and delivered · the last within \d+ ms", START_TIMEOUT_S)
        request = urllib.request.Request(shown[1], headers={"Accept": "text/html"})

        def page() -> str:
            with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as answer:
                return bytes(answer.read()).decode()

        until(lambda: "All is well" in page(), page)
        (folder,) = tmp_path.glob("event-service-demo-*")
        service = service_processes(folder)
        assert service
        demo.signal(number)
        demo.wait_line(r"Everything is removed\.$", END_TIMEOUT_S)
        assert demo.wait(END_TIMEOUT_S) == 0
        assert service_processes(folder) == []
    assert list(tmp_path.iterdir()) == []


def service_processes(folder: Path) -> list[int]:
    """Those whose environment names the demo's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes()
        except OSError:
            continue
        if f"EVENTS_DATABASE_PATH={folder}/".encode() in environment:
            found.append(int(path.parent.name))
    return found
