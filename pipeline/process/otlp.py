"""Export of spans by OTLP over HTTP, with OpenTelemetry's own SDK and exporter (the extra `tracing`).

Where to, with which headers, certificate, compression and timeout the exporter reads from the variables that
OpenTelemetry defines (`OTEL_EXPORTER_OTLP_…`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`, `OTEL_SDK_DISABLED`).
"""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, set_span_in_context

from pipeline import __version__
from pipeline.errors import CannotStart
from pipeline.process.event_span import EventSpan
from pipeline.process.slots import Slot
from pipeline.process.trace_context import CRAWL, SAVE, span_id, trace_id

_PROTOCOL: Final = "http/protobuf"
_PROTOCOL_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FILE_VARIABLES: Final = tuple(
    f"OTEL_EXPORTER_OTLP_{signal}{name}"
    for signal in ("TRACES_", "")
    for name in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
)
_KINDS: Final = {CRAWL.name: SpanKind.CONSUMER, SAVE.name: SpanKind.INTERNAL}
_NS_PER_MS: Final = 1_000_000


class OtlpExporter:
    """Sends spans to the collector that the environment names; for one thread, but for `close`."""

    def __init__(self, slot: Slot) -> None:
        """Raises `CannotStart` if a variable is wrong."""
        _check_variables()
        try:
            self._exporter = OTLPSpanExporter()
            ours = Resource.create({
                "service.name": "event-service",
                "service.version": __version__,
                "service.instance.id": f"{platform.node()}/{slot.name}",
            })  # fmt: skip
            resource = ours.merge(OTELResourceDetector().detect())
        except Exception as error:
            raise CannotStart(f"OTEL_EXPORTER_OTLP_…: {type(error).__name__}: {error}") from error
        self._ids = _DerivedIds()
        self._ended = _EndedSpans()
        provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=self._ids)
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("event-service", __version__)

    def export(self, spans: Sequence[EventSpan]) -> bool:
        """See `SpanExporter.export`."""
        for span in spans:
            self._convert(span)
        ended = self._ended.take()
        # With OTEL_SDK_DISABLED the SDK makes none.
        return len(ended) == len(spans) and self._exporter.export(ended) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """See `SpanExporter.close`."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the exporter leaves it untyped

    def _convert(self, span: EventSpan) -> None:
        self._ids.span = span
        began = span.began * _NS_PER_MS
        # A clock that was set back in between would make it end before it began.
        ended = max(began, span.ended * _NS_PER_MS)
        kind = _KINDS.get(span.step.name, SpanKind.PRODUCER)
        attributes = {"nostr.event.id": span.event_id.hex(), **dict(span.attributes)}
        made = self._tracer.start_span(span.step.name, _parent(span), kind, attributes, start_time=began)
        for name, at in span.marks:
            made.add_event(name, timestamp=at * _NS_PER_MS)
        if span.error:
            made.set_status(StatusCode.ERROR, span.error)
        made.end(ended)


class _DerivedIds(IdGenerator):
    """Ids of the span that is being made."""

    span: EventSpan

    def generate_span_id(self) -> int:
        """Return the id that follows from event and step."""
        return span_id(self.span.event_id, self.span.step.name)

    def generate_trace_id(self) -> int:
        """Return the id that follows from the event."""
        return trace_id(self.span.event_id)


class _EndedSpans(SpanProcessor):
    """The spans that have ended since they were last taken."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep `span`."""
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        """Remove and return them."""
        taken, self._spans = self._spans, []
        return taken


def _parent(span: EventSpan) -> Context:
    if span.step.parent is None:
        return Context()
    before = span_id(span.event_id, span.step.parent)
    context = SpanContext(trace_id(span.event_id), before, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(context), Context())


def _check_variables() -> None:
    """Look at what the exporter itself finds wrong only when it sends, or never."""
    for name in _PROTOCOL_VARIABLES:
        if (protocol := os.environ.get(name)) and protocol != _PROTOCOL:
            raise CannotStart(f"{name} must be {_PROTOCOL}: spans are sent over HTTP")
    for name in _FILE_VARIABLES:
        if (path := os.environ.get(name)) and not Path(path).is_file():
            raise CannotStart(f"{name} is not a file: {path}")
