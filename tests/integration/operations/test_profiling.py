"""Profiles go to the server that the settings name, tagged by stage; without one the profiler is not even loaded."""

import base64
import gzip
import importlib.util
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.cli import STAGES
from tests.fakes.net import loopback_address
from tests.fakes.service import EventService, settings
from tests.integration.operations.support import until

# A label of the pushed protobuf messages: field 1 is the name, field 2 the value, both with their length before them.
LABEL = re.compile(rb"\x0a[\x01-\x7f]([a-z_]+)\x12[\x01-\x7f]([A-Za-z0-9._-]+)")
installed = importlib.util.find_spec("pyroscope") is not None


@dataclass
class Uploads:
    """What a profiling server was sent."""

    address: str = ""
    slots: dict[str, str] = field(default_factory=dict)
    """The stage by the slot that was told beside it."""
    services: set[str] = field(default_factory=set)
    credentials: set[str] = field(default_factory=set)


@contextmanager
def profiling_server() -> Iterator[Uploads]:
    uploads = Uploads()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
            labels = {name.decode(): value.decode() for name, value in LABEL.findall(body[:1000])}
            uploads.slots[labels["slot"]] = labels["stage"]
            uploads.services.add(labels["service_name"])
            uploads.credentials.add(self.headers.get("Authorization", ""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((loopback_address(), 0), Handler) as server:
        uploads.address = f"http://{server.server_address[0]!s}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield uploads
        server.shutdown()
        thread.join()


def is_profiled(pid: int) -> bool:
    return "pyroscope" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(not installed, reason="pyroscope-io is not installed")
def test_every_process_is_profiled_under_its_stage(tmp_path: Path) -> None:
    with profiling_server() as uploads:
        env = settings(
            target="ws://127.0.0.1:1",
            EVENTS_PYROSCOPE_SERVER_ADDRESS=uploads.address,
            EVENTS_PYROSCOPE_APPLICATION_NAME="under.test",
            EVENTS_PYROSCOPE_BASIC_AUTH_USER="user",
            EVENTS_PYROSCOPE_BASIC_AUTH_PASSWORD="pass",
            EVENTS_CRAWLERS="1",
        )
        with EventService(tmp_path, env) as service:
            stages = [each.pid for each in service.processes() if each.pid != service.child.pid]
            assert len(stages) == len(STAGES)
            until(lambda: all(map(is_profiled, stages)), lambda: list(filter(is_profiled, stages)))
            assert not is_profiled(service.child.pid), "it never holds a thread, since it forks"

            def server_seen() -> bool:
                # A process is sampled only while it does something: of those at rest no sample may ever come.
                service.scrape()
                return "server-0" in uploads.slots

            until(server_seen, lambda: uploads.slots)
            assert service.stop() == 0
    assert all(slot == f"{stage}-0" and stage in STAGES for slot, stage in uploads.slots.items())
    assert uploads.services == {"under.test"}
    assert uploads.credentials == {"Basic " + base64.b64encode(b"user:pass").decode()}


def test_without_the_profiler_it_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "pyroscope.py").write_text('raise ImportError("as if it were not installed")')
    env = settings(EVENTS_PYROSCOPE_SERVER_ADDRESS="http://127.0.0.1:1", PYTHONPATH=str(tmp_path))
    service = EventService(tmp_path / "service", env)
    with closing(service):
        service.start(wait=False)
        assert service.wait_exit() == 3
        assert "pip install 'event-service[pyroscope]'" in service.log_text()


def test_off_means_not_loaded(tmp_path: Path) -> None:
    with EventService(tmp_path) as service:
        for process in service.processes():
            assert not is_profiled(process.pid)
