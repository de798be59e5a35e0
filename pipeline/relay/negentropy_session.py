"""The negentropy exchange of a session (NIP-77), one at a time: a state machine without I/O or clock."""

import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.nostr.filter import Filter
from pipeline.nostr.message import encode_neg_close, encode_neg_msg, encode_neg_open
from pipeline.nostr.notices import reason_prefix
from pipeline.relay.refusals import RelayRefusal, classify

ANSWER_S: Final = 10.0
NEG_PREFIX: Final = "N"
_TOO_MANY = re.compile(r"too many (query )?(results|items|records|events|negentropy)|too big|too large")
_DROPPED = re.compile(r"unknown subscription|^closed:")


class NegOutcome(StrEnum):
    """Why a reconciliation came to no result; a metric label."""

    TOO_MANY = "too-many"
    """The relay has more events there than it compares at once."""
    UNSUPPORTED = "unsupported"
    REFUSED = "refused"
    DROPPED = "dropped"
    """The relay has forgotten the exchange, as after a pause that was too long for it; it may be begun again."""
    RATE_LIMITED = "rate-limited"
    AUTH_REQUIRED = "auth-required"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class NegMessageReceived:
    """The relay's next message in the reconciliation `key`."""

    key: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class NegFinished:
    """The reconciliation `key` is over without a result; nothing is left open."""

    key: str
    end: NegOutcome
    detail: str


class NegentropyExchange:
    """The one exchange that a session may have open."""

    __slots__ = ("_bytes", "_deadline", "_has_answered", "_id", "_key", "_number", "_outgoing")

    def __init__(self, outgoing: deque[str]) -> None:
        self._bytes = 0
        self._outgoing = outgoing
        self._number = 0
        self._id = ""
        self._key = ""
        self._deadline = 0.0
        # Whether the relay ever answered one on this connection.
        self._has_answered = False

    @property
    def is_open(self) -> bool:
        """Whether an exchange is under way."""
        return bool(self._id)

    @property
    def is_probing(self) -> bool:
        """Whether an exchange is under way with a relay that never answered one on this connection."""
        return bool(self._id) and not self._has_answered

    def take_bytes(self) -> int:
        """How much was said, both ways, since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken

    @property
    def deadline(self) -> float | None:
        """When the relay has been silent for too long."""
        return self._deadline if self._id else None

    def open(self, key: str, query: Filter, payload: bytes, now: float) -> None:
        """Begin; ends in one `NegFinished`, or by `close`."""
        self._number += 1
        self._id, self._key = f"{NEG_PREFIX}{self._number}", key
        self._say(encode_neg_open(self._id, query, payload), now)

    def answer(self, payload: bytes, now: float) -> None:
        """Send the next message."""
        self._say(encode_neg_msg(self._id, payload), now)

    def close(self) -> None:
        """End it by our own will, if it is open."""
        if self._id:
            self._outgoing.append(encode_neg_close(self._id))
            self._id = ""

    def on_message(self, subscription: str, payload: bytes) -> NegMessageReceived | None:
        """Take a NEG-MSG; `None` for one that belongs to no open exchange."""
        if subscription != self._id:
            return None
        self._has_answered = True
        self._bytes += 2 * len(payload)
        return NegMessageReceived(self._key, payload)

    def on_error(self, subscription: str, reason: str) -> NegFinished | None:
        """Take a NEG-ERR or CLOSED."""
        return self._end(_end_of(reason), reason) if self._id and subscription == self._id else None

    def on_notice(self, text: str) -> NegFinished | None:
        """Take a NOTICE; `None` if it is about something else.

        While a relay has never answered a NEG-OPEN, whatever it complains about is that: some name no subject, and
        some speak as if a request were too large.
        """
        if not self._id:
            return None
        refusal = classify(text, reason_prefix(text))
        if refusal is RelayRefusal.RATE_LIMITED:
            return self._end(NegOutcome.RATE_LIMITED, text)
        if self._has_answered and "neg" not in text.lower():
            return None
        return self._end(NegOutcome.ERROR if self._has_answered else NegOutcome.UNSUPPORTED, text)

    def on_timeout(self, now: float) -> NegFinished | None:
        """The end by silence, if it is due."""
        if not self._id or now < self._deadline:
            return None
        if self._has_answered:
            self._outgoing.append(encode_neg_close(self._id))
        # A relay that does not know the one message would only complain about the other.
        return self._end(NegOutcome.TIMEOUT, "no answer")

    def postpone(self, now: float) -> None:
        """Wait anew, after a pause in which nothing was read."""
        self._deadline = max(self._deadline, now + ANSWER_S)

    def _say(self, frame: str, now: float) -> None:
        self._deadline = now + ANSWER_S
        self._bytes += len(frame)
        self._outgoing.append(frame)

    def _end(self, end: NegOutcome, detail: str) -> NegFinished:
        self._id = ""
        return NegFinished(self._key, end, detail)


def _end_of(reason: str) -> NegOutcome:
    for pattern, end in ((_TOO_MANY, NegOutcome.TOO_MANY), (_DROPPED, NegOutcome.DROPPED)):
        if pattern.search(reason.lower()):
            return end
    match classify(reason, reason_prefix(reason)):
        case RelayRefusal.RATE_LIMITED:
            return NegOutcome.RATE_LIMITED
        case RelayRefusal.AUTH_REQUIRED:
            return NegOutcome.AUTH_REQUIRED
        case RelayRefusal.RESTRICTED | RelayRefusal.FORBIDDEN | RelayRefusal.KINDLESS | RelayRefusal.AUTHORLESS:
            return NegOutcome.REFUSED
        case RelayRefusal.UNSUPPORTED:
            return NegOutcome.UNSUPPORTED
        case _:
            return NegOutcome.UNSUPPORTED if "disabled" in reason.lower() else NegOutcome.ERROR
