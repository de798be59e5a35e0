"""What every sink promises: a verdict on each message it is given, or word that it is down."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import EventServiceError


@dataclass(frozen=True, slots=True)
class Message:
    """An event to be handed on: 32-byte id, canonical JSON, and when it was first seen (ms)."""

    event_id: bytes
    payload: bytes
    received_at: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The sink has the message; at least once, since an answer may get lost after it was taken."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The sink will never take this message, and why; a metric label.

    `bury`: that is not in the order of things, and an operator may want to see the message, and to try it again.
    """

    reason: str
    bury: bool = False


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
    """Takes messages in batches; used by one thread unless it says otherwise."""

    @property
    def max_messages(self) -> int:
        """How many messages a batch may hold."""
        ...

    def deliver(self, messages: Sequence[Message]) -> Verdicts:
        """The verdict on each message, on one of them at least; raises `SinkDown`. The messages are all different."""
        ...

    def keep_alive(self) -> None:
        """Called about every second while there is nothing to deliver."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...
