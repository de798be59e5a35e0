"""Traced consumer: a span for each event that is traced, as the continuation of its trace.

    python traced.py PROJECT SUBSCRIPTION

SUBSCRIPTION has the filter `attributes:rule_user`. Spans go where OpenTelemetry's own variables say, such as
`OTEL_EXPORTER_OTLP_ENDPOINT`. What is done with an event must bear that it comes twice; see the other samples for that.
"""

import logging
import sys
from typing import Any

from google.cloud.pubsub_v1 import SubscriberClient
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

LOG = logging.getLogger("traced")
PROPAGATOR = TraceContextTextMapPropagator()


def handle(message: Any) -> None:
    """Do something with an event; your own code goes here."""
    LOG.info("handled %s", message.attributes["event_id"])


def on_message(tracer: Tracer, message: Any) -> None:
    """Handle an event, within its trace if it has one."""
    if "traceparent" not in message.attributes:
        handle(message)
    else:
        context = PROPAGATOR.extract(message.attributes)
        attributes = {"messaging.system": "gcp_pubsub", "messaging.message.id": message.message_id}
        with tracer.start_as_current_span("handle event", context, SpanKind.CONSUMER, attributes):
            handle(message)
    # Only now: what raises or crashes before comes again.
    message.ack()


def main() -> None:
    """Consume until stopped."""
    if len(sys.argv) != 3:
        sys.exit("usage: python traced.py PROJECT SUBSCRIPTION")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    project, subscription = sys.argv[1:]
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("traced")
    with SubscriberClient() as client:
        path = client.subscription_path(project, subscription)
        client.subscribe(path, callback=lambda message: on_message(tracer, message)).result()


if __name__ == "__main__":
    main()
