"""What became of an event, told to a person: the same words on the command line and on the status page."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.nostr.event import Event, InvalidEvent, event_from_json
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.nostr.nip19 import encode_npub
from pipeline.nostr.tags import public_keys
from pipeline.process.condition import utc
from pipeline.store import fate
from pipeline.store.database import Tx
from pipeline.store.fate import Fate, Place


@dataclass(frozen=True, slots=True)
class Line:
    """One thing to know: what about, and what."""

    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Recent:
    """One of the newest events: hexadecimal id, kind, author as npub, why it is relevant, and when it came (ms).

    `delay_ms`: until the sink had it; None while it waits.
    """

    event_id: str
    kind: int
    author: str
    why: str
    received_at: int
    delay_ms: int | None


def newest(tx: Tx, limit: int) -> list[Recent]:
    """The newest events that were saved, the very newest first."""
    return [recent for each in fate.newest(tx, limit) if (recent := _recent(tx, each)) is not None]


def _recent(tx: Tx, found: fate.Newest) -> Recent | None:
    try:
        event = event_from_json(found.payload)
    except InvalidEvent:
        return None
    delay = None if found.delivered_at is None else max(0, found.delivered_at - found.received_at)
    why = _rule(tx, event.kind, event.pubkey, event)
    return Recent(found.event_id.hex(), event.kind, encode_npub(event.pubkey), why, found.received_at, delay)


def of_event(tx: Tx, event_id: bytes, created_at: int | None = None) -> list[Line]:
    """The story of the event of this id (32 bytes), as far as the database remembers it.

    With `created_at`, the event's own time (s), it is found at once.
    """
    found = fate.of_event(tx, event_id, created_at)
    return [Line("event", event_id.hex()), *_origin(found), *_relevance(tx, found), *_whereabouts(found)]


def _origin(found: Fate) -> Iterator[Line]:
    event = _event_of(found)
    if event is not None:
        yield Line("what", f"kind {event.kind} by {encode_npub(event.pubkey)}, dated {_date(event.created_at)}")
    elif found.kind is not None:
        yield Line("what", f"kind {found.kind} by {encode_npub(found.author)}; the payload is gone")
    elif found.payload:
        yield Line("what", f"{len(found.payload)} bytes that are no event")
    if found.received_at is not None:
        yield Line(
            "first seen", f"{_date(found.received_at / 1000)} at {found.relay or 'a relay that is no longer known'}"
        )


def _event_of(found: Fate) -> Event | None:
    """The event, where its payload is there and can be read: it may be what the saver fails at."""
    try:
        return event_from_json(found.payload) if found.payload else None
    except InvalidEvent:
        return None


def _relevance(tx: Tx, found: Fate) -> Iterator[Line]:
    event = _event_of(found)
    if event is None and not found.author:
        return
    kind, author = (event.kind, event.pubkey) if event is not None else (found.kind, found.author)
    yield Line("relevant", _rule(tx, kind, author, event))


def _rule(tx: Tx, kind: int | None, author: bytes, event: Event | None) -> str:
    if kind in GLOBAL_KINDS:
        return f"kind {kind} is relevant from every author"
    if fate.is_registered(tx, author):
        return "its author is a registered user"
    if fate.is_wanted(tx, author):
        return "its author is in the contact list of a registered user"
    if event is None:
        return "its author is not wanted today; its payload, which had the mentions, is gone"
    mentioned = [key for key in public_keys(event) if fate.is_registered(tx, key)]
    if mentioned:
        return f"it mentions registered user {encode_npub(mentioned[0])}"
    return "no longer relevant: no registered user wrote it, is mentioned in it, or follows its author"


def _whereabouts(found: Fate) -> Iterator[Line]:
    match found.place:
        case Place.INBOX:
            again = "" if found.ready_at is None else f"; tried again at {_date(found.ready_at / 1000)}"
            yield Line("inbox", f"{found.note}{again if found.failures else ''}")
            if found.failures:
                yield Line("why", f"the log has it: look for {found.event_id.hex()}")
        case Place.BURIED:
            yield Line("dead letter", f"{found.note}; see event-service dead show inbox {found.dead}")
        case Place.ACCEPTED:
            assert found.accepted_at is not None, "accepted at some time"
            yield Line("accepted", _date(found.accepted_at / 1000))
            for sink in found.sinks:
                when = "" if sink.at is None else f" ({_date(sink.at / 1000)})"
                hint = "" if sink.dead is None else f"; see event-service dead show {sink.sink} {sink.dead}"
                yield Line(f"sink {sink.sink}", f"{sink.outcome}{when}{hint}")
            if not found.sinks:
                yield Line("sinks", "not queued for any sink, or its delivery record has expired")
    for drop in found.dropped:
        yield Line(
            "dropped", f"{_date(drop.at / 1000)}, from {drop.relay or 'a relay that is no longer known'}: {drop.reason}"
        )
    if found.place is Place.UNKNOWN and not found.dropped:
        yield Line(
            "never accepted",
            "no relay has sent it recently, or no registered user is concerned by it (counted as `unwanted`), or its "
            "id is older than EVENTS_SEEN_RETENTION",
        )


def _date(seconds: float) -> str:
    try:
        return utc(seconds)
    except (OverflowError, OSError, ValueError):
        # An author may date an event as he likes.
        return f"{seconds:.0f} s after 1970"
