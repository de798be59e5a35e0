"""Packing of the inbox into parcels, and where they go on after the hub or the database went back."""

from collections.abc import Sequence

import pytest

from pipeline.hub.parcel import MAX_BYTES, Parcel, decode
from pipeline.hub.uplink import HubTooOld, Uplink
from pipeline.nostr.event import event_from_json
from pipeline.process.clock import ManualClock
from pipeline.store import cursors, inbox, parcels
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database
from pipeline.store.inbox import Arrival
from tests.factories.events import SignedEvent, authors

(ALICE,) = authors(72, 1)
RELAY = "wss://relay.example.com"
NOW = 1_700_000_000


@pytest.fixture(autouse=True)
def relay(db: Database) -> None:
    with db.write() as tx:
        tx.execute("INSERT INTO relays (id, address, source, first_seen, last_seen) VALUES (7, ?, 'x', 0, 0)", (RELAY,))


def notes(count: int, size: int | None = None) -> list[SignedEvent]:
    return [ALICE.sign(f"{number}", kind=1, created_at=NOW + number, size=size) for number in range(count)]


def accept(db: Database, events: Sequence[SignedEvent], complete_until: int | None = None) -> None:
    """Events and the cursor that they complete, in one transaction, as the intake writes them."""
    with db.write() as tx:
        raws = [(each, event_from_json(each.raw.encode()).to_json()) for each in events]
        inbox.append(tx, [Arrival(bytes.fromhex(e.id), raw, 7, NOW * 1000, e.created_at) for e, raw in raws])
        if complete_until is not None:
            cursors.advance(tx, [Cursor(7, "authors/0", complete_until, 1)], 2**40)


def pack_all(db: Database, uplink: Uplink, *, is_due: bool = True) -> list[Parcel]:
    before = uplink.stream.last
    while True:
        with db.write() as tx:
            if uplink.pack(tx, NOW * 1000, is_due=is_due) is None:
                break
    with db.read() as tx:
        return [decode(each.body) for each in parcels.unsent(tx, 1000) if each.number > before]


def test_cursor_rides_in_the_parcel_that_empties_the_inbox(db: Database) -> None:
    uplink = Uplink(db)
    events = notes(450)
    accept(db, events, complete_until=NOW)
    packed = pack_all(db, uplink)
    assert [len(each.events) for each in packed] == [200, 200, 50]
    assert [[cursor.complete_until for cursor in each.cursors] for each in packed] == [[], [], [NOW]]
    assert [each.raw.decode() for one in packed for each in one.events] == [
        event_from_json(event.raw.encode()).to_json().decode() for event in events
    ]


def test_cursor_without_events_waits_until_changes_are_due(db: Database) -> None:
    uplink = Uplink(db)
    accept(db, [], complete_until=NOW)
    assert pack_all(db, uplink, is_due=False) == []
    (packed,) = pack_all(db, uplink)
    assert [(each.relay, each.query, each.complete_until) for each in packed.cursors] == [(RELAY, "authors/0", NOW)]
    assert pack_all(db, uplink) == [], "once for each change"


def test_cursors_from_before_the_first_start_are_sent(db: Database) -> None:
    accept(db, notes(1), complete_until=NOW)
    (packed,) = pack_all(db, Uplink(db))
    assert len(packed.cursors) == 1


def test_large_events_share_no_large_parcel(db: Database) -> None:
    uplink = Uplink(db)
    accept(db, notes(5, size=400_000))
    packed = pack_all(db, uplink)
    assert sum(len(each.events) for each in packed) == 5
    assert all(sum(len(event.raw) for event in each.events) <= MAX_BYTES for each in packed)


def test_row_that_cannot_be_read_is_counted_and_holds_up_no_other(db: Database) -> None:
    uplink = Uplink(db)
    accept(db, notes(3))
    with db.write() as tx:
        tx.execute("DELETE FROM payloads WHERE event = 2")
        tally = uplink.pack(tx, NOW * 1000, is_due=True)
    assert tally is not None
    assert (tally.taken, tally.out, dict(tally.dropped)) == (3, 2, {"unreadable": 1})


def test_packed_event_is_known_and_comes_in_no_more(db: Database) -> None:
    events = notes(3)
    accept(db, events)
    pack_all(db, Uplink(db))
    accept(db, events)
    with db.read() as tx:
        assert inbox.waiting(tx) == 0


def numbers(db: Database, *, sent: bool) -> list[int]:
    with db.read() as tx:
        rows = tx.execute("SELECT number FROM parcels WHERE (sent_at IS NOT NULL) = ? ORDER BY number", (sent,))
        return [number for (number,) in rows]


def packed_uplink(db: Database, count: int) -> Uplink:
    uplink = Uplink(db)
    for event in notes(count):
        accept(db, [event])
        pack_all(db, uplink)
    return uplink


def test_hub_that_went_back_gets_again_what_it_lost(db: Database) -> None:
    uplink = packed_uplink(db, 5)
    assert uplink.go_by(5, NOW * 1000)
    assert (numbers(db, sent=True), numbers(db, sent=False)) == ([1, 2, 3, 4, 5], [])
    assert uplink.go_by(2, NOW * 1000)
    assert (numbers(db, sent=True), numbers(db, sent=False)) == ([1, 2], [3, 4, 5])


def test_hub_that_went_back_too_far_is_refused(db: Database, clock: ManualClock) -> None:
    uplink = packed_uplink(db, 5)
    uplink.go_by(4, NOW * 1000)
    with db.write() as tx:
        parcels.forget_sent(tx, NOW * 1000 + 1, 100)
    assert numbers(db, sent=False) == [5]
    with pytest.raises(HubTooOld, match="has 3 of 5"):
        uplink.go_by(3, NOW * 1000)
    assert uplink.go_by(4, NOW * 1000)


def test_database_that_went_back_begins_a_new_stream_with_what_it_keeps(db: Database) -> None:
    uplink = packed_uplink(db, 3)
    uplink.go_by(2, NOW * 1000)
    with db.write() as tx:
        parcels.forget_sent(tx, NOW * 1000 + 1, 100)
    before = uplink.stream
    assert not uplink.go_by(9, NOW * 1000)
    assert uplink.stream.name != before.name
    assert uplink.stream.last == 1
    assert numbers(db, sent=False) == [1]
    accept(db, notes(4)[3:], complete_until=NOW)
    (packed,) = pack_all(db, uplink)
    assert (len(packed.events), len(packed.cursors)) == (1, 1)
    assert Uplink(db).stream == uplink.stream


def test_transaction_that_is_rolled_back_leaves_no_number_out(db: Database) -> None:
    uplink = Uplink(db)
    accept(db, notes(1))
    with db.write() as tx:
        uplink.pack(tx, NOW * 1000, is_due=True)
        tx.execute("ROLLBACK")
        tx.execute("BEGIN")
    uplink.on_rollback()
    assert uplink.stream.last == 0
    assert len(pack_all(db, uplink)) == 1
    assert numbers(db, sent=False) == [1]


def test_sent_parcels_are_forgotten_a_few_at_a_time(db: Database) -> None:
    uplink = packed_uplink(db, 5)
    uplink.go_by(4, NOW * 1000)
    with db.write() as tx:
        assert parcels.forget_sent(tx, NOW * 1000 + 1, 3)
        assert not parcels.forget_sent(tx, NOW * 1000 + 1, 3)
    assert (numbers(db, sent=True), numbers(db, sent=False)) == ([], [5])
