"""What an uplink does to its host's database: packs the inbox into parcels, and goes by what the hub has of them.

A stream's digest stands for all its parcels up to a number, so that this host and the hub never agree on a number and
mean different parcels by it: either of them, or both, may have lost their last commits.

    the hub's last number and digest            then
    are of a parcel that was sent, or made      what is beyond it is sent, again if need be
    are of none, all parcels behind the newest
      one in common are kept                    a new stream begins with these
    are of none, or some are not kept           the same with all that are kept, and what is missing is a loss:
                                                it is fetched from relays again (`pipeline.store.hub_losses`)

A parcel that the hub has twice, by two streams, costs home a look at ids it knows. Behind a loss no notes of kept
parcels are sent, as their cursors vouch for what was lost, too.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.hub.parcel import (
    MAX_BYTES,
    MAX_EVENTS,
    UNKNOWN_RELAY,
    ParcelNotes,
    SentCursor,
    SentEvent,
    SentStatus,
    chained,
    encode_events,
)
from pipeline.nostr.event import Event, InvalidEvent, event_from_stored
from pipeline.store import events, hub_losses, parcels
from pipeline.store.authors import Authors
from pipeline.store.counters import StageTally
from pipeline.store.database import Database, Tx
from pipeline.store.events import NO_TIME, Accepted
from pipeline.store.parcels import PackedRow, SentParcel, StoredParcel, Stream, Tail

KEPT_MS: Final = 900_000
"""How long sent parcels are kept: longer than a hub's last backup or lost commits are old."""
# A row of each minute of the last month tells where a loss began.
MARK_EVERY_MS: Final = 60_000
MARKS_KEPT_MS: Final = 30 * 86_400_000
# Cursors, and states, of one parcel.
_MAX_CHANGES: Final = 2_000
# Rows of sent parcels that the hub is asked about at once.
_ASKED: Final = 50_000
# Numbers of parcels that are made until a loss is settled.
_ALL: Final = 2**62


@dataclass(frozen=True, slots=True)
class HubEnd:
    """The newest parcel of a stream at the hub: its number in the stream, and the stream's digest."""

    number: int
    digest: bytes
    was_unknown: bool = False
    """The hub had not heard of the stream."""


Confirm = Callable[[Sequence[SentParcel]], set[int]]
"""Returns the numbers of those parcels that the hub has."""


class Uplink:
    """The parcels of one database. Owned by one thread."""

    __slots__ = ("_authors", "_database", "_tail", "_unwritten", "stream")

    def __init__(self, database: Database, authors: Authors | None = None) -> None:
        """`authors`: where the thread has such a cache already."""
        self._database = database
        self._authors = authors or Authors()
        # What the hub has and the database does not know to be sent.
        self._unwritten: list[SentParcel] = []
        with database.read() as tx:
            known, self._tail = parcels.stream(tx), parcels.tail(tx)
        if known is None:
            with database.write() as tx:
                known = parcels.begin_stream(tx, _new_name(), 0)
        self.stream: Stream = known

    def go_by(self, end: HubEnd, confirm: Confirm, now: int, hub_now: int) -> bool:
        """Go on behind what the hub has of the stream; return False if a new stream has begun instead.

        Times are ms, `hub_now` by the hub's clock.
        """
        with self._database.write() as tx:
            self.write_sent(tx)
        self.on_committed()
        if not (end.was_unknown and self.stream.is_opened):
            found = self._match(end, now, hub_now)
            if found is not None:
                with self._database.write() as tx:
                    for each in found:
                        parcels.mark_sent(tx, each)
                    self._go_to(tx, self.stream.first + end.number, end.digest)
                return True
        self._begin_again(confirm, now)
        return False

    def _go_to(self, tx: Tx, sent: int, digest: bytes) -> None:
        parcels.unsend(tx, sent)
        self.stream = self.stream._replace(sent=sent, digest=digest, is_opened=True)
        parcels.put_stream(tx, self.stream)

    def _match(self, end: HubEnd, now: int, hub_now: int) -> list[SentParcel] | None:
        """Return the parcels that the hub turns out to have, none if it has fewer; None if they are others."""
        stream, number = self.stream, self.stream.first + end.number
        with self._database.read() as tx:
            oldest = parcels.oldest(tx) or stream.last + 1
            if not oldest - 1 <= number <= stream.last:
                return None
            if number <= stream.sent:
                return [] if self._digest_at(tx, number) == end.digest else None
            digest, found = stream.digest, []
            for each in parcels.beyond(tx, stream.sent, number - stream.sent):
                digest = chained(digest, each.body, self.notes_of(each))
                found.append(self._sent(each, digest, now, hub_now))
        return found if digest == end.digest else None

    def _digest_at(self, tx: Tx, number: int) -> bytes | None:
        if number == self.stream.first:
            return b""
        known = parcels.sent_at(tx, number)
        return known.digest if known is not None and known.stream == self.stream.name else None

    def _begin_again(self, confirm: Confirm, now: int) -> None:
        """Begin a new stream with what the hub lacks, and note what of it is not kept."""
        with self._database.read() as tx:
            sent = parcels.newest_sent(tx, _ASKED)
            oldest = parcels.oldest(tx) or self.stream.last + 1
            first_mark = parcels.oldest_sent(tx)
        known = confirm(sent)
        common = next((each for each in sent if each.number in known), None)
        after = oldest - 1 if common is None else max(common.number, oldest - 1)
        lost_to = next((each for each in sent if each.number <= after), None)
        is_lost = lost_to is not None and (common is None or common.number < lost_to.number)
        with self._database.write() as tx:
            self.stream = parcels.begin_stream(tx, _new_name(), after)
            parcels.unsend(tx, after)
            if is_lost and lost_to is not None:
                began = common or first_mark
                hub_losses.begin(
                    tx, 0 if common is None else common.last_event, lost_to.last_event,
                    now if began is None else began.received_at, now,
                )  # fmt: skip
                self._withhold_notes(tx, _ALL)

    def settle(self) -> None:
        """End a loss: send notes again from the next parcel on, since what vouched for what was lost is dropped."""
        with self._database.write() as tx:
            hub_losses.settle(tx)
            self._withhold_notes(tx, self.stream.last)

    def _withhold_notes(self, tx: Tx, up_to: int) -> None:
        self.stream = self.stream._replace(notes_after=up_to)
        parcels.put_stream(tx, self.stream)

    def on_taken(self, parcel: StoredParcel, digest: bytes, now: int, hub_now: int) -> None:
        """Note that the hub has the parcel that follows the last one that it had, for `write_sent`.

        What is lost before that is found out by what the hub has.
        """
        self._unwritten.append(self._sent(parcel, digest, now, hub_now))
        self.stream = self.stream._replace(sent=parcel.number, digest=digest)

    @property
    def has_unwritten(self) -> bool:
        """Return True if there is anything for `write_sent`."""
        return bool(self._unwritten)

    def write_sent(self, tx: Tx) -> None:
        """Write down what the hub has."""
        if self._unwritten:
            for each in self._unwritten:
                parcels.mark_sent(tx, each)
            parcels.put_stream(tx, self.stream)

    def on_committed(self) -> None:
        """What `write_sent` wrote is committed."""
        self._unwritten.clear()

    def notes_of(self, parcel: StoredParcel) -> bytes:
        """Return what is sent beside the events."""
        return parcel.notes if parcel.number > self.stream.notes_after else b""

    def _sent(self, parcel: StoredParcel, digest: bytes, now: int, hub_now: int) -> SentParcel:
        stream = self.stream
        return SentParcel(
            parcel.number, stream.name, stream.in_stream(parcel.number), digest, parcel.last_event,
            parcel.received_at, hub_now, now,
        )  # fmt: skip

    def forget_sent(self, tx: Tx, now: int, hub_now: int, most: int) -> bool:
        """Drop some parcels that were sent long ago; return True if there may be more."""
        return parcels.forget_sent(tx, hub_now - KEPT_MS, now - KEPT_MS, most, MARK_EVERY_MS, now - MARKS_KEPT_MS)

    def pack(self, tx: Tx, now: int, *, is_due: bool) -> StageTally | None:
        """Move the oldest rows of the inbox into a parcel; return what to count, None if there was nothing to pack.

        What relays are complete up to goes into the parcel that empties the inbox, so that no cursor overtakes its
        events. `is_due`: such changes are worth a parcel without events.
        """
        number = self.stream.last + 1
        has_notes = number > self.stream.notes_after
        rows = _first(parcels.first_rows(tx, MAX_EVENTS))
        if not rows and not (is_due and has_notes and parcels.has_changes(tx)):
            return None
        tally = StageTally(taken=len(rows))
        readable = [(row, event) for row in rows if (event := _read(row, tally)) is not None]
        parcels.remove_rows(tx, rows)
        new = self._remember(tx, readable, now)
        sent = [
            SentEvent(row.raw or b"", row.relay or UNKNOWN_RELAY, max(0, row.received_at))
            for row, _ in readable
            if row.event_id in new
        ]
        # Of another host, while it waited.
        tally.drop("known", len(readable) - len(sent))
        tally.out = len(sent)
        notes = _changes(tx).encode() if has_notes and not parcels.has_rows(tx) else b""
        if rows:
            self._tail = Tail(max(self._tail.last_event, rows[-1].event), max(0, rows[-1].received_at))
        parcels.put(tx, number, len(sent), self._tail, notes, encode_events(sent))
        self.stream = self.stream._replace(last=number)
        return tally

    def on_rollback(self) -> None:
        """Read again what a transaction that was rolled back had changed."""
        self._authors.forget()
        self._unwritten.clear()
        with self._database.read() as tx:
            self.stream, self._tail = parcels.stream(tx) or self.stream, parcels.tail(tx)

    def _remember(self, tx: Tx, packed: list[tuple[PackedRow, Event]], now: int) -> set[bytes]:
        """Let crawlers know the ids as seen; return those that were not."""
        numbers = self._authors.intern_all(tx, [event.pubkey for _, event in packed])
        return events.accept(
            tx,
            [
                Accepted(row.event, row.event_id, event.created_at or NO_TIME, event.kind, author, b"", 0, now, 0)
                for (row, event), author in zip(packed, numbers, strict=True)
            ],
            now,
        )


def _new_name() -> str:
    return secrets.token_hex(16)


def _first(rows: list[PackedRow]) -> list[PackedRow]:
    """Return the first rows that fit one parcel, one in any case."""
    size = 0
    for place, row in enumerate(rows):
        size += row.size
        if size > MAX_BYTES and place:
            return rows[:place]
    return rows


def _read(row: PackedRow, tally: StageTally) -> Event | None:
    try:
        return event_from_stored(row.raw or b"")
    except InvalidEvent:
        # Its page of the database is broken; no other row waits for it.
        tally.drop("unreadable")
        return None


def _changes(tx: Tx) -> ParcelNotes:
    cursors = parcels.pop_changed_cursors(tx, _MAX_CHANGES)
    statuses = parcels.pop_changed_statuses(tx, _MAX_CHANGES)
    return ParcelNotes(
        tuple(SentCursor(address, query, max(0, until), generation) for address, query, until, generation in cursors),
        tuple(SentStatus(*row) for row in statuses),
    )
