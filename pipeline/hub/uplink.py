"""What an uplink does to its host's database: packs the inbox into parcels, and goes by what the hub has of them.

    the hub's last number       then
    the last that was made      all are sent
    lower, the rest is kept     what is beyond it is sent again: the hub went back to an older state
    lower, the rest is gone     `HubTooOld`: what it lost can only be fetched from relays again
    higher                      this database went back: a new stream begins, with all parcels that are kept

A parcel that the hub has twice, by two streams, costs home a look at ids it knows.
"""

import secrets
from typing import Final

from pipeline.errors import CannotStart
from pipeline.hub.parcel import MAX_BYTES, MAX_EVENTS, Parcel, SentCursor, SentEvent, SentStatus
from pipeline.nostr.event import Event, InvalidEvent, event_from_stored
from pipeline.store import events, parcels
from pipeline.store.authors import Authors
from pipeline.store.counters import StageTally
from pipeline.store.database import Database, Tx
from pipeline.store.events import NO_TIME, Accepted
from pipeline.store.parcels import PackedRow, Stream

KEPT_MS: Final = 900_000
"""How long sent parcels are kept: longer than a hub's last backup or lost commits are old."""
# Cursors, and states, of one parcel.
_MAX_CHANGES: Final = 2_000
# Of a relay that was forgotten while its event waited.
_NO_RELAY: Final = "wss://unknown.invalid"


class HubTooOld(CannotStart):
    """The hub went back by more than what this host keeps."""


class Uplink:
    """The parcels of one database. Owned by one thread."""

    __slots__ = ("_authors", "_database", "stream")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._authors = Authors()
        with database.read() as tx:
            known = parcels.stream(tx)
        self.stream: Stream = known or self.begin_stream()

    def begin_stream(self) -> Stream:
        """Begin a new stream, which nothing else has the name of."""
        with self._database.write() as tx:
            self.stream = parcels.begin_stream(tx, secrets.token_hex(16))
        return self.stream

    def go_by(self, last: int, now: int) -> bool:
        """Go on behind the hub's `last` parcel of the stream; return False if a new stream has begun instead.

        Raises `HubTooOld`.
        """
        if last > self.stream.last:
            self.begin_stream()
            return False
        with self._database.write() as tx:
            if not parcels.has_all_beyond(tx, last, self.stream.last):
                raise HubTooOld(
                    f"the hub lost parcels that this host keeps no more: it has {last} of {self.stream.last}."
                    " Stop this host, delete its database and start it: it fetches what is missing from the relays."
                )
            parcels.mark_unsent(tx, last)
            parcels.mark_sent(tx, last, now)
        return True

    def pack(self, tx: Tx, now: int, *, is_due: bool) -> StageTally | None:
        """Move the oldest rows of the inbox into a parcel; return what to count, None if there was nothing to pack.

        What relays are complete up to goes into the parcel that empties the inbox, so that no cursor overtakes its
        events. `is_due`: such changes are worth a parcel without events.
        """
        rows = _first(parcels.first_rows(tx, MAX_EVENTS))
        if not rows and not (is_due and parcels.has_changes(tx)):
            return None
        tally = StageTally(taken=len(rows))
        readable = [(row, event) for row in rows if (event := _read(row, tally)) is not None]
        parcels.remove_rows(tx, rows)
        self._remember(tx, readable, now)
        sent = tuple(SentEvent(row.raw or b"", row.relay or _NO_RELAY, max(0, row.received_at)) for row, _ in readable)
        tally.out = len(sent)
        parcel = Parcel(sent) if parcels.has_rows(tx) else Parcel(sent, *_changes(tx))
        number = self.stream.last + 1
        parcels.put(tx, number, parcel.encode(), len(sent), now)
        self.stream = self.stream._replace(last=number)
        return tally

    def on_rollback(self) -> None:
        """Read again what a transaction that was rolled back had changed."""
        self._authors.forget()
        with self._database.read() as tx:
            self.stream = parcels.stream(tx) or self.stream

    def _remember(self, tx: Tx, packed: list[tuple[PackedRow, Event]], now: int) -> None:
        """Let crawlers know the ids as seen."""
        numbers = self._authors.intern_all(tx, [event.pubkey for _, event in packed])
        events.accept(
            tx,
            [
                Accepted(row.event, row.event_id, event.created_at or NO_TIME, event.kind, author, b"", 0, now, 0)
                for (row, event), author in zip(packed, numbers, strict=True)
            ],
            now,
        )


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


def _changes(tx: Tx) -> tuple[tuple[SentCursor, ...], tuple[SentStatus, ...]]:
    cursors = parcels.pop_changed_cursors(tx, _MAX_CHANGES)
    statuses = parcels.pop_changed_statuses(tx, _MAX_CHANGES)
    return (
        tuple(SentCursor(address, query, max(0, until), generation) for address, query, until, generation in cursors),
        tuple(SentStatus(*row) for row in statuses),
    )
