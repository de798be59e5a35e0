"""Which events are traced, and the ids of their traces and spans: all of it follows from the id of the event.

Every process, on whatever host, thus takes part in a trace without being told, and nothing is stored for it:

    trace id    the first 16 bytes of the event's id, which is a SHA-256, so that `explain` and a trace find each other
    sampled     if the last 8 bytes of the trace id are below the share of 2**64, as OpenTelemetry samples by ratio;
                leading zeros, which proofs of work (NIP-13) have, are in the first 8
    span id     8 bytes of BLAKE2b of the whole id and the step, so that a step knows the span that it continues

A step that is done again for the same event, after a crash or for a later delivery, has the same span id.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
_DECIDING = slice(8, _TRACE_ID_BYTES)
_ALL: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class TraceStep:
    """What one span is of; `parent`: the name of the step before it."""

    name: str
    parent: str | None = None


CRAWL: Final = TraceStep("crawl")
SAVE: Final = TraceStep("save", CRAWL.name)


def deliver(sink: str) -> TraceStep:
    """Return the step of the delivery to `sink`."""
    return TraceStep(f"deliver {sink}", SAVE.name)


class TraceSample:
    """Share of the events, the same ones in every process; a larger share has all of a smaller one."""

    __slots__ = ("_below",)

    def __init__(self, share: float) -> None:
        self._below = round(share * _ALL)

    def __bool__(self) -> bool:
        return self._below > 0

    def __contains__(self, event_id: bytes) -> bool:
        # All zeros are no valid id of a trace.
        return int.from_bytes(event_id[_DECIDING]) < self._below and any(event_id[:_TRACE_ID_BYTES])


def trace_id(event_id: bytes) -> int:
    """Return the id of the event's trace."""
    return int.from_bytes(event_id[:_TRACE_ID_BYTES])


def span_id(event_id: bytes, step: str) -> int:
    """Return the id of the span of the step of this name."""
    # Zero is no valid id of a span.
    return int.from_bytes(blake2b(step.encode(), key=event_id, digest_size=_SPAN_ID_BYTES).digest()) or 1


def traceparent(event_id: bytes, step: TraceStep) -> str:
    """Return the W3C trace context of those who continue the trace of a sampled event after `step`."""
    return f"00-{trace_id(event_id):032x}-{span_id(event_id, step.name):016x}-01"
