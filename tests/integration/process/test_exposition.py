import http.client
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from pipeline.process import exposition
from pipeline.process.clock import SystemClock
from pipeline.process.exposition import CONTENT_TYPE, ExpositionServer, Health, render
from pipeline.process.heartbeat import DATABASE_LOCKED, Heartbeat
from pipeline.process.metrics import Metrics
from pipeline.process.slots import metrics_directory
from pipeline.settings.values import HostPort
from tests.integration.process.conftest import PATIENCE_S


class Relays:
    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("relay_connection_state_gauge", "State", labels=["address", "state"])
        family.add_metric(["wss://a", "connected"], 1)
        return [family]


class Answers:
    """What the server under test answers with."""

    def __init__(self) -> None:
        self.healthy = True

    def render(self) -> bytes:
        return b"a 1\n"

    def health(self) -> Health:
        return Health(self.healthy, b'"ok"' if self.healthy else b'"hangs"')


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def server(answers: Answers) -> Iterator[ExpositionServer]:
    server = ExpositionServer(HostPort("127.0.0.1", 0), answers.render, answers.health)
    yield server
    server.close()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def connected(server: ExpositionServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def get(server: ExpositionServer, path: str) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("GET", path)
    response = connection.getresponse()
    answer = response.status, response.getheader("Content-Type"), response.read()
    connection.close()
    return answer


def test_collectors_of_the_caller_are_rendered(runtime: Path) -> None:
    lines = render(runtime, [Relays()]).decode().splitlines()
    assert 'relay_connection_state_gauge{address="wss://a",state="connected"} 1.0' in lines


def test_living_processes_show_their_use(runtime: Path) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", SystemClock())
    heartbeat.beat()
    families = {family.name: family for family in text_string_to_metric_families(render(runtime).decode())}
    for name in (
        "process_cpu_seconds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "process_start_time_seconds",
        "event_service_heartbeat_age_seconds",
    ):
        (sample,) = families[name].samples
        assert sample.labels == {"slot": "saver-0"}
        assert sample.value >= 0
    heartbeat.close()


def test_dead_process_shows_no_use(runtime: Path) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", SystemClock())
    heartbeat.beat()
    data = heartbeat.path.read_bytes()
    heartbeat.close()
    # The same process id, but nobody holds the lock of the file.
    heartbeat.path.write_bytes(data)
    assert b"slot=" not in render(runtime)


def test_file_that_was_just_made_is_passed_over(runtime: Path, process_metrics: Callable[[str], Metrics]) -> None:
    process_metrics("saver-0").stage_in.labels("saver").inc()
    (metrics_directory(runtime) / "counter_crawler-0.db").touch()
    assert b'event_service_stage_in_total{stage="saver"} 1.0' in render(runtime)


def test_metrics_and_health_are_served(server: ExpositionServer) -> None:
    assert get(server, "/metrics") == (200, CONTENT_TYPE, b"a 1\n")
    assert get(server, "/metrics?x=y") == (200, CONTENT_TYPE, b"a 1\n")
    assert get(server, "/_health") == (200, "application/json", b'"ok"')
    assert get(server, "/other")[0] == 404


def test_ill_health_is_503(server: ExpositionServer, answers: Answers) -> None:
    answers.healthy = False
    assert get(server, "/_health") == (503, "application/json", b'"hangs"')


def test_too_many_connections_are_sent_away(server: ExpositionServer) -> None:
    idle = [connected(server) for _ in range(exposition._MAX_CONNECTIONS)]
    with connected(server) as one_more:
        assert one_more.recv(1) == b""
    for connection in idle:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.0 200"
        connection.close()


def test_silent_client_is_dropped(monkeypatch: pytest.MonkeyPatch, answers: Answers) -> None:
    monkeypatch.setattr(exposition._Handler, "timeout", 0.05)
    server = ExpositionServer(HostPort("127.0.0.1", 0), answers.render, answers.health)
    with connected(server) as silent:
        assert silent.recv(1) == b""
    server.close()


def test_dripping_client_is_dropped(monkeypatch: pytest.MonkeyPatch, answers: Answers) -> None:
    monkeypatch.setattr(exposition, "_CONNECTION_LIMIT_S", 0.05)
    server = ExpositionServer(HostPort("127.0.0.1", 0), answers.render, answers.health)
    # It may be dropped before it has sent this.
    with connected(server) as dripping, suppress(ConnectionError):
        dripping.sendall(b"GET /metr")
        assert dripping.recv(1) == b""
    server.close()


def test_failing_request_is_logged_and_the_next_one_answered(
    monkeypatch: pytest.MonkeyPatch, answers: Answers, server: ExpositionServer, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(server._server, "render", lambda: 1 // 0)
        with pytest.raises(http.client.RemoteDisconnected):
            get(server, "/metrics")
    assert "ZeroDivisionError" in caplog.text
    assert get(server, "/metrics")[0] == 200


def test_empty_host_means_every_address(answers: Answers) -> None:
    server = ExpositionServer(HostPort("", 0), answers.render, answers.health)
    assert get(server, "/metrics")[0] == 200
    server.close()


def test_taken_address_is_an_error(server: ExpositionServer, answers: Answers) -> None:
    before = open_files()
    with pytest.raises(OSError, match="in use"):
        ExpositionServer(HostPort("127.0.0.1", server.port), answers.render, answers.health)
    assert open_files() == before


def test_relay_that_left_is_no_longer_said_to_be_behind(runtime: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.process import metrics; from pipeline.process.clock import"
        " SystemClock; from pipeline.process.heartbeat import Heartbeat; runtime = Path(sys.argv[1]);"
        "metrics.install(runtime, 'crawler-0'); made = metrics.Metrics();"
        "Heartbeat(runtime, 'crawler-0', SystemClock()).beat();"
        "made.crawl_relay_behind.labels('wss://left').set(metrics.LEFT);"
        "made.crawl_relay_behind.labels('wss://stays').set(5); print('done', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(runtime)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        text = render(runtime)
        process.kill()
    assert b'event_service_crawl_relay_seconds_behind{address="wss://stays"} 5.0' in text
    assert b"wss://left" not in text


def test_what_a_process_complains_of_is_a_gauge(runtime: Path) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", SystemClock())
    for status, failing, locked in (("", 0, 0), ("sink is down", 1, 0), (f"{DATABASE_LOCKED} by process 7", 1, 1)):
        heartbeat.beat(status)
        text = render(runtime).decode()
        assert f'event_service_stage_failing{{slot="saver-0"}} {failing}.0' in text
        assert f"event_service_database_locked {locked}.0" in text
    heartbeat.close()
