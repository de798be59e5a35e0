"""A stream of live events from a scripted relay, at a rate or as fast as its clients read."""

from collections.abc import Iterator, Sequence
from time import monotonic, time

from tests.factories.events import SignedEvent
from tests.fakes.net import pause
from tests.fakes.relay import ScriptedRelay
from tests.oracle.delivery import DeliveryOracle

MAX_BATCH = 64
MAX_UNREAD_BYTES = 2 * 1024 * 1024
"""More than this waiting for a client holds the stream up, long before the relay would disconnect the client."""
MAX_STALL_S = 120.0
_STALL_STEP_S = 0.005

Times = list[tuple[float, int]]
"""When (Unix seconds) the next so many events of a stream became available."""


def stream(relay: ScriptedRelay, events: Sequence[SignedEvent], per_s: float | None = None) -> Times:
    """Publish all events in order and return when; raises `TimeoutError` when a client does not read at all."""
    size = MAX_BATCH if per_s is None else min(max(int(per_s / 100), 1), MAX_BATCH)
    times = []
    began = monotonic()
    for start in range(0, len(events), size):
        batch = events[start : start + size]
        if per_s is not None:
            pause(began + start / per_s - monotonic())
        _wait_for_readers(relay)
        times.append((time(), len(batch)))
        relay.publish(*batch)
    return times


def _wait_for_readers(relay: ScriptedRelay) -> None:
    deadline = monotonic() + MAX_STALL_S
    while relay.unread_bytes > MAX_UNREAD_BYTES:
        if monotonic() > deadline:
            raise TimeoutError(f"a client has not read for {MAX_STALL_S} s")
        pause(_STALL_STEP_S)


def hold_stream(oracle: DeliveryOracle, relay: str, events: Sequence[SignedEvent], times: Times) -> None:
    """Note in the books what `stream` did."""
    for at, part in _parts(events, times):
        oracle.hold(relay, part, available_at=at, live=True)


def _parts(events: Sequence[SignedEvent], times: Times) -> Iterator[tuple[float, Sequence[SignedEvent]]]:
    start = 0
    for at, count in times:
        yield at, events[start : start + count]
        start += count
