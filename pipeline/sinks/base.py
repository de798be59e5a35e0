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
    """The sink will never take this message, and why; a metric label."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """The sink may take this message another time, and why not now; a metric label. Others are not held up by it."""

    reason: str


Verdict = Delivered | Refused | Retry
DELIVERED = Delivered()


class SinkDown(EventServiceError):
    """The sink takes nothing now, through no fault of the messages: ask again later, blame none of them.

    `reason` is a metric label; `advice` says what an operator must do, and is empty where waiting may help.
    """

    def __init__(self, reason: str, detail: str, advice: str = "") -> None:
        self.reason = reason
        self.detail = detail
        self.advice = advice
        super().__init__(": ".join(part for part in (reason, detail, advice) if part))


class Sink(Protocol):
    """Takes messages in batches; used by one thread unless it says otherwise."""

    @property
    def max_messages(self) -> int:
        """How many messages a batch may hold."""
        ...

    def deliver(self, messages: Sequence[Message]) -> list[Verdict]:
        """One verdict per message in their order; raises `SinkDown` when any may not have been taken."""
        ...

    def keep_alive(self) -> None:
        """Called about every second while there is nothing to deliver."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...
