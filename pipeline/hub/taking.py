"""What home does with a parcel: its events go into the inbox as if a crawler of this host had accepted them.

Each event is verified again: a crawling host that was taken over can withhold events, but forge none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.hub.parcel import InvalidParcel, Parcel, SentCursor, SentEvent, SentStatus, decode
from pipeline.nostr.event import InvalidEvent, event_from_json
from pipeline.rules.acceptance import MAX_FUTURE_S, EventLimits, rejection_reason
from pipeline.store import cursors, hub_relays, inbox, parcels, relay_status
from pipeline.store.counters import StageTally
from pipeline.store.cursors import Cursor
from pipeline.store.database import Tx
from pipeline.store.inbox import Arrival
from pipeline.store.relay_status import RelayState, RelayStatus

# Older times of a host's clock are those of a wrong one: its uplink was away for longer than ids are remembered.
_MAX_AGE_MS: Final = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class SentParcel:
    """A parcel as the hub has it."""

    stream: str
    host: str
    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """A parcel whose events are verified. `missing`: numbers between it and the one before, which the hub dropped."""

    sent: SentParcel
    arrivals: tuple[tuple[SentEvent, Arrival], ...] = ()
    cursors: tuple[SentCursor, ...] = ()
    statuses: tuple[SentStatus, ...] = ()
    tally: StageTally = field(default_factory=StageTally)
    problem: str = ""
    """Why nothing of it can be taken."""


def open_parcel(sent: SentParcel, limits: EventLimits, now: int) -> Opened:
    """Return what the parcel holds; events that must not be saved are counted and left out."""
    try:
        found = decode(sent.body)
    except InvalidParcel as error:
        tally = StageTally(taken=1)
        tally.drop("invalid-parcel")
        return Opened(sent, tally=tally, problem=str(error))
    tally = StageTally(taken=len(found.events))
    arrivals = tuple(
        (each, arrival) for each in found.events if (arrival := _check(each, limits, now, tally)) is not None
    )
    return Opened(sent, arrivals, *_believed(found, now), tally)


def _check(sent: SentEvent, limits: EventLimits, now: int, tally: StageTally) -> Arrival | None:
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
    return Arrival(event.id, raw, 0, received_at, event.created_at)


def _believed(found: Parcel, now: int) -> tuple[tuple[SentCursor, ...], tuple[SentStatus, ...]]:
    latest = now // 1000 + MAX_FUTURE_S
    return tuple(each for each in found.cursors if each.complete_until <= latest), found.statuses


def take(tx: Tx, opened: Sequence[Opened], now: int) -> tuple[int, StageTally]:
    """Write parcels of any streams, in the order of their numbers, with the position; return how many events were new.

    What is not after the position of its stream was taken before and changes nothing.
    """
    before = parcels.positions(tx)
    fresh = [each for each in opened if each.sent.number > before.get(each.sent.stream, 0)]
    numbers = hub_relays.numbers(tx, _addresses(fresh), now)
    tally = StageTally()
    arrivals = []
    for each in fresh:
        tally.taken += each.tally.taken
        tally.dropped.update(each.tally.dropped)
        arrivals += [arrival._replace(relay=numbers[sent.relay]) for sent, arrival in each.arrivals]
    new = inbox.append(tx, arrivals) if arrivals else set()
    tally.out = len(new)
    tally.drop("duplicate", len(arrivals) - len(new))
    _put_notes(tx, fresh, numbers, now)
    parcels.put_positions(tx, ((each.sent.stream, each.sent.number) for each in fresh))
    return len(new), tally


def _addresses(opened: Iterable[Opened]) -> set[str]:
    found: set[str] = set()
    for each in opened:
        found.update(sent.relay for sent, _ in each.arrivals)
        found.update(sent.relay for sent in each.cursors)
        found.update(sent.relay for sent in each.statuses)
    return found


def _put_notes(tx: Tx, opened: Sequence[Opened], numbers: dict[str, int], now: int) -> None:
    moved = [each for one in opened for each in one.cursors]
    cursors.advance(
        tx,
        (Cursor(numbers[each.relay], each.query, each.complete_until, each.generation) for each in moved),
        now // 1000 + MAX_FUTURE_S,
    )
    told = {numbers[each.relay]: each for one in opened for each in one.statuses}
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
