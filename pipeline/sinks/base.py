"""What every sink promises: a verdict on each message it is given, or word that it is down.

A `Sink` answers batches, a `StreamSink` each message in its own time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pipeline.errors import EventServiceError


@dataclass(frozen=True, slots=True)
class Message:
    """An event to be delivered: 32-byte id, canonical JSON, and when it was first seen (ms).

    `retracted`: `deleted`, `vanished` or `expired`, if it was known to be so when it was saved. `relay`: address of
    the relay where it was first seen. `rules`: names of those by which it was relevant when it was saved. `mentions`:
    registered users in its `p` tags, as hex. All three are empty where that is not known. `traceparent`: W3C trace
    context of an event that is traced, else empty. `is_replay`: the sink has had the event before.
    """

    event_id: bytes
    payload: bytes
    received_at: int
    retracted: str | None = None
    relay: str = ""
    rules: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()
    traceparent: str = ""
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class Delivered:
    """The sink has the message; at least once, since an answer may get lost after it was taken."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The sink will never take this message, and why; a metric label.

    `dead_letter`: the refusal is unexpected, so that an operator may want to see the message and to requeue it.
    """

    reason: str
    dead_letter: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """The sink may take this message another time, and why not now; a metric label. Others are not held up by it."""

    reason: str


Verdict = Delivered | Refused | Retry
DELIVERED = Delivered()

Verdicts = Sequence[Verdict | None]
"""One per message in their order, `None` for those that the sink did not come to; they may be offered again at once."""


class SinkDown(EventServiceError):
    """The sink takes nothing now, through no fault of the messages: ask again later.

    `reason` is a metric label; `advice` says what an operator must do, and is empty where waiting may help. `verdicts`
    holds on to what was settled before, and is empty where nothing was; all other messages are not to be blamed.
    """

    def __init__(self, reason: str, detail: str, advice: str = "", verdicts: Verdicts = ()) -> None:
        self.reason = reason
        self.detail = detail
        self.advice = advice
        self.verdicts = tuple(verdicts)
        super().__init__(": ".join(part for part in (reason, detail, advice) if part))


class Sink(Protocol):
    """Sink that takes messages in batches; used by one thread unless it says otherwise."""

    @property
    def max_messages(self) -> int:
        """Number of messages a batch may hold."""
        ...

    def deliver(self, messages: Sequence[Message]) -> Verdicts:
        """Return the verdict on each message, on one at least. Raises `SinkDown`. The messages are all different."""
        ...

    def keep_alive(self) -> None:
        """Called about every second while there is nothing to deliver."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


Answer = tuple[bytes, Verdict | None]
"""An event id and the verdict on it, or `None` for one that may be sent again at once."""


@runtime_checkable
class StreamSink(Protocol):
    """Sink that takes messages one by one and has many under way, each answered by itself; used by one thread."""

    def room(self) -> int:
        """Return how many more messages it would take now."""
        ...

    def heard_at(self) -> float:
        """Return when (monotonic s) it last showed that it is there, while something is under way, or recently."""
        ...

    def open(self) -> None:
        """Be ready to take messages. Raises `SinkDown`, with nothing under way."""
        ...

    def send(self, message: Message) -> None:
        """Put a message under way, whose id nothing under way has. Raises `SinkDown` as `collect` does.

        Called after `open`, while there is room.
        """
        ...

    def collect(self, timeout_s: float) -> Sequence[Answer]:
        """Wait for answers, at most `timeout_s`; every message under way has one in the end, and only one.

        Raises `SinkDown` when what is under way will have no answer; nothing is under way then. To be called about
        every second also while nothing is.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...
