"""A collector of spans by OTLP over HTTP, decoded with the protocol's own messages; it may refuse, or never answer."""

import gzip
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.fakes.net import loopback_address

DEFAULT_TIMEOUT_S = 60.0


class Collector:
    """Takes spans until it is closed; `status` 0 leaves every request without an answer."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.requests = 0
        self._spans: list[Span] = []
        self._resources: list[dict[str, str]] = []
        self._changed = threading.Condition()
        self._is_closing = threading.Event()
        self._server = ThreadingHTTPServer((loopback_address(), 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="collector")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` names."""
        return f"http://{self._server.server_address[0]!s}:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        """All spans so far."""
        with self._changed:
            return list(self._spans)

    @property
    def resources(self) -> list[dict[str, str]]:
        """The attributes of each process that sent some, as often as it did."""
        with self._changed:
            return list(self._resources)

    def wait(self, enough: Callable[["Collector"], bool], timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Return once it is `enough`; raises `TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self), timeout_s):
                raise TimeoutError(f"{len(self._spans)} spans in {self.requests} requests")

    def _take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces", path
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            self.requests += 1
            if self.status == 200:
                for each in request.resource_spans:
                    self._resources.append({one.key: one.value.string_value for one in each.resource.attributes})
                    self._spans += [span for scope in each.scope_spans for span in scope.spans]
            self._changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector._take(self.path, body)
                if not collector.status:
                    collector._is_closing.wait()
                    return
                # One that was killed waits for no answer.
                with suppress(OSError):
                    self._answer(ExportTraceServiceResponse().SerializeToString())

            def _answer(self, body: bytes) -> None:
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler
