"""One exchange with a relay: what is asked, and what came of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

from pipeline.nostr import json_text
from pipeline.nostr.event import Event
from pipeline.relay.refusals import Complaint, read

FilterValue: TypeAlias = Mapping[str, Any]
"""A filter as JSON, of whatever form: relays are also asked what no `Filter` can say."""

# More events or bytes than one answer needs.
MOST_EVENTS: Final = 5_500
MOST_BYTES: Final = 8 << 20


class Awaited(StrEnum):
    """What ends an exchange."""

    ANSWER = "answer"
    """EOSE, CLOSED, COUNT, NEG-MSG or NEG-ERR of the subscription."""
    OK = "ok"
    """The verdict on the event that is published."""
    LIVE = "live"
    """The first event of the subscription, as one was published."""
    WATCH = "watch"
    """The first event of the subscription, if one comes by itself."""
    MESSAGE = "message"
    """Any message."""


_FIRST_EVENT: Final = frozenset({Awaited.LIVE, Awaited.WATCH})


class Channel(StrEnum):
    """Which connection is used."""

    MAIN = "main"
    OTHER = "other"
    """A second one, open beside it."""
    FRESH = "fresh"
    """The main one, opened just before."""


class End(StrEnum):
    """How an exchange ended."""

    EOSE = "EOSE"
    CLOSED = "CLOSED"
    NOTICE = "NOTICE"
    OK = "OK"
    COUNT = "COUNT"
    NEGENTROPY = "NEG-MSG"
    NEG_ERR = "NEG-ERR"
    EVENT = "EVENT"
    OTHER = "another message"
    SILENCE = "silence"
    LOST = "connection closed"
    FLOOD = "too much"
    """More events or bytes than are taken."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is sent, and what is waited for.

    `awaits`: the subscription or the hexadecimal event id that the answer names. `keeps_open`: no CLOSE follows.
    `patience` multiplies the time that is waited. `repeats`: silence and loss are believed the second time only.
    """

    frames: tuple[str, ...]
    awaits: str
    awaited: Awaited = Awaited.ANSWER
    line: Channel = Channel.MAIN
    keeps_open: bool = False
    patience: float = 1.0
    repeats: bool = True
    most_events: int = MOST_EVENTS

    @property
    def awaits_event(self) -> bool:
        """Whether an event is waited for, however long nothing comes."""
        return self.awaited in _FIRST_EVENT


@dataclass(frozen=True, slots=True)
class Reply:
    """What came. `text`: of the CLOSED, NOTICE, NEG-ERR or OK, or how the connection ended.

    `notices`: what was said by NOTICE before; `late`: the same before this was even asked, of what was asked earlier;
    `others`: events of other subscriptions; `malformed`: events that are none; `garbage`: messages that are none;
    `finished`: whether EOSE says that there is no more (NIP-67); `challenge`: the newest of the connection (NIP-42).
    """

    end: End
    text: str = ""
    events: tuple[Event, ...] = ()
    others: tuple[tuple[str, Event], ...] = ()
    notices: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    malformed: int = 0
    garbage: int = 0
    accepted: bool | None = None
    count: int | None = None
    payload: bytes = b""
    finished: bool | None = None
    challenge: str | None = None
    took_s: float = 0.0

    @property
    def ids(self) -> frozenset[bytes]:
        """The ids of the events that came under the subscription."""
        return frozenset(event.id for event in self.events)

    @property
    def is_answered(self) -> bool:
        """Whether the relay took the request and said so."""
        return self.end in (End.EOSE, End.FLOOD) and not self.notices

    @property
    def words(self) -> str:
        """What the relay said of a request that it refused."""
        if self.end in (End.CLOSED, End.NOTICE, End.NEG_ERR, End.OK) and self.text:
            return self.text
        if self.notices:
            return self.notices[0]
        return self.text if self.end is End.LOST else ""

    @property
    def manner(self) -> str:
        """How the answer came, in the words of NIP-01."""
        if self.end in (End.EOSE, End.COUNT, End.SILENCE, End.LOST, End.CLOSED) and self.notices:
            return f"NOTICE, then {self.end}"
        return "EOSE alone" if self.end is End.EOSE and not self.events else self.end.value

    @property
    def complaint(self) -> Complaint | None:
        """What the relay complains of; None where it says nothing."""
        if self.end is End.LOST and not self.notices:
            return None
        return read(self.words) if self.words else None


def req(subscription: str, *filters: FilterValue, **how: Any) -> Ask:
    """Return what asks for stored events; `how` are members of `Ask`."""
    return Ask((frame("REQ", subscription, *filters),), subscription, **how)


def frame(*elements: object) -> str:
    """Return a message of whatever elements."""
    return json_text.encode(elements).decode("utf-8", "replace")
