"""What home does with a parcel: its events go into the inbox as if a crawler of this host had accepted them.

Each event is verified again: a crawling host that was taken over can withhold events, but forge none. A parcel that
cannot be read is set aside in this database with the position behind it, and is tried again at each start: a host of
a newer version may have made it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.hub.known_ids import TakenId
from pipeline.hub.parcel import (
    InvalidParcel,
    ParcelNotes,
    SentEvent,
    SentStatus,
    decode_events,
    decode_notes,
    relays_of,
)
from pipeline.nostr.event import InvalidEvent, event_from_json
from pipeline.rules.acceptance import MAX_FUTURE_S, EventLimits, rejection_reason
from pipeline.store import cursors, hosts, hub_relays, inbox, relay_status, taken_parcels
from pipeline.store.counters import StageTally
from pipeline.store.cursors import Cursor
from pipeline.store.database import Tx
from pipeline.store.inbox import Arrival
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.taken_parcels import Position

# Older times of a host's clock are those of a wrong one: its uplink was away for longer than ids are remembered.
_MAX_AGE_MS: Final = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class HubParcel:
    """A parcel as the hub has it, with the digests of its stream before it and with it."""

    stream: str
    host: str
    number: int
    before: bytes
    digest: bytes
    body: bytes
    notes: bytes

    @property
    def position(self) -> Position:
        """The position in its stream behind it."""
        return Position(self.number, self.digest)


@dataclass(frozen=True, slots=True)
class Opened:
    """A parcel whose events are verified."""

    parcel: HubParcel
    arrivals: tuple[tuple[SentEvent, Arrival, TakenId], ...] = ()
    notes: ParcelNotes = field(default_factory=ParcelNotes)
    tally: StageTally = field(default_factory=StageTally)
    problem: str = ""
    """Why its events cannot be read."""


def open_parcel(parcel: HubParcel, limits: EventLimits, now: int) -> Opened:
    """Return what the parcel holds; events that must not be saved are counted and left out."""
    notes = decode_notes(parcel.notes)
    try:
        found = decode_events(parcel.body)
    except InvalidParcel as error:
        return Opened(parcel, notes=notes, problem=str(error))
    tally = StageTally(taken=len(found))
    arrivals = tuple((each, *checked) for each in found if (checked := _check(each, limits, now, tally)) is not None)
    return Opened(parcel, arrivals, notes, tally)


def _check(sent: SentEvent, limits: EventLimits, now: int, tally: StageTally) -> tuple[Arrival, TakenId] | None:
    try:
        event = event_from_json(sent.raw)
    except InvalidEvent as error:
        tally.drop(f"invalid-{error.reason}")
        return None
    raw = event.to_json()
    reason = rejection_reason(event, len(raw), limits, now // 1000)
    if reason is not None:
        tally.drop(reason)
        return None
    received_at = sent.received_at if now - _MAX_AGE_MS < sent.received_at <= now else now
    taken = TakenId(event.id, event.pubkey, event.created_at, event.kind)
    return Arrival(event.id, raw, 0, received_at, event.created_at), taken


def take(tx: Tx, opened: Sequence[Opened], now: int) -> tuple[set[bytes], StageTally]:
    """Write parcels of any streams, in the order of their numbers, with the position; return the ids that were new.

    What is not after the position of its stream was taken before and changes nothing.
    """
    before = taken_parcels.positions(tx)
    fresh = [each for each in opened if each.parcel.number > before.get(each.parcel.stream, Position()).number]
    new, tally = put(tx, fresh, now)
    unread = [each.parcel for each in fresh if each.problem]
    taken_parcels.set_aside(tx, ((each.host, now, each.notes, each.body) for each in unread))
    taken_parcels.put_positions(tx, ((each.parcel.stream, each.parcel.position) for each in fresh))
    return new, tally


def put(tx: Tx, opened: Sequence[Opened], now: int) -> tuple[set[bytes], StageTally]:
    """Write what is in parcels; return the ids that were new, and what to count."""
    addresses: set[str] = set()
    tally = StageTally()
    for each in opened:
        addresses |= relays_of((sent for sent, *_ in each.arrivals), each.notes)
        tally.taken += each.tally.taken
        tally.dropped.update(each.tally.dropped)
    numbers = hub_relays.numbers(tx, addresses, now)
    arrivals = [arrival._replace(relay=numbers[sent.relay]) for each in opened for sent, arrival, _ in each.arrivals]
    newest = inbox.newest_ever(tx)
    new = inbox.append(tx, arrivals) if arrivals else set()
    if new:
        # Of two copies the first counts.
        brought = {each.event_id: one.parcel.host for one in reversed(opened) for _, each, _ in one.arrivals}
        hosts.note_events(tx, newest, brought)
    tally.out = len(new)
    tally.drop("duplicate", len(arrivals) - len(new))
    # Cursors of a parcel whose events wait to be read would vouch for them.
    _put_notes(tx, [each.notes for each in opened if not each.problem], numbers, now)
    return new, tally


def _put_notes(tx: Tx, notes: Iterable[ParcelNotes], numbers: dict[str, int], now: int) -> None:
    found = list(notes)
    latest = now // 1000 + MAX_FUTURE_S
    moved = (each for one in found for each in one.cursors if each.complete_until <= latest)
    cursors.advance(
        tx, (Cursor(numbers[each.relay], each.query, each.complete_until, each.generation) for each in moved), latest
    )
    told = {numbers[each.relay]: each for one in found for each in one.statuses}
    relay_status.start_crawling(tx, told, now)
    relay_status.put_statuses(tx, [_status(number, each) for number, each in told.items()])
    for number, each in told.items():
        relay_status.put_limits(tx, number, each.limits)


def _status(number: int, sent: SentStatus) -> RelayStatus:
    return RelayStatus(
        number, sent.relay, RelayState(sent.state), sent.state_since, sent.subscriptions, sent.rate_limit_backoff,
        sent.failures, sent.next_dial_at, sent.last_error, sent.asked, owed_since=sent.owed_since,
        is_resweeping=bool(sent.is_resweeping), is_paced=bool(sent.is_paced), resolved=sent.resolved,
    )  # fmt: skip
