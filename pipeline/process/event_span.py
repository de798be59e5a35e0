"""What one step of a sampled event leaves behind."""

from dataclasses import dataclass

from pipeline.process.trace_context import TraceStep


@dataclass(frozen=True, slots=True)
class EventSpan:
    """One step of a sampled event, from `began` to `ended` (ms)."""

    event_id: bytes
    step: TraceStep
    began: int
    ended: int
    attributes: tuple[tuple[str, str | int], ...] = ()
    marks: tuple[tuple[str, int], ...] = ()
    """What happened in between, each with its time (ms)."""
    error: str = ""
    """Why the step failed."""
