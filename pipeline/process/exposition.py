"""Prometheus text of all processes of a deployment, and a small web server for a stage that is run alone."""

import math
import re
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from pipeline.process.clock import Clock, SystemClock
from pipeline.process.heartbeat import DATABASE_LOCKED, HeartbeatReading, read_heartbeats
from pipeline.process.logs import RateLimitedLogger, get_logger
from pipeline.process.slots import metrics_directory
from pipeline.settings.values import HostPort

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What a response with `render`'s answer says it holds."""

# Counters that the contract names without the `_total` that the client adds.
WITHOUT_TOTAL = (
    "received_events_counter",
    "relay_connection_received_messages_counter",
    "relay_connection_disconnections_counter",
    "relay_connection_reconnections_counter",
    "events_sent_to_relay_counter",
)
# Series cannot be taken out of a metrics file; see `LEFT` in `metrics`.
_LEFT = re.compile(rb"^event_service_crawl_relay_seconds_behind\{[^\n]*\} -1\.0\n", re.MULTILINE)
_TOTAL = re.compile(rb"^((?:# (?:HELP|TYPE) )?(?:%s))_total(?=[ {])" % "|".join(WITHOUT_TOTAL).encode(), re.MULTILINE)
# Files come and go only while processes start; more than one repetition would be a fault.
_READ_ATTEMPTS = 3
# A scraper, an operator and a prober at once, several times over; who comes when all places are taken is sent away.
_MAX_CONNECTIONS = 8
_SILENCE_LIMIT_S = 5.0
# For the whole of a connection, so that no client keeps a place by sending a byte now and then.
_CONNECTION_LIMIT_S = 15.0
_log = get_logger("exposition")


class Collector(Protocol):
    """Source of metrics at the moment of a scrape."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics with their samples as of now."""
        ...


@dataclass(frozen=True, slots=True)
class Health:
    """The answer to `/_health`: 200 when `ok`, else 503, with `body` as JSON."""

    ok: bool
    body: bytes


def render(
    runtime_directory: Path,
    collectors: Sequence[Collector] = (),
    *,
    clock: Clock | None = None,
    added: Sequence[Metric] = (),
    withheld: Collection[str] = (),
) -> bytes:
    """Return the metrics of all processes and of `collectors` in text format 0.0.4, by the names of the contract.

    Counters outlive the process that counted; gauges of dead processes are left out. `added`: series of other hosts,
    which join this host's of the same name. `withheld`: families that are left out, since another host shows them.
    """
    readings = read_heartbeats(runtime_directory, clock or SystemClock())
    files = _FileCollector(metrics_directory(runtime_directory), readings)
    registry = CollectorRegistry()
    registry.register(_Joined((files, _ProcessCollector(readings), *collectors), added, withheld))
    return _LEFT.sub(b"", _TOTAL.sub(rb"\1", generate_latest(registry)))


def process_metrics(runtime_directory: Path, *, clock: Clock | None = None) -> list[Metric]:
    """Return what the processes themselves count and gauge, added up over them as `render` does."""
    readings = read_heartbeats(runtime_directory, clock or SystemClock())
    return list(_FileCollector(metrics_directory(runtime_directory), readings).collect())


class _Joined:
    """Several sources as one, each family once."""

    def __init__(self, sources: Sequence[Collector], added: Sequence[Metric], withheld: Collection[str]) -> None:
        self._sources = sources
        self._added = {each.name: each for each in added}
        self._withheld = withheld

    def collect(self) -> Iterable[Metric]:
        added = dict(self._added)
        for source in self._sources:
            for family in source.collect():
                if family.name in self._withheld:
                    continue
                if (more := added.pop(family.name, None)) is not None:
                    family.samples = [*family.samples, *more.samples]
                yield family
        yield from added.values()


class _FileCollector:
    """The metrics files, without the live gauges of processes that live no more."""

    def __init__(self, directory: Path, readings: Sequence[HeartbeatReading]) -> None:
        self._directory = directory
        self._live = {reading.slot_name for reading in readings if reading.alive}

    def collect(self) -> Iterable[Metric]:
        for _ in range(_READ_ATTEMPTS - 1):
            try:
                return self._merge()
            except FileNotFoundError:
                continue
        return self._merge()

    def _merge(self) -> Iterable[Metric]:
        paths = [path for path in self._directory.glob("*.db") if self._counts(path)]
        metrics: Iterable[Metric] = MultiProcessCollector.merge(map(str, paths))  # type: ignore[no-untyped-call]
        return metrics

    def _counts(self, path: Path) -> bool:
        if path.name.startswith("gauge_live") and path.stem.rpartition("_")[2] not in self._live:
            return False
        # A file that was made this instant has no length yet.
        return path.stat().st_size > 0


class _ProcessCollector:
    """`process_*` and the heartbeat of every living process, by slot."""

    def __init__(self, readings: Sequence[HeartbeatReading]) -> None:
        self._readings = [reading for reading in readings if reading.alive]

    def collect(self) -> Iterable[Metric]:
        slot = ("slot",)
        age = GaugeMetricFamily("event_service_heartbeat_age_seconds", "Since the last heartbeat", labels=slot)
        cpu = CounterMetricFamily("process_cpu_seconds_total", "User and system CPU time", labels=slot)
        memory = GaugeMetricFamily("process_resident_memory_bytes", "Resident memory", labels=slot)
        virtual = GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory", labels=slot)
        files = GaugeMetricFamily("process_open_fds", "Open file descriptors", labels=slot)
        most_files = GaugeMetricFamily("process_max_fds", "File descriptors that may be open", labels=slot)
        threads = GaugeMetricFamily("process_threads", "Threads", labels=slot)
        start = GaugeMetricFamily("process_start_time_seconds", "Start, seconds since the epoch", labels=slot)
        failing = GaugeMetricFamily("event_service_stage_failing", "1 while a process reports a problem", labels=slot)
        locked = any(reading.status.startswith(DATABASE_LOCKED) for reading in self._readings)
        yield GaugeMetricFamily(
            "event_service_database_locked", "1 while a process waits for a database that another holds locked",
            value=locked,
        )  # fmt: skip
        for reading in self._readings:
            name, use = [reading.slot_name], reading.use
            failing.add_metric(name, bool(reading.status))
            if math.isfinite(reading.age_s):
                age.add_metric(name, reading.age_s)
            start.add_metric(name, reading.started_s)
            most_files.add_metric(name, reading.max_files)
            if use is None:
                continue
            cpu.add_metric(name, use.cpu_s)
            memory.add_metric(name, use.resident_bytes)
            virtual.add_metric(name, use.virtual_bytes)
            threads.add_metric(name, use.threads)
            if use.open_files is not None:
                files.add_metric(name, use.open_files)
        yield from (age, failing, cpu, memory, virtual, files, most_files, threads, start)


class ExpositionServer:
    """Answers `GET /metrics` and `GET /_health` from a thread of its own until `close`."""

    def __init__(self, address: HostPort, render: Callable[[], bytes], health: Callable[[], Health]) -> None:
        """Listen on `address` (port 0: any free one). Raises `OSError` when that cannot be done."""
        self._server = _Server(address, render, health)
        # The poll interval only bounds how long `close` takes.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="exposition", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening; requests under way are left to their timeout."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Else every ended request is remembered until the server is closed.
    block_on_close = False

    def __init__(self, address: HostPort, render: Callable[[], bytes], health: Callable[[], Health]) -> None:
        self.render = render
        self.health = health
        self._log = RateLimitedLogger(_log, SystemClock())
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        every_address = address.host in ("", "::") and socket.has_dualstack_ipv6()
        if every_address or ":" in address.host:
            self.address_family = socket.AF_INET6
        self._dual_stack = every_address
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        if self._dual_stack:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # The base class's own version asks the name service for our name.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: "socket.socket | tuple[bytes, socket.socket]", client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(
        self, request: "socket.socket | tuple[bytes, socket.socket]", client_address: Any
    ) -> None:
        limit = threading.Timer(_CONNECTION_LIMIT_S, self.shutdown_request, (request,))
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._places.release()

    def handle_error(self, request: "socket.socket | tuple[bytes, socket.socket]", client_address: Any) -> None:
        # A client that goes away or dawdles is its own affair.
        if not isinstance(sys.exception(), OSError):
            self._log.exception("request", "request failed", client=client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SILENCE_LIMIT_S

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE, self.server.render())
        elif path == "/_health":
            health = self.server.health()
            status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "application/json", health.body)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: anybody on the network could fill the log."""

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
