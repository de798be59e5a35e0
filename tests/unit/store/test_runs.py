"""What a run can tell of the ones before it: lost commits, copies, and a clock that was behind."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from pipeline.store import cursors, drops, relay_candidates, relay_status, relays, runs
from pipeline.store.backup import back_up
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database
from pipeline.store.drops import Drop
from pipeline.store.migrations import MIGRATIONS
from pipeline.store.runs import Doubt, Run
from pipeline.store.schema import migrate

DAY_MS = 86_400_000
NOW = 1_700_000_000_000
FIRST = Run("crawler-0", "boot-1", 7, NOW - DAY_MS)
OTHER = replace(FIRST, slot="crawler-1")
REBOOTED = replace(FIRST, boot="boot-2", clock=NOW - 60)
RESTORED = replace(FIRST, file=8)


def begin(db: Database, run: Run, now: int) -> Doubt | None:
    with db.write() as tx:
        return runs.begin(tx, run, now)


def end(db: Database, run: Run, now: int) -> None:
    with db.write(durable=True) as tx:
        runs.end(tx, run.slot, now)


def test_process_that_was_killed_leaves_no_doubt(db: Database) -> None:
    """What it committed is with the kernel."""
    assert [begin(db, FIRST, NOW + number) for number in range(3)] == [None] * 3


def test_reboot_without_a_clean_end_is_doubted_since_the_last_sign_of_life(db: Database) -> None:
    begin(db, FIRST, NOW)
    begin(db, FIRST, NOW + 60_000)
    assert begin(db, REBOOTED, NOW + 90_000) == Doubt(NOW + 60_000, NOW + 90_000)
    assert begin(db, REBOOTED, NOW + 91_000) is None
    with db.read() as tx:
        assert runs.last_doubt(tx) == Doubt(NOW + 60_000, NOW + 90_000)


def test_reboot_after_a_clean_end_leaves_no_doubt(db: Database) -> None:
    begin(db, FIRST, NOW)
    end(db, FIRST, NOW + 1)
    assert begin(db, REBOOTED, NOW + 2) is None


def test_hidden_boot_is_told_by_the_clock_alone(db: Database) -> None:
    """Where /proc shows processes only; a clock that was set counts as another boot too, which harms nothing."""
    hidden = replace(FIRST, boot="")
    begin(db, hidden, NOW)
    assert begin(db, hidden, NOW + 1000) is None
    assert begin(db, replace(hidden, clock=NOW + 500), NOW + 2000) == Doubt(NOW + 1000, NOW + 2000)
    end(db, hidden, NOW + 3000)
    assert begin(db, replace(hidden, clock=NOW + 3500), NOW + 4000) is None


def test_one_of_two_processes_without_a_clean_end_is_enough(db: Database) -> None:
    begin(db, FIRST, NOW)
    begin(db, OTHER, NOW)
    end(db, FIRST, NOW + 1)
    assert begin(db, REBOOTED, NOW + 2) == Doubt(NOW, NOW + 2)
    assert begin(db, replace(REBOOTED, slot="crawler-1"), NOW + 3) is None


def test_second_doubt_keeps_the_span_of_the_first(db: Database) -> None:
    """Which may not have been swept yet."""
    begin(db, FIRST, NOW)
    begin(db, REBOOTED, NOW + 10)
    again = replace(REBOOTED, boot="boot-3")
    assert begin(db, again, NOW + 20) == Doubt(NOW, NOW + 20)
    assert begin(db, replace(again, boot="boot-4"), NOW + 2 * DAY_MS) == Doubt(NOW + 20, NOW + 2 * DAY_MS)


@pytest.mark.parametrize("clean", [True, False])
def test_restored_copy_is_doubted_since_it_was_made(db: Database, tmp_path: Path, clean: bool) -> None:
    """By another file in its place, or by what `backup` wrote into it."""
    begin(db, FIRST, NOW)
    if clean:
        end(db, FIRST, NOW)
    back_up(db, tmp_path / "copy.db", lambda _: None)
    with Database.open(tmp_path / "copy.db") as copy:
        assert begin(copy, FIRST, NOW + DAY_MS) == Doubt(NOW, NOW + DAY_MS)
    assert begin(db, FIRST, NOW + 1) is None
    assert begin(db, RESTORED, NOW + 2) == Doubt(NOW + 1, NOW + 2)


def test_backup_of_an_older_schema_is_left_as_it_is(tmp_path: Path, clock: ManualClock) -> None:
    with Database.open(tmp_path / "old.db") as old:
        migrate(old, clock, MIGRATIONS[:1])
        back_up(old, tmp_path / "copy.db", lambda _: None)
    assert (tmp_path / "copy.db").exists()


@pytest.mark.parametrize(
    ("has_future", "same_boot", "jump_ms", "expected"),
    [(True, True, 400 * DAY_MS, 1), (False, True, 400 * DAY_MS, 0), (True, False, 400 * DAY_MS, 0), (True, True, 0, 0)],
)
def test_relays_first_crawled_by_a_clock_behind_are_crawled_from_now(
    db: Database, has_future: bool, same_boot: bool, jump_ms: int, expected: int
) -> None:
    """Told by the time of one boot and events of the future; one that was crawled before is left alone."""
    then = NOW - 400 * DAY_MS
    with db.write() as tx:
        relays.set_bootstrap(tx, ["wss://old.example", "wss://new.example"], then)
        relay_status.start_crawling(tx, [1], then - DAY_MS)
        relay_status.start_crawling(tx, [2], then + 5)
        cursors.advance(tx, [Cursor(relay, "whole", then // 1000, 1) for relay in (1, 2)], then // 1000)
        runs.begin(tx, replace(FIRST, clock=then - 1000), then)
        if has_future:
            drops.append(tx, [Drop(bytes(32), "future", 2)], then + 9)
    run = replace(FIRST, clock=then - 1000 + jump_ms, boot="boot-1" if same_boot else "boot-2")
    with db.write() as tx:
        assert runs.correct_first_crawls(tx, run, NOW) == expected
    with db.read() as tx:
        assert len(cursors.of_relay(tx, 1)) == 1
        assert len(cursors.of_relay(tx, 2)) == 1 - expected
        since = {each.relay: each.crawled_since for each in relay_candidates.candidates(tx, discovered=False, limit=9)}
    assert since == {1: then - DAY_MS, 2: NOW if expected else then + 5}
