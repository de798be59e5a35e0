"""Audits of a sample, as the sweeper does them by itself."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import time

import pytest

from pipeline.audit.schedule import AuditPace, ScheduledAudits
from pipeline.store import audits, events, relay_status, relays
from pipeline.store.audits import AuditOutcome
from pipeline.store.authors import Authors
from pipeline.store.events import Accepted
from pipeline.store.relay_status import RelayState, RelayStatus
from stages import sweeper
from tests.factories.events import SignedEvent, authors
from tests.fakes.behaviour import Behaviour
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Req
from tests.integration.stages.support import Running, World, wait_until

(ALICE,) = authors(261, 1)
NOW = int(time())
AT_ONCE = AuditPace(first_ms=0, catch_up_ms=0, lag_s=0, settle_s=0)
HOUR_MS = 3_600_000
NOTES = [ALICE.sign(f"{n}", created_at=NOW - 100 - n) for n in range(4)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, {"EVENTS_AUDIT_EVERY": "1h"})
    made.register(ALICE.pubkey)
    yield made
    made.close()


def crawl(world: World, address: str) -> None:
    with world.database.write() as tx:
        relays.set_bootstrap(tx, [address], 1)
        number = relays.find(tx, address)
        assert number is not None
        relay_status.start_crawling(tx, [number], 1)
        relay_status.put_statuses(tx, [RelayStatus(number, address, RelayState.CONNECTED, 1, 1, 0, 0, 0, "")])


def accept(world: World, accepted: list[SignedEvent]) -> None:
    with world.database.write() as tx:
        author = Authors().intern(tx, bytes.fromhex(ALICE.pubkey))
        rows = [
            Accepted(9 + n, bytes.fromhex(each.id), each.created_at, each.kind, author, b"", 1, NOW * 1000, 1)
            for n, each in enumerate(accepted)
        ]
        events.accept(tx, rows, NOW * 1000)


def outcome(world: World) -> AuditOutcome:
    with world.database.read() as tx:
        return audits.latest(tx)


def test_sample_is_audited_once_an_interval_and_misses_are_fetched(world: World) -> None:
    accept(world, NOTES[1:])
    with ScriptedRelay(events=NOTES) as relay:
        crawl(world, relay.url)
        scheduled = ScheduledAudits(world.context("sweeper"), world.opener(), AT_ONCE)
        scheduled.turn(world.database)
        found = outcome(world)
        assert (found.had, found.missed, found.all_missed, found.recall) == (3, 1, 1, 0.75)
        assert world.query("SELECT event_id FROM inbox") == [(bytes.fromhex(NOTES[0].id),)]
        asked = len(relay.journal.of(Req))
        scheduled.turn(world.database)
        ScheduledAudits(world.context("sweeper"), world.opener(), AT_ONCE).turn(world.database)
        assert len(relay.journal.of(Req)) == asked


@pytest.mark.parametrize("late", ["wanted SET since", "relays SET crawled_since"])
def test_past_that_is_still_being_fetched_is_not_missed(world: World, late: str) -> None:
    """Of an author who is wanted, or a relay that is crawled, since a moment ago; it is soon tried again."""
    pace = replace(AT_ONCE, catch_up_ms=HOUR_MS)
    with ScriptedRelay(events=NOTES) as relay:
        crawl(world, relay.url)
        world.execute("UPDATE wanted SET since = ?", world.clock.now_ms() - HOUR_MS)
        world.execute(f"UPDATE {late} = ?", world.clock.now_ms())
        scheduled = ScheduledAudits(world.context("sweeper"), world.opener(), pace)
        scheduled.turn(world.database)
        assert outcome(world) == AuditOutcome()
        world.execute(f"UPDATE {late} = ?", world.clock.now_ms() - HOUR_MS)
        scheduled.turn(world.database)
        assert outcome(world).missed == len(NOTES)


def test_relay_that_takes_for_ever_does_not_hold_up_audits(world: World) -> None:
    """What it did not answer is not counted."""
    with ScriptedRelay(Behaviour(eose=False), events=NOTES) as relay:
        crawl(world, relay.url)
        pace = replace(AT_ONCE, relay_s=0.5)
        ScheduledAudits(world.context("sweeper"), world.opener(), pace).turn(world.database)
        assert len(relay.journal.of(Req)) <= 1
    assert outcome(world).at > 0
    assert outcome(world).recall is None


def test_switched_off_or_just_started_nothing_is_asked(world: World) -> None:
    with ScriptedRelay(events=NOTES) as relay:
        crawl(world, relay.url)
        off = world.context("sweeper", {"EVENTS_AUDIT_EVERY": "0"})
        ScheduledAudits(off, world.opener(), AT_ONCE).turn(world.database)
        ScheduledAudits(world.context("sweeper"), world.opener()).turn(world.database)
        assert not relay.journal.of(Req)
    assert outcome(world) == AuditOutcome()


@pytest.mark.parametrize("failing", ["pipeline.audit.audit.RelayAudit", "pipeline.store.audits.LATEST"])
def test_failed_audit_is_logged_and_the_stage_goes_on(
    world: World, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failing, None)
    with ScriptedRelay(events=NOTES) as relay:
        crawl(world, relay.url)
        ctx = world.context("sweeper")
        ScheduledAudits(ctx, world.opener(), AT_ONCE).turn(world.database)
    monkeypatch.undo()
    assert not ctx.stop.is_set()
    assert outcome(world).at == 0


def test_sweeper_stops_amid_an_audit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.audit.schedule.AuditPace", lambda: AT_ONCE)
    with ScriptedRelay(Behaviour(eose=False), events=NOTES) as relay:
        crawl(world, relay.url)
        with Running(world.context("sweeper"), sweeper.run):
            wait_until(lambda: bool(relay.journal.of(Req)), "asked")
    assert outcome(world).at == 0
