"""The intake with a real database: only what is wanted, new and genuine gets in, and no cursor goes ahead of it."""

import operator
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from pipeline.crawl import ingester as intake_module
from pipeline.crawl.ingester import (
    BATCH_EVENTS,
    NOVEL_EVERY_S,
    TRANSACTION_BYTES,
    TRANSACTION_EVENTS,
    Batch,
    Ingester,
    SeenIdCache,
)
from pipeline.crawl.sync.costs import Verified
from pipeline.crawl.sync.planner import Planner
from pipeline.nostr.event import Event, event_from_json, public_key, sign
from pipeline.process.clock import ManualClock
from pipeline.process.metrics import Metrics
from pipeline.process.slots import Slot
from pipeline.rules.acceptance import MAX_FUTURE_S, EventLimits
from pipeline.rules.relevance import Wanted
from pipeline.store import cursors, events, inbox, relay_candidates, relay_records, relay_status, relays
from pipeline.store.counters import StageCounters
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database, Row
from pipeline.store.database_errors import DatabaseFailed
from pipeline.store.events import Accepted
from pipeline.store.lease import DeadLetter
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.schema import open_database
from pipeline.store.wanted_authors import Change, WantedChanges

NOW_MS = 1_700_000_000_000
NOW = NOW_MS // 1000
SECRETS = [bytes([n]) * 32 for n in range(1, 5)]
ALICE, BOB, *_ = map(public_key, SECRETS)
LIMITS = EventLimits(bytes=2_000, tags=20)


def note(
    content: str = "hello", *, by: int = 0, kind: int = 1, at: int = NOW, tags: Sequence[Sequence[str]] = ()
) -> Event:
    return sign(SECRETS[by], created_at=at, kind=kind, tags=[list(tag) for tag in tags], content=content)


def forged_signature(event: Event) -> Event:
    return replace(event, sig=bytes([event.sig[0] ^ 1]) + event.sig[1:])


def forged_content(event: Event) -> Event:
    return replace(event, content="something else")


def wanted(generation: int, *keys: bytes, gone: Sequence[bytes] = ()) -> WantedChanges:
    authors = [Change(key, key not in gone, NOW_MS, generation) for key in (*keys, *gone)]
    return WantedChanges(generation, tuple(authors), ())


def after(planner: Planner, changes: WantedChanges) -> Wanted:
    has_ceased = planner.apply(changes)
    return planner.wanted(planner.plan(), has_ceased=has_ceased)


class Desk:
    """An intake on a file of its own, and what became of what was handed to it."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock = path, ManualClock(NOW_MS)
        self.metrics = Metrics()
        self.db = open_database(path, self.clock)
        counters = StageCounters(Slot("crawler", 0), self.metrics)
        self.told: list[int] = []
        """How many rows there were each time that new ones were reported."""
        self.ingester = Ingester(
            lambda: open_database(path, self.clock), LIMITS, self.clock, counters,
            on_new=lambda: self.told.append(len(self.rows())),
        )  # fmt: skip
        self.planner = Planner()
        self.want(wanted(1, ALICE, BOB))

    def want(self, changes: WantedChanges) -> None:
        """Let the intake follow a change as a crawler does."""
        self.ingester.update_relevance(after(self.planner, changes))

    def take(self, *batches: Batch | WantedChanges) -> None:
        """Hand everything over, and let the intake work until it has none left."""
        for batch in batches:
            if isinstance(batch, Batch):
                self.ingester.submit(batch)
            else:
                self.want(batch)
        self.ingester.finish()
        self.ingester.run()

    def one_by_one(self, *batches: Batch | WantedChanges) -> None:
        """Each in a transaction of its own."""
        for batch in batches:
            self.take(batch)

    def rows(self) -> list[bytes]:
        with self.db.read() as tx:
            found: list[Row] = tx.execute(
                "SELECT payload FROM inbox JOIN payloads USING (event) ORDER BY seq"
            ).fetchall()
        return [raw for (raw,) in found]

    def cursors(self) -> list[Cursor]:
        with self.db.read() as tx:
            return cursors.of_relay(tx, 1)

    def counted(self) -> Counter[str]:
        """Discarded by reason, and what came in and went out."""
        counts: Counter[str] = Counter()
        for family in self.metrics.registry.collect():
            for sample in family.samples:
                if sample.labels.get("stage") == "crawler" and sample.name.endswith("_total"):
                    name = sample.name.removeprefix("event_service_stage_").removesuffix("_total")
                    counts[sample.labels.get("reason", name)] += int(sample.value)
        return +counts


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "events.db")
    yield desk
    desk.db.close()


def batch(*found: Event, relay: int = 1) -> Batch:
    return Batch(relay, NOW_MS, tuple(found))


def test_new_events_are_reported_once_they_are_committed(desk: Desk) -> None:
    desk.one_by_one(batch(note("a")), batch(note("a")), batch(), batch(note("b"), note("c")))
    assert desk.told == [1, 3]


def test_database_beyond_its_bound_takes_nothing_of_strangers(desk: Desk) -> None:
    profiles = [note("{}", by=by, kind=0) for by in range(len(SECRETS))]
    strangers = [each for each in profiles if each.pubkey not in (ALICE, BOB)]
    assert strangers
    desk.ingester.has_room_for_strangers = False
    desk.one_by_one(batch(*profiles, note("a"), note(kind=3, tags=[["p", "a" * 64]])))
    assert len(desk.rows()) == len(profiles) - len(strangers) + 2
    assert desk.counted()["database-full"] == len(strangers)
    desk.ingester.has_room_for_strangers = True
    desk.one_by_one(batch(*strangers))
    assert len(desk.rows()) == len(profiles) + 2, "they are not taken for known"


def test_a_genuine_wanted_event_gets_in_as_canonical_json(desk: Desk) -> None:
    event = note("ünï\n\x7f", tags=[["p", "x"], ["-"]])
    desk.take(Batch(9, NOW_MS + 5, (event,)))
    (raw,) = desk.rows()
    assert raw == event.to_json()
    assert event_from_json(raw) == event
    with desk.db.read() as tx:
        assert tx.execute("SELECT event_id, relay, received_at, ready_at, claims FROM inbox").fetchall() == [
            (event.id, 9, NOW_MS + 5, NOW_MS + 5, 0)
        ]
    assert event.id in desk.ingester.committed
    assert desk.counted() == {"in": 1, "out": 1}


@pytest.mark.parametrize("forge", [forged_signature, forged_content])
@pytest.mark.parametrize("together", ["batch", "transaction", "later"])
def test_a_forged_copy_that_comes_first_does_not_shadow_the_true_event(
    desk: Desk, forge: "type[object]", together: str
) -> None:
    event = note()
    false: Event = forge(event)  # type: ignore[assignment,call-arg]  # a function, which parametrize types loosely
    match together:
        case "batch":
            desk.take(batch(false, event, false))
        case "transaction":
            desk.take(batch(false), batch(event, relay=2), batch(false, relay=3))
        case _:
            desk.one_by_one(batch(false), batch(event), batch(false))
    assert desk.rows() == [event.to_json()]
    counted = desk.counted()
    reason = "invalid-signature" if forge is forged_signature else "invalid-hash"
    assert counted == {"in": 3, "out": 1, reason: 1, "duplicate": 1}


def test_an_event_whose_id_is_not_its_hash_is_refused(desk: Desk) -> None:
    event = note()
    desk.take(batch(replace(event, id=bytes(32)), forged_content(event), forged_signature(event)))
    assert desk.rows() == []
    assert desk.counted() == {"in": 3, "invalid-hash": 2, "invalid-signature": 1}
    assert event.id not in desk.ingester.committed


def test_each_event_gets_in_once_however_often_and_whoever_brings_it(desk: Desk) -> None:
    first, second = note("first"), note("second")
    desk.take(batch(first, first, second), batch(second, first, relay=2))
    desk.take(batch(first, second, relay=3))
    assert len(desk.rows()) == 2
    assert desk.counted() == {"in": 7, "out": 2, "duplicate": 5}


def test_what_other_processes_have_had_is_known(desk: Desk) -> None:
    """An event may wait in the inbox, be seen, or lie buried."""
    waiting, seen, buried, fresh = (note(text) for text in ("waiting", "seen", "buried", "fresh"))
    with desk.db.write() as tx:
        inbox.append(tx, [inbox.Arrival(buried.id, b"", 1, NOW_MS, NOW)])
        (row,) = inbox.claim(tx, now=NOW_MS, lease=1, limit=9)
        inbox.queue.dead_letter(tx, [DeadLetter(row.receipt, "broken")], NOW_MS)
        inbox.append(tx, [inbox.Arrival(waiting.id, b"waiting", 1, NOW_MS, NOW)])
        events.accept(tx, [Accepted(99, seen.id, NOW, 1, 1, b"", 1, NOW_MS, 0)], NOW_MS)
    desk.take(batch(waiting, seen, buried, fresh))
    assert desk.rows() == [b"waiting", fresh.to_json()]
    assert desk.counted() == {"in": 4, "out": 1, "duplicate": 3}
    assert all(event.id in desk.ingester.committed for event in (waiting, seen, buried, fresh))


def test_an_unwanted_event_is_never_known_so_that_it_can_come_in_later(desk: Desk) -> None:
    carol = note(by=2)
    desk.one_by_one(batch(carol))
    assert desk.rows() == []
    assert carol.id not in desk.ingester.committed
    desk.one_by_one(wanted(2, carol.pubkey), batch(carol))
    assert desk.rows() == [carol.to_json()]
    assert desk.counted() == {"in": 2, "unwanted": 1, "out": 1}


@pytest.mark.parametrize("noticed", [True, False])
def test_event_dropped_by_the_saver_returns_once_its_author_is_back(desk: Desk, noticed: bool) -> None:
    """Its author was not wanted for a moment, in which the saver dropped it, whether this process noticed or not."""
    event = note()
    desk.take(batch(event))
    with desk.db.write() as tx:
        inbox.queue.ack(tx, [row.receipt for row in inbox.claim(tx, now=NOW_MS, lease=1, limit=9)])
    if noticed:
        desk.take(wanted(2, gone=[ALICE]))
    desk.take(wanted(3, ALICE), batch(event))
    assert desk.rows() == [event.to_json()]


def test_changes_hold_for_what_is_handed_over_after_them(desk: Desk) -> None:
    carol = note(by=2)
    desk.take(wanted(2, carol.pubkey), batch(carol), wanted(3, gone=[carol.pubkey]), batch(note("late", by=2)))
    assert desk.rows() == [carol.to_json()]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (note("x" * 2_000), "too-large"),
        (note(tags=[["t", "x"]] * 21), "too-many-tags"),
        (note(at=NOW + MAX_FUTURE_S + 1), "future"),
    ],
)
def test_what_must_not_be_saved_is_counted_by_its_reason(desk: Desk, event: Event, reason: str) -> None:
    desk.take(batch(event))
    assert desk.rows() == []
    assert desk.counted() == {"in": 1, reason: 1}
    assert event.id not in desk.ingester.committed


def sized(size: int) -> Event:
    return note("x" * (size - len(note("").to_json())))


@pytest.mark.parametrize(
    "event",
    [
        sized(LIMITS.bytes),
        note(tags=[["t", "x"]] * 20),
        note(at=NOW + MAX_FUTURE_S),
        note(at=0),
        note(tags=[["expiration", str(NOW)]]),
        note(tags=[["expiration", "1"]]),
        note(tags=[["expiration", "soon"]]),
    ],
)
def test_what_just_fits_is_saved(desk: Desk, event: Event) -> None:
    desk.take(batch(event))
    assert desk.rows() == [event.to_json()]


def test_one_byte_more_than_fits_is_too_large(desk: Desk) -> None:
    desk.take(batch(sized(LIMITS.bytes + 1)))
    assert desk.counted() == {"in": 1, "too-large": 1}


def test_a_cursor_is_committed_with_the_events_before_it_or_after_them(desk: Desk) -> None:
    """The database itself refuses a cursor that would come first."""
    last = note("last")
    with desk.db.write() as tx:
        tx.execute(
            "CREATE TRIGGER guard BEFORE INSERT ON cursors WHEN NOT EXISTS"
            f" (SELECT 1 FROM inbox WHERE event_id = x'{last.id.hex()}')"
            " BEGIN SELECT RAISE(ABORT, 'the cursor came first'); END"
        )
    cursor = Cursor(1, "global/", NOW, 0)
    many = [batch(*(note(f"{n} {m}") for m in range(40))) for n in range(7)]
    desk.take(*many, Batch(1, NOW_MS, (last,)), Batch(1, NOW_MS, cursors=(cursor,)))
    assert len(desk.rows()) == 281
    assert desk.cursors() == [cursor]


def test_an_error_of_the_database_ends_the_work_and_moves_nothing(desk: Desk) -> None:
    """The supervisor begins the process anew, which fetches again from the cursor."""
    with desk.db.write() as tx:
        tx.execute("CREATE TRIGGER full BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'no more'); END")
    event, cursor = note(), Cursor(1, "global/", NOW, 0)
    desk.ingester.submit(Batch(1, NOW_MS, (event,), (cursor,)))
    desk.ingester.finish()
    with pytest.raises(apsw.ConstraintError):
        desk.ingester.run()
    assert (desk.rows(), desk.cursors()) == ([], [])
    assert event.id not in desk.ingester.committed


def test_a_database_that_cannot_be_written_ends_the_work(tmp_path: Path) -> None:
    clock = ManualClock(NOW_MS)

    def small() -> Database:
        database = open_database(tmp_path / "events.db", clock)
        database.pragma("max_page_count", int(database.pragma("page_count")))
        return database

    ingester = Ingester(small, EventLimits(10**6, 10), clock, StageCounters(Slot("crawler", 0), Metrics()))
    ingester.update_relevance(after(Planner(), wanted(1, ALICE)))
    ingester.submit(batch(note("x" * 500_000)))
    ingester.finish()
    with pytest.raises(DatabaseFailed):
        ingester.run()


def test_statuses_and_limits_travel_with_the_events(desk: Desk) -> None:
    with desk.db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example"], NOW_MS)
        relay_status.start_crawling(tx, [1], NOW_MS)
    status = RelayStatus(1, "wss://a.example", RelayState.CONNECTED, NOW_MS, 3, 0, 0, 0, "")
    desk.take(Batch(1, NOW_MS, status=status), Batch(1, NOW_MS, limits='{"max_pages":1}'))
    with desk.db.read() as tx:
        assert relay_status.statuses(tx) == [status]
        assert relay_candidates.candidates(tx, discovered=False, limit=9)[0].limits == '{"max_pages":1}'


def test_what_is_submitted_together_is_committed_together(desk: Desk) -> None:
    """However often the intake looks while the reactor is at its turns."""
    committed: list[int] = []
    desk.ingester.submit(
        *(Batch(1, NOW_MS, (note(f"{n}"),), taken=lambda: committed.append(len(desk.rows()))) for n in range(3))
    )
    desk.take()
    assert committed == [0, 0, 0]
    assert len(desk.rows()) == 3


def test_every_batch_is_released_whatever_was_in_it(desk: Desk) -> None:
    released: list[int] = []
    batches = [
        Batch(1, NOW_MS, found, taken=lambda number=number: released.append(number))  # type: ignore[misc]
        # (a default argument binds the loop's variable, which mypy cannot infer)
        for number, found in enumerate([(), (note(by=2),), (forged_content(note()),), (note(),), (note(),)])
    ]
    desk.take(*batches)
    assert released == [0, 1, 2, 3, 4]


def test_a_transaction_takes_what_has_queued_but_only_so_much(desk: Desk) -> None:
    """Others wait for the write lock meanwhile."""
    committed: list[int] = []
    total = TRANSACTION_EVENTS * 2
    found = [note(str(number)) for number in range(total)]
    desk.take(
        *(
            Batch(1, NOW_MS, tuple(found[n : n + BATCH_EVENTS]), taken=lambda: committed.append(len(desk.rows())))
            for n in range(0, total, BATCH_EVENTS)
        )
    )
    sizes = [size for size in map(operator.sub, [*committed[1:], len(desk.rows())], committed) if size]
    assert sum(sizes) == total
    assert max(sizes) < TRANSACTION_EVENTS + BATCH_EVENTS
    assert len(sizes) <= 3, "what has queued goes together"


def test_remembered_ids_are_bounded_and_the_newest_stay() -> None:
    ids = SeenIdCache(most=10)
    for number in range(25):
        ids.add_all([number.to_bytes(32), (number // 2).to_bytes(32)])
    assert all(number.to_bytes(32) in ids for number in range(20, 25))
    assert (0).to_bytes(32) not in ids
    assert sum(number.to_bytes(32) in ids for number in range(25)) == 10
    assert 7 not in ids
    ids.clear()
    assert (24).to_bytes(32) not in ids


def test_ids_are_forgotten_before_a_relay_is_asked_for_who_came_back(desk: Desk) -> None:
    """Readers look at them while the intake still works on what came before."""
    desk.ingester.committed.add_all([bytes(32)])
    desk.want(wanted(2, SECRETS[0]))
    assert bytes(32) in desk.ingester.committed
    desk.want(wanted(3, gone=[ALICE]))
    assert bytes(32) not in desk.ingester.committed


def test_what_nobody_wants_waits_for_no_writer(desk: Desk) -> None:
    """A relay that is asked for everything sends little else."""
    strangers = [note(f"{n}", by=2) for n in range(5)]

    def submit(*found: Event) -> None:
        taken = threading.Event()
        desk.ingester.submit(Batch(1, NOW_MS, found, taken=taken.set))
        assert taken.wait(60.0), "what was submitted before is dealt with"

    worker = threading.Thread(target=desk.ingester.run)
    worker.start()
    try:
        # The first commits in any case, for what was counted.
        submit()
        submit()
        with desk.db.write() as tx:
            assert tx.execute("SELECT count(*) FROM inbox").get == 0
            submit(*strangers)
            submit()
    finally:
        desk.ingester.finish()
        worker.join()
    assert desk.counted()["unwanted"] == 5


def test_readers_learn_what_the_verification_of_their_events_found(desk: Desk) -> None:
    """By relay, all of a transaction together; what is known, unwanted or unreadable costs nothing."""
    found: list[tuple[int, Verified]] = []

    def of(relay: int, *events: Event) -> Batch:
        return Batch(relay, NOW_MS, events, verified=lambda verified: found.append((relay, verified)))

    strange = note("a stranger", by=3, kind=0)
    profile = note("alice", kind=0)
    desk.ingester.submit(
        of(1, forged_signature(note("1")), strange, profile, note("unwanted", by=3)),
        of(2, strange, forged_content(note("2")), note("3", at=NOW + 10**6)),
        of(1, forged_content(note("4"))),
    )
    desk.take(of(2, strange))
    assert found == [(1, Verified(2, 2, 1, len(strange.to_json()))), (2, Verified(0, 1, 0, 0))]
    desk.clock.advance(NOVEL_EVERY_S)
    with desk.db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example"], NOW_MS)
    desk.take(batch(note("5")))
    with desk.db.read() as tx:
        (record,) = relay_records.records(tx, everything=True, limit=9)
    assert (record.forged, record.stranger_bytes) == (2, len(strange.to_json()))


def test_many_forgeries_are_written_down_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay may be cut off for them before anything else comes."""
    monkeypatch.setattr(intake_module, "MANY_FORGERIES", 3)
    with desk.db.write() as tx:
        relays.set_bootstrap(tx, ["wss://a.example"], NOW_MS)
    desk.take(batch(*(forged_content(note(f"{n}")) for n in range(3))))
    with desk.db.read() as tx:
        (record,) = relay_records.records(tx, everything=True, limit=9)
    assert record.forged == 3


def test_large_events_share_a_transaction_only_up_to_its_bytes(desk: Desk) -> None:
    committed: list[int] = []
    desk.take(
        *(
            Batch(1, NOW_MS, (note(f"{n}"),), taken=lambda: committed.append(len(desk.rows())), size=TRANSACTION_BYTES)
            for n in range(3)
        )
    )
    assert committed == [0, 1, 2]
