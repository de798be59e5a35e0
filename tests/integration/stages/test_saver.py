"""The saver stage: what it hands on, what it puts aside, and what it survives."""

import contextlib
import json
import random
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import apsw
import pytest

from pipeline.nostr.event import Event, event_from_stored
from pipeline.nostr.extract import Candidate, relay_candidates
from pipeline.nostr.tags import expiration
from pipeline.process.backoff import Backoff
from pipeline.process.clock import ManualClock
from pipeline.process.doorbell import Doorbell
from pipeline.process.logs import get_logger
from pipeline.process.stage import StageContext
from pipeline.saver import event_processor
from pipeline.saver.event_processor import EventProcessor
from pipeline.store import contact_slices, contacts, inbox, sinks, users
from pipeline.store.authors import Authors
from pipeline.store.commit_watch import POLL_S
from pipeline.store.contacts import KeyedList
from pipeline.store.database import Database, Tx
from pipeline.store.database_errors import DatabaseFailed
from pipeline.store.lease import LeaseQueue, Receipt
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinksChanged
from pipeline.store.users import Signed
from stages import saver
from tests.factories.events import Author, SignedEvent, authors
from tests.fakes.service import EventService
from tests.integration.stages.support import NOW, PATIENCE_S, Running, World, arrival, dying_after, wait_until
from tests.support.seeds import seeds
from tests.support.spans import Recorder

ALICE, BOB, CAROL, DAVE = authors(41, 4)
TARGET = "ws://127.0.0.9:9"


def profiles(count: int, *, first: int = 0, size: int | None = None) -> list[SignedEvent]:
    """Different events that are relevant whoever wrote them."""
    return [
        ALICE.sign(f"{number}", kind=0, created_at=NOW + number, size=size) for number in range(first, first + count)
    ]


def wait_started(world: World) -> None:
    """Return once a saver that was just started saves what comes."""
    world.put([ALICE.sign("first", kind=0, created_at=NOW - 1)])
    world.wait_saved()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once, and looked for all the time."""
    monkeypatch.setattr(saver, "_RETRY", Backoff(base_s=0.001, factor=1.0, cap_s=0.001))
    monkeypatch.setattr(saver, "_IDLE_S", POLL_S)


def break_over(monkeypatch: pytest.MonkeyPatch, ids: set[str], error: BaseException) -> None:
    """Let the saver fail with `error` over these events, in the middle of its transaction."""

    def breaks(event: Event) -> int | None:
        if event.id.hex() in ids:
            raise error
        return expiration(event)

    monkeypatch.setattr(event_processor, "expiration", breaks)


@pytest.mark.parametrize("kind", [5, 62])
def test_departure_found_on_a_relay_ends_the_registration_and_is_handed_on(world: World, kind: int) -> None:
    """The followees are wanted no longer."""
    key, signed = bytes.fromhex(ALICE.pubkey), Signed(b"\1" * 32, NOW)
    with world.database.write() as tx:
        users.register_signed(tx, key, signed, NOW * 1000)
    tags = [["e", "01" * 32]] if kind == 5 else [["relay", "ALL_RELAYS"]]
    event = ALICE.sign(kind=kind, tags=tags, created_at=NOW + 1)
    with Running(world.context("saver", {"EVENTS_TARGET_RELAY": TARGET}), saver.run):
        world.put([ALICE.contact_list([BOB, CAROL], NOW)])
        world.wait_saved()
        assert world.value("SELECT count(*) FROM wanted WHERE refs > 0") == 3
        world.put([event])
        world.wait_saved()
        assert world.value("SELECT count(*) FROM monitored WHERE removed_at IS NULL") == 0
        assert world.value("SELECT count(*) FROM wanted WHERE refs > 0") == 0
        assert event.id in {each.hex() for (each,) in world.query("SELECT event_id FROM events")}


def test_relevant_event_reaches_both_outboxes_an_irrelevant_one_none(world: World) -> None:
    profile, note = ALICE.sign("hi", kind=0, created_at=NOW), ALICE.sign("hi", kind=1, created_at=NOW)
    with Running(world.context("saver", {"EVENTS_TARGET_RELAY": TARGET}), saver.run) as running:
        world.put([profile, note])
        world.wait_saved()
    assert world.seen() == {profile.id}
    assert world.queued("pubsub") == world.queued("relay") == [profile.id]
    assert world.query("SELECT event_id, payload, sinks, relay FROM events JOIN payloads USING (event)") == [
        (bytes.fromhex(profile.id), profile.raw.encode(), 2, 1)
    ]
    count = running.metric
    assert count("event_service_stage_in_total", stage="saver") == 2
    assert count("event_service_stage_out_total", stage="saver") == 1
    assert count("event_service_stage_discarded_total", stage="saver", reason="irrelevant") == 1
    assert count("application_handler_calls_total", handlerName="saveReceivedEvent", result="success") == 2


def test_stages_that_have_work_by_a_commit_are_woken_and_no_other(world: World) -> None:
    """A profile is for both sinks, a relay list of its author for the crawlers too once its contacts are wanted."""
    bells = {stage: Doorbell.hang(world.path, f"{stage}-3") for stage in ("forwarder", "sender", "crawler")}

    def woken() -> set[str]:
        return {stage for stage, bell in bells.items() if bell.silence()}

    context = world.context("saver", {"EVENTS_TARGET_RELAY": TARGET})
    world.register(ALICE.pubkey)
    with Running(context, saver.run):
        world.put([ALICE.sign("hi", kind=0, created_at=NOW)])
        bells["sender"].wait(context.stop, PATIENCE_S)
    assert woken() == {"forwarder", "sender"}
    context = world.context("saver", {"EVENTS_TARGET_RELAY": TARGET})
    with Running(context, saver.run):
        world.put([ALICE.sign("hi", kind=1, created_at=NOW)])
        bells["forwarder"].wait(context.stop, PATIENCE_S)
    assert woken() == {"forwarder"}
    context = world.context("saver", {"EVENTS_TARGET_RELAY": TARGET})
    with Running(context, saver.run):
        world.put([ALICE.contact_list([BOB, CAROL], NOW)])
        bells["crawler"].wait(context.stop, PATIENCE_S)
    assert woken() == {"forwarder", "sender", "crawler"}
    context = world.context("saver", {"EVENTS_TARGET_RELAY": TARGET})
    with Running(context, saver.run):
        world.put([DAVE.sign("nobody asked", kind=1, created_at=NOW)])
        world.wait_saved()
    assert woken() == set()
    for bell in bells.values():
        bell.close()


def test_it_is_saved_as_soon_as_it_is_committed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the next look at rows whose time has come."""
    monkeypatch.setattr(saver, "_IDLE_S", 10 * PATIENCE_S)
    with Running(world.context("saver"), saver.run):
        for event in profiles(5):
            world.put([event])
            wait_until(lambda: world.inbox_size() == 0)


def test_without_sinks_nothing_is_queued(world: World) -> None:
    """Contacts and ids are kept all the same; payloads that nobody is owed are not."""
    contact_list = ALICE.contact_list([BOB, CAROL], NOW)
    with Running(world.context("saver", {"EVENTS_SINK": "none"}), saver.run):
        world.put([contact_list, *profiles(5)])
        world.wait_saved()
    assert len(world.seen()) == 6
    assert world.value("SELECT count(*) FROM contacts") == 2
    assert world.value("SELECT count(*) FROM outbox") == world.value("SELECT count(*) FROM events") == 0


def test_only_the_target_relay_as_a_sink(world: World) -> None:
    """Payloads are kept for what it is owed, and for nothing else."""
    profile, relayed = profiles(1)[0], ALICE.sign("", kind=2, created_at=NOW)
    context = world.context("saver", {"EVENTS_SINK": "none", "EVENTS_TARGET_RELAY": TARGET})
    with Running(context, saver.run) as running:
        world.put([profile, relayed])
        world.wait_saved()
    assert world.queued("relay") == [profile.id]
    assert world.query("SELECT sinks FROM events") == [(1,)]
    ignored = {"address": TARGET, "decision": "ignore", "result": "success"}
    assert running.metric("events_sent_to_relay_counter_total", **ignored) == 1


def test_what_is_not_for_the_target_relay_counts_as_ignored(world: World) -> None:
    """One count for each event that was accepted and is not sent, by its kind or form; repeats do not count."""
    world.register(ALICE.pubkey)
    sent = [ALICE.sign("", kind=kind, created_at=NOW) for kind in (0, 3, 10002)]
    not_sent = [ALICE.sign("", kind=kind, created_at=NOW) for kind in (1, 2, 7, 30023)]
    not_sent.append(ALICE.sign("", kind=0, created_at=NOW, tags=[["-"]]))
    not_sent.append(ALICE.sign("", kind=0, created_at=NOW, tags=[["expiration", "5"]]))
    not_sent.append(ALICE.sign("", kind=3, created_at=NOW - 1, tags=[["p", "x"]] * 3001))
    not_sent.append(ALICE.sign("", kind=0, created_at=NOW, size=200_000))
    with Running(world.context("saver", {"EVENTS_TARGET_RELAY": TARGET}), saver.run) as running:
        world.put([*sent, *not_sent])
        world.wait_saved()
        world.put(sent + not_sent)
        world.wait_saved()
    assert world.queued("relay") == sorted(event.id for event in sent)
    assert world.queued("pubsub") == sorted(event.id for event in sent + not_sent)
    ignored = {"address": TARGET, "decision": "ignore", "result": "success"}
    assert running.metric("events_sent_to_relay_counter_total", **ignored) == len(not_sent)
    reasons = ("kind", "protected", "expired", "too-many-tags", "too-large")
    counts = [running.metric("event_service_sink_ignored_total", sink="relay", reason=reason) for reason in reasons]
    assert counts == [4, 1, 1, 1, 1]


def test_a_contact_list_decides_about_its_own_batch(world: World) -> None:
    """Whatever the order in which they came."""
    world.register(ALICE.pubkey)
    before, contact_list, after = (
        BOB.sign("1", created_at=NOW),
        ALICE.contact_list([BOB], NOW),
        BOB.sign("2", created_at=NOW),
    )
    stranger = CAROL.sign("3", created_at=NOW)
    with Running(world.context("saver"), saver.run):
        world.put([before, contact_list, after, stranger])
        world.wait_saved()
    assert world.seen() == {before.id, contact_list.id, after.id}


def test_an_unwanted_event_comes_in_once_its_author_is_wanted(world: World) -> None:
    note = BOB.sign("early", created_at=NOW)
    with Running(world.context("saver"), saver.run):
        world.put([note])
        world.wait_saved()
        assert world.seen() == set()
        world.register(BOB.pubkey)
        assert world.put([note]) == {note.id}
        world.wait_saved()
    assert world.seen() == {note.id}


def test_a_deleted_contact_list_does_not_come_back(world: World) -> None:
    """Its late copy from another relay is not followed, whichever came first; Pub/Sub gets it all the same."""
    world.register(ALICE.pubkey)
    contact_list = ALICE.contact_list([BOB], NOW)
    deletion = ALICE.sign("", kind=5, created_at=NOW + 1, tags=[["e", contact_list.id]])
    with Running(world.context("saver"), saver.run):
        for event in (deletion, contact_list):
            world.put([event])
            world.wait_saved()
    assert world.seen() == {deletion.id, contact_list.id}
    assert world.value("SELECT count(*) FROM contacts") == 0
    assert world.value("SELECT count(*) FROM wanted WHERE refs > 0") == 1


def test_old_version_at_a_deleted_address_is_retracted(world: World) -> None:
    """A copy of an old version, which another relay still has; what was written since is not."""
    world.register(ALICE.pubkey)
    old, new, elsewhere = (
        ALICE.sign("", kind=30023, created_at=NOW + age, tags=[["d", identifier]])
        for age, identifier in ((0, "article"), (2, "article"), (0, "other"))
    )
    address = f"30023:{ALICE.pubkey}:article"
    foreign = BOB.sign("", kind=5, created_at=NOW + 5, tags=[["a", address], ["p", ALICE.pubkey]])
    deletion = ALICE.sign("", kind=5, created_at=NOW + 1, tags=[["a", address]])
    with Running(world.context("saver"), saver.run):
        for event in (foreign, deletion, old, new, elsewhere):
            world.put([event])
            world.wait_saved()
    assert world.seen() == {foreign.id, deletion.id, old.id, new.id, elsewhere.id}
    assert world.query("SELECT event_id, retracted FROM events WHERE retracted IS NOT NULL") == [
        (bytes.fromhex(old.id), "deleted")
    ]


def test_where_authors_write_and_read_is_known_by_their_newest_list(world: World) -> None:
    """Whatever order their lists come in, until they are taken back; one relay under two schemes is one."""

    def listed() -> dict[str, tuple[set[str], set[str]]]:
        urls: dict[int, str] = dict(world.query("SELECT id, address FROM relays"))
        rows = world.query(
            "SELECT lower(hex(public_key)), writes, reads FROM relay_lists JOIN authors ON authors.id = author"
        )
        return {key: tuple({urls[int(each)] for each in text.split(",") if each} for text in both)  # type: ignore[misc]
                for key, *both in rows}  # fmt: skip

    old = ALICE.sign("", kind=10002, created_at=NOW - 10, tags=[["r", "wss://old.example"]])
    tags = [["r", "wss://both.example"], ["r", "wss://in.example", "read"], ["r", "wss://out.example/", "write"],
            ["r", "ws://both.example"], ["r", "no address"], ["p", BOB.pubkey, "wss://hint.example"]]  # fmt: skip
    new = ALICE.sign("", kind=10002, created_at=NOW - 5, tags=tags)
    bobs = BOB.sign("", kind=10002, created_at=NOW - 9, tags=[["r", f"wss://r{n}.example"] for n in range(30)])
    with Running(world.context("saver"), saver.run):
        world.put([bobs, new, old])
        world.wait_saved()
        assert listed()[ALICE.pubkey] == (
            {"wss://both.example", "wss://out.example"}, {"wss://both.example", "wss://in.example"}
        )  # fmt: skip
        assert listed()[BOB.pubkey] == ({f"wss://r{n}.example" for n in range(10)},) * 2
        world.put([
            ALICE.sign("", kind=5, created_at=NOW, tags=[["e", new.id]]),
            BOB.sign("", kind=5, created_at=NOW, tags=[["a", f"10002:{BOB.pubkey}:"]]),
        ])  # fmt: skip
        world.wait_saved()
        # Authors of deletions are not wanted here: who takes back is heard all the same.
        assert listed() == {ALICE.pubkey: (set(), set()), BOB.pubkey: (set(), set())}


def test_relays_that_a_user_named_before_and_names_again_are_a_users(world: World) -> None:
    """Whoever registers and says again where to be found is heard, although it was known from the stranger."""
    old, new = (ALICE.sign("", kind=10002, created_at=NOW + n, tags=[["r", "wss://r.example"]]) for n in range(2))
    with Running(world.context("saver"), saver.run):
        world.put([old])
        world.wait_saved()
        assert world.query("SELECT namers, named_by_user FROM relays") == [(1, 0)]
        world.register(ALICE.pubkey)
        world.put([new])
        world.wait_saved()
    assert world.query("SELECT namers, named_by_user FROM relays") == [(1, 1)]


def test_relays_that_a_user_named_before_registering_are_a_users(world: World) -> None:
    """Their relay list is in `seen` by then and is not saved again, so that nothing else would mark them."""
    with Running(world.context("saver"), saver.run):
        world.put([ALICE.sign("", kind=10002, created_at=NOW, tags=[["r", "wss://r.example"]])])
        world.wait_saved()
        world.register(ALICE.pubkey)
    assert world.query("SELECT named_by_user FROM relays") == [(1,)]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b'{"id":"x"}', b"null"])
def test_a_row_that_cannot_be_read_is_put_aside(world: World, quick_retries: None, raw: bytes) -> None:
    """The others are saved; it is tried some times more and then buried with its reason, as it was."""
    good, bad = profiles(60), BOB.sign("bad", kind=0, created_at=NOW)
    world.put([*good[:30], bad, *good[30:]])
    of_bad = "event = (SELECT event FROM inbox WHERE event_id = ?)"
    world.execute(f"UPDATE payloads SET payload = ? WHERE {of_bad}", raw, bytes.fromhex(bad.id))
    with Running(world.context("saver"), saver.run) as running:
        world.wait_saved()
    assert world.seen() == {event.id for event in good}
    assert world.queued() == sorted(event.id for event in good)
    buried = world.query("SELECT event_id, payload, failures, reason FROM inbox_dead JOIN payloads USING (event)")
    assert [(row[0].hex(), row[1], row[2]) for row in buried] == [(bad.id, raw, saver.MAX_FAILURES)]
    assert buried[0][3].startswith("InvalidEvent: ")
    failed = {"handlerName": "saveReceivedEvent", "result": "error"}
    assert running.metric("application_handler_calls_total", **failed) == saver.MAX_FAILURES
    assert running.metric("event_service_stage_discarded_total", stage="saver", reason="buried") == 1


@pytest.mark.parametrize("bad", [{0}, {59}, {29, 30}, {1, 20, 40}, set(range(60))])
def test_a_row_that_fails_is_found_among_others(
    world: World, quick_retries: None, monkeypatch: pytest.MonkeyPatch, bad: set[int]
) -> None:
    """What its failed transactions did is undone, and what they taught is forgotten."""
    events = profiles(60)
    world.register(ALICE.pubkey)
    guilty = {events[index].id for index in bad}
    break_over(monkeypatch, guilty, ZeroDivisionError("over this one"))
    world.put(events)
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    good = {event.id for event in events} - guilty
    assert world.seen() == good
    assert world.queued() == sorted(good)
    assert {event_id.hex() for (event_id,) in world.query("SELECT event_id FROM inbox_dead")} == guilty
    if bad != set(range(60)):
        assert world.value("SELECT count(*) FROM authors") == 1
    assert world.query("SELECT DISTINCT reason FROM inbox_dead") == [("ZeroDivisionError: over this one",)]


@pytest.fixture
def still(tmp_path: Path) -> Iterator[World]:
    """A world in which no time passes but what a test lets pass."""
    made = World(tmp_path, clock=ManualClock(NOW * 1000))
    yield made
    made.close()


def test_a_failing_row_waits_between_its_attempts(still: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others pass it."""
    world = still
    bad = BOB.sign("bad", kind=0, created_at=NOW)
    break_over(monkeypatch, {bad.id}, ZeroDivisionError())
    with Running(world.context("saver"), saver.run):
        world.put([bad])
        wait_until(lambda: world.query("SELECT failures FROM inbox") == [(1,)])
        world.put(profiles(5))
        wait_until(lambda: len(world.seen()) == 5)
        assert world.query("SELECT failures FROM inbox") == [(1,)]
    ready_in = world.value("SELECT ready_at FROM inbox") - world.clock.now_ms()
    assert 1000 < ready_in <= 2000


def test_an_error_that_passes_costs_nothing_but_time(
    still: World, quick_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that failed is saved when it can be."""
    world, clock, events = still, still.clock, profiles(10)
    assert isinstance(clock, ManualClock)
    with pytest.MonkeyPatch.context() as broken:
        break_over(broken, {events[3].id}, OSError("for a while"))
        with Running(world.context("saver"), saver.run):
            world.put(events)
            wait_until(lambda: len(world.seen()) == 9)
            wait_until(lambda: world.value("SELECT max(failures) FROM inbox") == 1)
            broken.undo()
            clock.advance(1.0)
            world.wait_saved()
    assert len(world.seen()) == 10
    assert world.value("SELECT count(*) FROM inbox_dead") == 0


def test_a_row_claimed_too_often_is_buried(world: World) -> None:
    events = profiles(5)
    world.put(events)
    world.execute("UPDATE inbox SET claims = ? WHERE event_id = ?", saver.MAX_CLAIMS, bytes.fromhex(events[2].id))
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    assert len(world.seen()) == 4
    assert world.query("SELECT event_id, reason FROM inbox_dead") == [(bytes.fromhex(events[2].id), "too many claims")]


class Death(BaseException):
    """What nothing in a process catches, as SIGKILL."""


@pytest.mark.parametrize("seed", seeds(4))
def test_only_what_kills_the_process_is_buried(world: World, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Rows claimed together with it, over and over, are all saved, and before long."""
    rng = random.Random(seed)
    events = profiles(60)
    deadly = {event.id for event in rng.sample(events, rng.randint(1, 3))}
    break_over(monkeypatch, deadly, Death())
    world.put(events)
    deaths = 0
    while world.inbox_size() > 0:
        try:
            with Running(world.context("saver"), saver.run) as running:
                wait_until(lambda running=running: running.is_over or world.inbox_size() == 0)  # type: ignore[misc]
        except Death:
            deaths += 1
        world.leases_run_out()
        assert deaths <= len(deadly) * (saver.MAX_FAILURES + 1), f"seed {seed}: still {world.inbox_size()} rows"
    assert world.seen() == {event.id for event in events} - deadly, f"seed {seed}"
    buried = {(event_id.hex(), reason) for event_id, reason in world.query("SELECT event_id, reason FROM inbox_dead")}
    assert buried == {(event_id, "the process died of it") for event_id in deadly}


def test_what_kills_the_process_that_found_it_without_a_claim_is_buried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that came while the process ran: the first death is not counted, the others are."""
    events = profiles(20)
    deadly = events[7].id
    break_over(monkeypatch, {deadly}, Death())
    deaths = 0
    while not world.value("SELECT count(*) FROM inbox_dead"):
        try:
            with Running(world.context("saver"), saver.run) as running:
                if not deaths:
                    wait_started(world)
                    world.put(events)
                wait_until(lambda running=running: running.is_over or world.inbox_size() == 0)  # type: ignore[misc]
        except Death:
            deaths += 1
        assert deaths <= saver.MAX_FAILURES + 2
        world.leases_run_out()
    assert {event.id for event in events} - world.seen() == {deadly}


def test_rows_that_come_while_it_runs_are_saved_without_a_claim(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before, later = profiles(3), profiles(3, first=3)
    claims: list[int] = []
    ack = LeaseQueue.ack

    def noted(queue: LeaseQueue, tx: Tx, receipts: Iterable[Receipt]) -> int:
        found = list(receipts)
        claims.extend(receipt.claims for receipt in found)
        return ack(queue, tx, found)

    monkeypatch.setattr(LeaseQueue, "ack", noted)
    world.put(before)
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
        world.put(later)
        world.wait_saved()
    assert claims == [1, 1, 1, 0, 0, 0]


def test_span_of_rows_saved_without_a_claim_begins_when_they_were_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(StageContext, "tracing", lambda _: contextlib.nullcontext(recorder.tracer))
    with Running(world.context("saver"), saver.run):
        wait_started(world)
        world.put(profiles(3))
        world.wait_saved()
    spans = recorder.finish()
    assert len(spans) == 4
    assert all(0 < span.began <= span.ended for span in spans)


def full_after(pages: int) -> Callable[..., Database]:
    """Opens databases that may grow by so many pages only."""

    def opener(path: Path, clock: Any, *_: object) -> Database:
        database = open_database(path, clock)
        database.pragma("max_page_count", database.pragma("page_count") + pages)
        return database

    return opener


def test_a_full_database_ends_the_stage_and_blames_no_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is started again; when there is room everything is saved."""
    events = profiles(1500)
    world.put(events)
    for _ in range(3):
        with monkeypatch.context() as small:
            small.setattr(saver, "open_database", full_after(0))
            with Running(world.context("saver"), saver.run) as running:
                assert isinstance(running.wait_over(), DatabaseFailed)
        assert world.query("SELECT DISTINCT failures FROM inbox") == [(0,)]
        assert len(world.seen()) < 1000, "what still fits"
        world.leases_run_out()
    assert world.value("SELECT count(*) FROM inbox_dead") == 0
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    assert world.seen() == {event.id for event in events}


def test_a_full_database_buries_nobody_however_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single row that brings many others, and a supervisor that starts the stage again and again."""
    followees = [["p", sha256(b"%d" % number).hexdigest()] for number in range(2_000)]
    world.put([ALICE.sign("", kind=3, created_at=NOW, tags=followees)])
    for _ in range(2 * saver.MAX_FAILURES):
        with monkeypatch.context() as small:
            small.setattr(saver, "open_database", full_after(3))
            with Running(world.context("saver"), saver.run) as running:
                assert isinstance(running.wait_over(), DatabaseFailed)
        assert world.query("SELECT failures FROM inbox") == [(0,)]
        world.leases_run_out()
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    assert len(world.seen()) == 1


def test_a_database_that_fails_says_nothing_about_the_row_that_was_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blame that a suspect carries while it is saved is taken back."""
    event = profiles(1)[0]
    world.put([event])
    for _ in range(2 * saver.MAX_FAILURES):
        with monkeypatch.context() as broken:
            break_over(broken, {event.id}, apsw.FullError())
            with Running(world.context("saver"), saver.run) as running:
                assert isinstance(running.wait_over(), DatabaseFailed)
        assert world.query("SELECT failures FROM inbox") == [(0,)]
        world.leases_run_out()
    assert world.value("SELECT claims FROM inbox") == 2 * saver.MAX_FAILURES
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    assert world.seen() == {event.id}


@pytest.mark.parametrize("claims", [0, 1])
def test_saver_ends_when_another_sink_joins_and_blames_no_row(world: World, claims: int) -> None:
    """It has the outbox `pubsub`, which is that of Pub/Sub now; of rows in doubt each is saved alone."""
    alone = {"EVENTS_SINK": f"jsonl:{world.directory / 'x.jsonl'}"}
    events = profiles(20)
    with Running(world.context("saver", alone), saver.run) as running:
        wait_started(world)
        sinks.enroll(world.database, ("jsonl", "pubsub"), world.clock, get_logger("test"))
        with world.database.write() as tx:
            inbox.append(tx, map(arrival, events))
            tx.execute("UPDATE inbox SET claims = ?", (claims,))
        assert isinstance(running.wait_over(), SinksChanged)
    assert world.query("SELECT DISTINCT failures FROM inbox") == [(0,)]
    assert world.inbox_size() == len(events)
    assert world.value("SELECT count(*) FROM inbox_dead") == 0
    assert world.queued("pubsub") == []
    world.leases_run_out()
    with Running(world.context("saver", alone), saver.run):
        world.wait_saved()
    assert set(world.queued("jsonl")) > {event.id for event in events}
    assert world.queued("pubsub") == []


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 4 MB."""
    with tempfile.TemporaryDirectory(prefix="event-service-disk-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("file systems cannot be mounted here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_ends_the_stage_and_loses_nothing(small_disk: Path) -> None:
    world = World(small_disk)
    ballast = small_disk / "ballast"
    events = profiles(120, size=4000)
    world.put(events)
    context = world.context("saver")
    context.heartbeat.beat()
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with Running(context, saver.run) as running:
        failure = running.wait_over()
    assert isinstance(failure, DatabaseFailed), failure
    ballast.unlink()
    assert world.value("SELECT count(*) FROM inbox_dead") == 0
    assert world.inbox_size() == 120
    world.leases_run_out()
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    assert world.seen() == {event.id for event in events}
    world.close()


@pytest.mark.parametrize("seed", seeds(2))
def test_a_saver_killed_at_any_moment_loses_and_repeats_nothing(world: World, seed: int) -> None:
    """SIGKILL again and again: each event ends once in `seen` and once in each outbox it belongs to."""
    rng = random.Random(seed)
    people = authors(seed, 30)
    world.register(*(person.pubkey for person in people[:5]))
    events = []
    for number in range(1500):
        author, kind = rng.choice(people), rng.choice([0, 1, 3, 10002])
        tags = [["p", other.pubkey] for other in rng.sample(people, rng.randint(0, 6))] if kind == 3 else []
        events.append(author.sign(f"{number}", kind=kind, created_at=NOW + number, tags=tags))
    always = {event.id for event in events if event.kind != 1 or event.pubkey in {p.pubkey for p in people[:5]}}
    service = EventService.stage("saver", world.directory, world.env | {"EVENTS_TARGET_RELAY": TARGET}, slot=0)
    service.env |= world.env | {"EVENTS_TARGET_RELAY": TARGET}
    # In parts, so that however quick it is there is work for several.
    parts = deque(events[start : start + 300] for start in range(0, len(events), 300))
    while parts or world.inbox_size() > 0:
        if parts:
            world.put(parts.popleft())
        service.start(wait=False)
        goal = world.inbox_size() - rng.randint(1, 300)
        wait_until(lambda goal=goal: world.inbox_size() <= max(goal, 0))  # type: ignore[misc]
        service.kill()
        service.close()
        world.leases_run_out()
    assert world.value("SELECT count(*) FROM inbox_dead") == 0
    seen = world.seen()
    assert always <= seen <= {event.id for event in events}
    assert world.queued("pubsub") == sorted(seen), f"seed {seed}"
    assert world.queued("relay") == sorted(event.id for event in events if event.kind != 1), f"seed {seed}"
    newest: dict[str, SignedEvent] = {}
    for event in events:
        if event.kind == 3:
            newest[event.pubkey] = event
    expected = {(event.pubkey, key) for event in newest.values() for key in event.mentioned()}
    keys = {number: key.hex() for number, key in world.query("SELECT id, public_key FROM authors")}
    assert {(keys[a], keys[b]) for a, b in world.query("SELECT follower, followee FROM contacts")} == expected


def test_two_savers_at_once_repeat_nothing(world: World) -> None:
    """As when one was thought dead and was not."""
    events = profiles(2000)
    for start in range(0, 2000, 100):
        world.put(events[start : start + 100])
    with Running(world.context("saver"), saver.run), Running(world.context("saver", index=1), saver.run):
        world.wait_saved()
    assert world.queued() == sorted(event.id for event in events)


def test_savers_that_meet_over_new_rows_claim_from_then_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows were saved by another while this one looked at them."""
    events = profiles(10)
    met: list[bool] = []

    def slow(raw: bytes) -> Event:
        if not met:
            met.append(True)
            rival = World(world.directory)
            rival.execute("UPDATE inbox SET claims = claims + 1 WHERE seq % 2")
            rival.close()
        return event_from_stored(raw)

    with Running(world.context("saver"), saver.run) as running:
        wait_started(world)
        monkeypatch.setattr(saver, "event_from_stored", slow)
        world.put(events)
        world.wait_saved()
    assert met
    assert {event.id for event in events} <= set(world.queued())
    assert len(world.queued()) == 11, "none twice"
    assert running.metric("event_service_stage_errors_total", stage="saver", kind="stale-receipt") == 1
    assert running.metric("event_service_stage_in_total", stage="saver") == 11


def test_a_saver_that_overslept_its_lease_repeats_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows were saved by somebody else meanwhile, or are about to be."""
    events = profiles(10)
    world.put(events)
    stolen: list[bool] = []

    def slow(raw: bytes) -> Event:
        if not stolen:
            stolen.append(True)
            rival = World(world.directory)
            rival.execute("UPDATE inbox SET claims = claims + 1 WHERE seq <= 5")
            rival.close()
        return event_from_stored(raw)

    monkeypatch.setattr(saver, "event_from_stored", slow)
    with Running(world.context("saver"), saver.run) as running:
        wait_until(lambda: world.inbox_size() == 5)
        world.leases_run_out()
        world.wait_saved()
    assert world.queued() == sorted(event.id for event in events)
    stale = {"stage": "saver", "kind": "stale-receipt"}
    assert running.metric("event_service_stage_errors_total", **stale) == 5
    assert running.metric("event_service_stage_in_total", stage="saver") == 10
    assert running.metric("event_service_stage_out_total", stage="saver") == 10


def test_stopping_leaves_what_is_not_saved_in_the_inbox(world: World) -> None:
    events = profiles(3000)
    world.put(events)
    with Running(world.context("saver"), saver.run):
        wait_until(lambda: len(world.seen()) > 0)
    seen = world.seen()
    waiting = {event_id.hex() for (event_id,) in world.query("SELECT event_id FROM inbox")}
    assert seen | waiting == {event.id for event in events}
    assert not seen & waiting
    assert json.loads(world.query("SELECT payload FROM events JOIN payloads USING (event) LIMIT 1")[0][0])["kind"] == 0


def test_large_contact_lists_are_saved_whole(world: World) -> None:
    """Ten thousand contacts, which the Go service lost."""
    followees = [f"{number:064x}" for number in range(1, 10_001)]
    author = Author.from_seed(9, 9)
    world.register(author.pubkey)
    with Running(world.context("saver"), saver.run):
        world.put([author.contact_list(followees, NOW)])
        world.wait_saved()
        assert world.value("SELECT count(*) FROM contacts") == 10_000
        world.put([author.contact_list(followees[5_000:], NOW + 1)])
        world.wait_saved()
    assert world.value("SELECT count(*) FROM contacts") == 5_000
    assert world.value("SELECT count(*) FROM wanted WHERE refs > 0") == 5_001


def test_list_that_a_saver_left_half_done_is_done_by_the_next(world: World) -> None:
    """In the middle of it other events are saved as ever."""
    world.register(ALICE.pubkey)
    knows, followees = Authors(), [number.to_bytes(32) for number in range(1, 3_001)]
    with world.database.write() as tx:
        half_done = KeyedList(knows.intern(tx, bytes.fromhex(ALICE.pubkey)), b"\1" * 32, NOW, followees)
        assert contacts.replace_in_slices(tx, knows, half_done, NOW * 1000)
    assert 1 < world.value("SELECT count(*) FROM wanted WHERE refs > 0") < 3_001
    events = profiles(50)
    world.put(events)
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    assert world.value("SELECT count(*) FROM contacts") == 3_000
    assert world.value("SELECT count(*) FROM wanted WHERE refs > 0") == 3_001
    assert world.seen() == {event.id for event in events}


def long_list(author: Author, count: int) -> SignedEvent:
    return author.contact_list([f"{number:064x}" for number in range(1, count + 1)], NOW)


def test_rest_of_a_long_list_is_done_after_a_crash_between_two_slices(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed of it stays, the slice under way is done again, and nothing twice."""
    world.register(ALICE.pubkey)
    world.put([long_list(ALICE, 3_000)])
    with monkeypatch.context() as patched:
        patched.setattr(contacts, "work_off", dying_after(contacts.work_off, 3))
        with Running(world.context("saver"), saver.run) as running:
            assert isinstance(running.wait_over(), RuntimeError)
    wanted = "SELECT count(*) FROM wanted WHERE refs > 0"
    assert world.value(wanted) == 1 + 3 * contact_slices.SIZE
    assert world.inbox_size() == 0, "the list itself is not saved again"
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    assert world.value("SELECT count(*) FROM contacts") == 3_000
    assert world.value(wanted) == 3_001
    assert world.value("SELECT max(refs) FROM wanted") == 1


def test_event_that_comes_between_two_slices_is_saved_before_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.register(ALICE.pubkey)
    events = deque(profiles(4))
    on_commit, work_off = EventProcessor.on_commit, contacts.work_off
    seen_at_slices: list[int] = []
    is_slice: list[bool] = []

    def works_off(tx: Tx, known: Authors, now: int) -> bool:
        seen_at_slices.append(int(tx.execute("SELECT count(*) FROM seen").get))
        is_slice.append(True)
        return work_off(tx, known, now)

    def puts_another(processor: EventProcessor) -> None:
        on_commit(processor)
        if is_slice and events:
            is_slice.clear()
            with open_database(world.path, world.clock) as other, other.write() as tx:
                inbox.append(tx, [arrival(events.popleft())])

    monkeypatch.setattr(contacts, "work_off", works_off)
    monkeypatch.setattr(EventProcessor, "on_commit", puts_another)
    world.put([long_list(ALICE, 3_000)])
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    assert seen_at_slices == [1, 2, 3, 4, 5]


def test_addresses_of_relays_are_parsed_before_the_write_lock_is_held(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write at the same time; the mentions are recorded all the same."""
    parsed: list[Event] = []

    def writes(event: Event) -> list[Candidate]:
        parsed.append(event)
        with open_database(world.path, world.clock) as rival, rival.write():
            return relay_candidates(event)

    monkeypatch.setattr(event_processor, "relay_candidates", writes)
    world.register(ALICE.pubkey)
    tags = [["e", f"{number:064x}", f"wss://relay-{number}.example.com"] for number in range(3)]
    world.put([ALICE.sign("hints", created_at=NOW, tags=tags)])
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    assert len(parsed) == 1
    assert world.value("SELECT count(*) FROM relays WHERE namers = 1") == 3


def test_long_rows_wait_for_short_ones(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stranger's list of thousands takes is not taken from users' notes."""
    saved: list[int] = []

    def noting(raw: bytes) -> Event:
        saved.append(len(raw))
        return event_from_stored(raw)

    monkeypatch.setattr(saver, "event_from_stored", noting)
    followees = [f"{number:064x}" for number in range(1, 2_001)]
    world.put([BOB.contact_list(followees, NOW), *profiles(5)])
    with Running(world.context("saver"), saver.run):
        world.wait_saved()
    assert saved.index(max(saved)) == 5
