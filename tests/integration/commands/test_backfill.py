"""`event-service backfill` beside a running service: the past is fetched, shown and summed up."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.process.clock import SystemClock
from pipeline.process.stop import Stop
from pipeline.store import backfills, events, inbox, users
from pipeline.store import relays as known_relays
from pipeline.store.backfills import BackfillProgress
from pipeline.store.events import Accepted
from pipeline.store.inbox import Arrival
from pipeline.store.schema import open_database
from tests.factories.events import Author, SignedEvent, authors
from tests.fakes.behaviour import Behaviour, How, Refusal
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService, settings
from tests.integration.stages.support import wait_until

ALICE, BOB = authors(91, 2)
NOW = int(time())
DAY = 86_400


def notes(by: Author, count: int, days_ago: int) -> list[SignedEvent]:
    return [by.sign(f"{n}", kind=1, created_at=NOW - days_ago * DAY + n) for n in range(count)]


class Service(EventService):
    """A service with registered users on some relays, and the command."""

    def __init__(self, directory: Path, relays: list[str]) -> None:
        super().__init__(directory, settings(relays=relays, EVENTS_CRAWLERS="1"))
        self.directory.mkdir(parents=True, exist_ok=True)
        with open_database(self.database, SystemClock()) as opened, opened.write() as tx:
            for user in (ALICE, BOB):
                users.register(tx, bytes.fromhex(user.pubkey), NOW * 1000)

    def command(self, *arguments: str, code: int = 0) -> str:
        """What it printed, on both ways."""
        env = os.environ | self.env
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "backfill", *arguments],
            env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def connected(self) -> int:
        with open_database(self.database, SystemClock()) as opened, opened.read() as tx:
            return int(tx.execute("SELECT count(*) FROM relays WHERE state = 'connected'").get)

    def seen(self) -> set[str]:
        with open_database(self.database, SystemClock()) as opened, opened.read() as tx:
            return {event_id.hex() for (event_id,) in tx.execute("SELECT event_id FROM seen")}


@contextmanager
def running(directory: Path, relays: list[ScriptedRelay]) -> Iterator[Service]:
    with Service(directory / "service", [relay.url for relay in relays]) as service:
        wait_until(lambda: service.connected() == len(relays), "connected", 60.0)
        yield service


@pytest.fixture
def relays() -> Iterator[list[ScriptedRelay]]:
    refusal = Refusal(How.CLOSED, "restricted: no", when=lambda filters: any("until" in each for each in filters))
    with (
        ScriptedRelay(Behaviour(cap=100), events=notes(ALICE, 250, 40)) as first,
        ScriptedRelay(events=notes(BOB, 30, 50)) as second,
        ScriptedRelay(Behaviour(refusals=(refusal,))) as third,
    ):
        yield [first, second, third]


def new_events(said: str) -> int:
    """How many were new; the audit of a relay's filter forms may have had a few before the job was ordered."""
    found = re.search(r"(\d+) events? of that time", said)
    assert found is not None, said
    return int(found[1])


@pytest.mark.long
def test_a_span_of_the_past_is_fetched_and_summed_up(tmp_path: Path, relays: list[ScriptedRelay]) -> None:
    """From two relays, first by one author from one of them, then all."""
    first, second = relays[:2]
    with running(tmp_path, [first, second]) as service:
        said = service.command("--since", "60d", "--until", "30d", "--relay", first.url, "--author", ALICE.pubkey)
        assert "1 of 1 relay, 1 of 1 request" in said
        assert 240 <= new_events(said) <= 250
        wait_until(lambda: {each.id for each in notes(ALICE, 250, 40)} <= service.seen())
        said = service.command("--since", f"{NOW - 60 * DAY}", "--until", f"{NOW - 30 * DAY}")
        assert "2 of 2 relays" in said
        assert 20 <= new_events(said) <= 30
        wait_until(lambda: {each.id for each in notes(BOB, 30, 50)} <= service.seen())
        listed = service.command("--list").splitlines()
        assert [line.split(":")[0] for line in listed] == ["1 done", "2 done"]


def test_one_goes_on_over_a_restart_and_is_ended_by_hand(tmp_path: Path, relays: list[ScriptedRelay]) -> None:
    with running(tmp_path, relays[:1]) as service:
        span = ("--since", f"{NOW - 60 * DAY}", "--until", f"{NOW - 30 * DAY}")
        assert "job 1: 1 relay\n" in service.command(*span, "--no-wait")
        service.stop()
        service.start()
        assert "1 of 1 relay," in service.command("--attach", "1")
        # All that the relay gave was saved before the job was summed up.
        assert {each.id for each in notes(ALICE, 250, 40)} <= service.seen()
        assert "job 2" in service.command(*span, "--no-wait")
        assert "job 2 cancelled" in service.command("--cancel", "2")
        assert "2 cancelled" in service.command("--list")


def test_job_is_summed_up_when_the_saver_has_come_to_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = ALICE.sign("late", kind=1, created_at=NOW - DAY)
    path, event_id = tmp_path / "events.db", bytes.fromhex(event.id)
    with open_database(path, SystemClock()) as database, database.write() as tx:
        known_relays.set_bootstrap(tx, ["wss://relay.example"], 1)
        job = backfills.add(tx, NOW - 2 * DAY, NOW, [], [1], 1)
        backfills.put_progress(tx, [BackfillProgress(job, 1, parts=1, done=1, events=1, is_over=True)])
        inbox.append(tx, [Arrival(event_id, event.raw.encode(), 1, 1, event.created_at)])

    class Saver(Stop):
        """Saves while the command waits."""

        def wait(self, timeout_s: float | None = None) -> bool:
            with open_database(path, SystemClock()) as database, database.write() as tx:
                (row,) = inbox.claim(tx, now=10, lease=1000, limit=1)
                inbox.queue.ack(tx, [row.receipt])
                events.accept(tx, [Accepted(1, event_id, event.created_at, 1, 1, event.raw.encode(), 1, 1, 1)], 10)
            return False

    monkeypatch.setattr("pipeline.commands.backfill.Stop", Saver)
    for name, value in settings(EVENTS_DATABASE_PATH=str(path)).items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["backfill", "--attach", "1"], catch_exceptions=False)
    assert (
        "1 of 1 relay, 1 of 1 request, 1 event read; new since the job was ordered: 1 event of that time" in done.output
    )


def test_wrong_orders_are_refused_in_one_line(tmp_path: Path) -> None:
    service = Service(tmp_path / "service", [])
    assert "--since is needed" in service.command(code=2)
    assert "neither a time ago" in service.command("--since", "yesterday", code=2)
    assert "after --until" in service.command("--since", "1d", "--until", "2d", code=2)
    assert "no relay is connected" in service.command("--since", "1d", code=1)
    assert "is not known" in service.command("--since", "1d", "--relay", "wss://nobody.example", code=1)
    assert "there is no job 7" in service.command("--attach", "7", code=1)
    assert "no job 7" in service.command("--cancel", "7", code=1)
