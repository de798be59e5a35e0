"""Trace of one event in words, the same on the command line and on the status page."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.nostr.event import Event, InvalidEvent, event_from_json
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.nostr.nip19 import encode_npub
from pipeline.nostr.tags import public_keys
from pipeline.process.liveness import utc
from pipeline.store import event_trace
from pipeline.store.database import Tx
from pipeline.store.event_trace import EventTrace, Location
from pipeline.store.sinks import SinkName


@dataclass(frozen=True, slots=True)
class TraceLine:
    """One line of a trace: its subject and its text."""

    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Recent:
    """One of the newest events: hexadecimal id, kind, author as npub, why it is relevant, and when it came (ms).

    `delay_ms`: until the sink that is named first accepted it; None while it is pending.
    """

    event_id: str
    kind: int
    author: str
    why: str
    received_at: int
    delay_ms: int | None


def newest(tx: Tx, limit: int, sink: SinkName) -> list[Recent]:
    """Return the newest saved events, the newest first, with when `sink` accepted them."""
    return [recent for each in event_trace.newest(tx, limit, sink) if (recent := _recent(tx, each)) is not None]


def _recent(tx: Tx, found: event_trace.Newest) -> Recent | None:
    try:
        event = event_from_json(found.payload)
    except InvalidEvent:
        return None
    delay = None if found.delivered_at is None else max(0, found.delivered_at - found.received_at)
    why = _rule(tx, event.kind, event.pubkey, event)
    return Recent(found.event_id.hex(), event.kind, encode_npub(event.pubkey), why, found.received_at, delay)


def explain_event(tx: Tx, event_id: bytes, created_at: int | None = None) -> list[TraceLine]:
    """Return the trace of the event of this id (32 bytes), as far as the database has it.

    With `created_at`, the event's own time (s), it is found at once.
    """
    found = event_trace.trace(tx, event_id, created_at)
    return [TraceLine("event", event_id.hex()), *_origin(found), *_relevance(tx, found), *_whereabouts(found)]


def _origin(trace: EventTrace) -> Iterator[TraceLine]:
    event = _event_of(trace)
    if event is not None:
        yield TraceLine("what", f"kind {event.kind} by {encode_npub(event.pubkey)}, dated {_date(event.created_at)}")
    elif trace.kind is not None:
        yield TraceLine("what", f"kind {trace.kind} by {encode_npub(trace.author)}; the payload is gone")
    elif trace.payload:
        yield TraceLine("what", f"{len(trace.payload)} bytes that are no event")
    if trace.received_at is not None:
        by = f", by {trace.host}" if trace.host else ""
        where = trace.relay or "a relay that is no longer known"
        yield TraceLine("first seen", f"{_date(trace.received_at / 1000)} at {where}{by}")


def _event_of(trace: EventTrace) -> Event | None:
    """Return the event if its payload is there and valid; the saver may fail at it because it is not."""
    try:
        return event_from_json(trace.payload) if trace.payload else None
    except InvalidEvent:
        return None


def _relevance(tx: Tx, trace: EventTrace) -> Iterator[TraceLine]:
    event = _event_of(trace)
    if event is None and not trace.author:
        return
    kind, author = (event.kind, event.pubkey) if event is not None else (trace.kind, trace.author)
    yield TraceLine("relevant", _rule(tx, kind, author, event))


def _rule(tx: Tx, kind: int | None, author: bytes, event: Event | None) -> str:
    if kind in GLOBAL_KINDS:
        return f"kind {kind} is relevant from every author"
    if event_trace.is_registered(tx, author):
        return "its author is a registered user"
    if event_trace.is_wanted(tx, author):
        return "its author is in the contact list of a registered user"
    if event is None:
        return "its author is not wanted today; its payload, which had the mentions, is gone"
    mentioned = [key for key in public_keys(event) if event_trace.is_registered(tx, key)]
    if mentioned:
        return f"it mentions registered user {encode_npub(mentioned[0])}"
    return "no longer relevant: no registered user wrote it, is mentioned in it, or follows its author"


def _whereabouts(trace: EventTrace) -> Iterator[TraceLine]:
    match trace.location:
        case Location.INBOX:
            again = "" if trace.ready_at is None else f"; tried again at {_date(trace.ready_at / 1000)}"
            yield TraceLine("inbox", f"{trace.note}{again if trace.failures else ''}")
            if trace.failures:
                yield TraceLine("why", f"the log has it: look for {trace.event_id.hex()}")
        case Location.DEAD_LETTER:
            yield TraceLine("dead letter", f"{trace.note}; see event-service dead show inbox {trace.dead}")
        case Location.ACCEPTED:
            yield from _deliveries(trace)
    for drop in trace.dropped:
        where = drop.relay or "a relay that is no longer known"
        by = f", by {drop.host}" if drop.host else ""
        yield TraceLine("dropped", f"{_date(drop.at / 1000)}, from {where}{by}: {drop.reason}")
    if trace.location is Location.UNKNOWN and not trace.dropped:
        yield TraceLine(
            "never accepted",
            "no relay has sent it recently, or no registered user is concerned by it (counted as `unwanted`), or its "
            "id is older than EVENTS_SEEN_RETENTION",
        )


def _deliveries(trace: EventTrace) -> Iterator[TraceLine]:
    assert trace.accepted_at is not None, "accepted at some time"
    matched = f", as it matched {', '.join(trace.rules.split())}" if trace.rules else ""
    yield TraceLine("accepted", f"{_date(trace.accepted_at / 1000)}{matched}")
    for sink in trace.sinks:
        when = "" if sink.at is None else f" ({_date(sink.at / 1000)})"
        hint = "" if sink.dead is None else f"; see event-service dead show {sink.sink} {sink.dead}"
        yield TraceLine(f"sink {sink.sink}", f"{sink.outcome}{when}{hint}")
    if not trace.sinks:
        yield TraceLine("sinks", "not queued for any sink, or its delivery record has expired")


def _date(seconds: float) -> str:
    try:
        return utc(seconds)
    except (OverflowError, OSError, ValueError):
        # An author may give an event any date.
        return f"{seconds:.0f} s after 1970"
