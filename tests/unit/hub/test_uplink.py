"""Packing of the inbox into parcels, and where they go on after the hub or the database went back."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest

from pipeline.hub.parcel import MAX_BYTES, ParcelNotes, SentEvent, chained, decode_events, decode_notes
from pipeline.hub.uplink import KEPT_MS, MARK_EVERY_MS, HubEnd, Uplink
from pipeline.nostr.event import event_from_json
from pipeline.store import cursors, hub_losses, inbox, parcels, runs
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database
from pipeline.store.inbox import Arrival
from pipeline.store.parcels import SentParcel
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


class Packed(NamedTuple):
    events: tuple[SentEvent, ...]
    notes: ParcelNotes


def pack_all(db: Database, uplink: Uplink, *, is_due: bool = True) -> list[Packed]:
    before = uplink.stream.last
    while True:
        with db.write() as tx:
            if uplink.pack(tx, NOW * 1000, is_due=is_due) is None:
                break
    with db.read() as tx:
        return [
            Packed(decode_events(each.body), decode_notes(uplink.notes_of(each)))
            for each in parcels.beyond(tx, before, 1000)
        ]


def test_cursor_rides_in_the_parcel_that_empties_the_inbox(db: Database) -> None:
    uplink = Uplink(db)
    events = notes(450)
    accept(db, events, complete_until=NOW)
    packed = pack_all(db, uplink)
    assert [len(each.events) for each in packed] == [200, 200, 50]
    assert [[cursor.complete_until for cursor in each.notes.cursors] for each in packed] == [[], [], [NOW]]
    assert [each.raw.decode() for one in packed for each in one.events] == [
        event_from_json(event.raw.encode()).to_json().decode() for event in events
    ]


def test_cursor_without_events_waits_until_changes_are_due(db: Database) -> None:
    uplink = Uplink(db)
    accept(db, [], complete_until=NOW)
    assert pack_all(db, uplink, is_due=False) == []
    (packed,) = pack_all(db, uplink)
    assert [(each.relay, each.query, each.complete_until) for each in packed.notes.cursors] == [
        (RELAY, "authors/0", NOW)
    ]
    assert pack_all(db, uplink) == [], "once for each change"


def test_cursor_that_moves_twice_is_sent_once(db: Database) -> None:
    uplink = Uplink(db)
    accept(db, [], complete_until=NOW - 1)
    accept(db, [], complete_until=NOW)
    (packed,) = pack_all(db, uplink)
    assert [each.complete_until for each in packed.notes.cursors] == [NOW]


def test_cursors_from_before_the_first_start_are_sent(db: Database) -> None:
    accept(db, notes(1), complete_until=NOW)
    (packed,) = pack_all(db, Uplink(db))
    assert len(packed.notes.cursors) == 1


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


class FakeHub:
    """What a hub answers, as `hub.hand_over_v1` and its kin keep it; `state` and `lose` let it go back."""

    def __init__(self) -> None:
        self.streams: dict[str, list[bytes]] = {}

    def take(self, db: Database, uplink: Uplink, most: int = 1_000, at: int = NOW * 1000) -> None:
        """Take what is unsent."""
        with db.read() as tx:
            unsent = parcels.beyond(tx, uplink.stream.sent, most)
        kept = self.streams.setdefault(uplink.stream.name, [])
        for each in unsent:
            assert uplink.stream.in_stream(each.number) == len(kept) + 1
            assert uplink.stream.digest == (kept[-1] if kept else b"")
            kept.append(chained(uplink.stream.digest, each.body, uplink.notes_of(each)))
            uplink.on_taken(each, kept[-1], at, at)
            with db.write() as tx:
                uplink.write_sent(tx)
            uplink.on_committed()

    def lose(self, name: str, number: int) -> None:
        """Go back to an older state."""
        del self.streams[name][number:]

    def open(self, uplink: Uplink) -> bool:
        """Let the uplink go by it; return False if a new stream has begun."""
        name, was_unknown = uplink.stream.name, uplink.stream.name not in self.streams
        kept = self.streams.setdefault(name, [])
        end = HubEnd(len(kept), kept[-1] if kept else b"", was_unknown)
        return uplink.go_by(end, self.confirm, NOW * 1000, NOW * 1000)

    def confirm(self, sent: Sequence[SentParcel]) -> set[int]:
        return {
            each.number for each in sent if each.digest in self.streams.get(each.stream, [])[each.in_stream - 1 :][:1]
        }


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


def unsent(db: Database, uplink: Uplink) -> list[int]:
    with db.read() as tx:
        return [each.number for each in parcels.beyond(tx, uplink.stream.sent, 1_000)]


def add_parcels(db: Database, uplink: Uplink, first: int, last: int) -> None:
    for event in notes(last)[first:]:
        accept(db, [event], NOW)
        pack_all(db, uplink)


def begun(db: Database, hub: FakeHub, count: int) -> Uplink:
    """An uplink with so many parcels, all unsent."""
    uplink = Uplink(db)
    assert hub.open(uplink)
    add_parcels(db, uplink, 0, count)
    return uplink


def forget(db: Database, uplink: Uplink, most: int, after: int = KEPT_MS + 1) -> None:
    """Drop sent parcels, later than they were sent."""
    with db.write() as tx:
        uplink.forget_sent(tx, NOW * 1000 + after, NOW * 1000 + after, most)


def loss(db: Database) -> hub_losses.Loss:
    with db.read() as tx:
        return hub_losses.newest(tx)


def test_hub_that_went_back_gets_again_what_it_lost(db: Database, hub: FakeHub) -> None:
    uplink = begun(db, hub, 5)
    hub.take(db, uplink)
    assert (hub.open(uplink), unsent(db, uplink)) == (True, [])
    hub.lose(uplink.stream.name, 2)
    assert (hub.open(uplink), unsent(db, uplink)) == (True, [3, 4, 5])
    hub.take(db, uplink)
    assert (hub.open(uplink), unsent(db, Uplink(db))) == (True, [])


def test_answer_that_never_came_is_made_up_for(db: Database, hub: FakeHub) -> None:
    uplink = begun(db, hub, 3)
    hub.take(db, Uplink(db), 2)
    assert uplink.stream.sent == 0
    assert (hub.open(uplink), unsent(db, uplink)) == (True, [3])
    hub.take(db, uplink)


def test_hub_that_lacks_what_is_not_kept_gets_the_rest(db: Database, hub: FakeHub) -> None:
    uplink = begun(db, hub, 6)
    hub.take(db, uplink, 5)
    name = uplink.stream.name
    with db.write() as tx:
        tx.execute("UPDATE sent_parcels SET sent_at = sent_at - 100000 WHERE number <= 2")
    forget(db, uplink, 2)
    forget(db, uplink, 2)
    hub.lose(name, 2)
    assert not hub.open(uplink)
    assert uplink.stream.name != name
    assert uplink.stream.predecessor == name
    assert (loss(db).after_event, loss(db).until_event, loss(db).is_settled) == (2, 4, 0)
    assert hub.open(uplink)
    assert unsent(db, uplink) == [5, 6]
    add_parcels(db, uplink, 6, 7)
    with db.read() as tx:
        assert [uplink.notes_of(each) for each in parcels.beyond(tx, 4, 9)] == [b""] * 3, "they vouch for what is lost"
        doubt = runs.last_doubt(tx)
    assert doubt is not None
    assert doubt.since == NOW * 1000
    hub.take(db, uplink)
    uplink.settle()
    add_parcels(db, uplink, 7, 8)
    with db.read() as tx:
        assert uplink.notes_of(parcels.beyond(tx, 7, 1)[0]) != b""
    assert loss(db).is_settled


def test_hub_that_knows_nothing_is_a_loss_from_the_first_parcel_on(db: Database, hub: FakeHub) -> None:
    uplink = begun(db, hub, 6)
    hub.take(db, uplink)
    forget(db, uplink, 4)
    hub.streams.clear()
    assert not hub.open(uplink)
    assert (loss(db).after_event, loss(db).until_event) == (0, 4)
    assert (hub.open(uplink), unsent(db, uplink)) == (True, [5, 6])


def test_hub_that_knows_no_stream_but_all_is_kept_is_no_loss(db: Database, hub: FakeHub) -> None:
    uplink = begun(db, hub, 3)
    hub.take(db, uplink)
    hub.streams.clear()
    assert not hub.open(uplink)
    assert loss(db).is_settled
    assert (hub.open(uplink), unsent(db, uplink)) == (True, [1, 2, 3])


def test_new_stream_that_the_hub_forgot_brings_what_was_sent_before(db: Database, hub: FakeHub) -> None:
    uplink = begun(db, hub, 3)
    first = uplink.stream.name
    hub.take(db, uplink)
    before = {name: list(kept[:1]) for name, kept in hub.streams.items()}
    hub.streams[first][2] = b"other"
    assert not hub.open(uplink)
    assert hub.open(uplink)
    hub.take(db, uplink)
    hub.streams = before
    assert not hub.open(uplink)
    assert (hub.open(uplink), unsent(db, uplink)) == (True, [2, 3])


def test_database_that_went_back_begins_a_new_stream_with_what_it_keeps(db: Database, hub: FakeHub) -> None:
    uplink = begun(db, hub, 3)
    hub.take(db, uplink, 2)
    forget(db, uplink, 1)
    hub.streams[uplink.stream.name] += [b"x", b"y"]
    assert not hub.open(uplink)
    assert hub.open(uplink)
    assert unsent(db, uplink) == [3], "the two have the first two in common"
    accept(db, notes(4)[3:], complete_until=NOW)
    (packed,) = pack_all(db, uplink)
    assert (len(packed.events), len(packed.notes.cursors)) == (1, 1)
    assert Uplink(db).stream == uplink.stream
    assert loss(db).is_settled


def test_number_with_another_parcel_is_never_taken_for_the_same(db: Database, hub: FakeHub) -> None:
    """Both lost their last commits: this host made other parcels since, and so did the hub."""
    uplink = begun(db, hub, 4)
    hub.take(db, uplink, 2)
    hub.streams[uplink.stream.name] += [b"another third"]
    assert not hub.open(uplink)
    assert (hub.open(uplink), unsent(db, uplink)) == (True, [3, 4])


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
    assert unsent(db, uplink) == [1]


def kept(db: Database) -> list[int]:
    with db.read() as tx:
        return [each.number for each in parcels.beyond(tx, 0, 1_000)]


def test_sent_parcels_are_forgotten_a_few_at_a_time(db: Database, hub: FakeHub) -> None:
    uplink = begun(db, hub, 5)
    hub.take(db, uplink, 4)
    forget(db, uplink, 3)
    assert kept(db) == [4, 5]
    forget(db, uplink, 3)
    assert kept(db) == [5]


@pytest.mark.parametrize("ahead", ["hub", "here"])
def test_clock_that_is_ahead_forgets_nothing(db: Database, hub: FakeHub, ahead: str) -> None:
    uplink = begun(db, hub, 2)
    hub.take(db, uplink)
    later = NOW * 1000 + 10 * KEPT_MS
    with db.write() as tx:
        now, hub_now = (NOW * 1000, later) if ahead == "hub" else (later, NOW * 1000)
        uplink.forget_sent(tx, now, hub_now, 10)
    assert kept(db) == [1, 2]


def test_row_of_each_minute_stays_of_what_is_forgotten(db: Database, hub: FakeHub) -> None:
    uplink = begun(db, hub, 100)
    second = MARK_EVERY_MS // 10
    for number in range(100):
        at = NOW * 1000 + number * second
        hub.take(db, uplink, 1, at)
        with db.write() as tx:
            uplink.forget_sent(tx, at + KEPT_MS + 1, at + KEPT_MS + 1, 50)
    with db.read() as tx:
        marks = [(each.number, each.sent_at) for each in parcels.newest_sent(tx, 1_000)]
    assert marks[0][0] == 100, "the newest always"
    assert 10 <= len(marks) <= 22
    gaps = [newer - older for (_, newer), (_, older) in pairwise(marks)]
    assert max(gaps) <= 2 * MARK_EVERY_MS
