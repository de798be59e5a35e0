"""What a stage loads only when it starts, for `event-service check`."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from pipeline.errors import CannotStart
from pipeline.process.slots import Slot
from pipeline.process.tracing import otlp_exporter
from pipeline.settings.choices import SinkKind, SinkSetting
from pipeline.settings.config import Config
from pipeline.sinks.plugins import load_sink

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def unusable_parts(config: Config) -> Iterator[str]:
    """Yield why stages cannot start with these settings, a line each; every part is loaded as they do."""
    loads: list[Callable[[], None]] = []
    loads += [partial(_load_plugin, sink) for sink in config.sink if sink.kind is SinkKind.PLUGIN]
    if config.trace_sample:
        loads.append(lambda: otlp_exporter(Slot("check", 0)).close())
    for load in loads:
        try:
            load()
        except CannotStart as error:
            yield str(error)


def _load_plugin(sink: SinkSetting) -> None:
    load_sink(sink.name, sink.argument).close()


def unnamed_collector(config: Config) -> Iterator[str]:
    """Yield a warning if events are traced and no variable says where spans go, or one keeps them from going."""
    if config.trace_sample and os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield "OTEL_SDK_DISABLED is true: no span is exported"
    elif config.trace_sample and not any(map(os.environ.get, _ENDPOINTS)):
        yield "OTEL_EXPORTER_OTLP_ENDPOINT is not set: spans go to http://localhost:4318"
