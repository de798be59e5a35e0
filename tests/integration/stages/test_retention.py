"""A relay that was away for forty days: what others brought of that time is not delivered again while ids are kept.

The stages run by a calendar that the test turns: forty days before today, some days later, and today.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time_ns

import pytest

from pipeline.sweeper import retention, table_walk
from stages import crawler, saver, sweeper
from tests.factories.events import SignedEvent, authors
from tests.fakes.behaviour import Behaviour, Filters, Refusal
from tests.fakes.relay import ScriptedRelay
from tests.integration.stages.support import Running, World, wait_until

(ALICE,) = authors(83, 1)
DAY_S = 86_400
_OWED = "SELECT count(*) FROM relays WHERE address = ? AND (owed_since > 0 OR state <> 'connected')"
_COMPLETE = "SELECT count(*) FROM relays WHERE id NOT IN (SELECT relay FROM cursors WHERE query LIKE 'authors/%')"
_BEHIND = """
SELECT count(*) FROM (
  SELECT max(complete_until) AS latest FROM cursors WHERE query LIKE 'authors/%' GROUP BY relay
) WHERE latest < ?
"""
_PATIENCE_S = 60.0


def reaches_beyond(days: int) -> Callable[[Filters], bool]:
    """Whether a page goes back further than so many days."""
    since = time_ns() // 1_000_000_000 - days * DAY_S
    return lambda filters: any(each.get("since", since) < since for each in filters)


@dataclass
class Calendar:
    """The system's clock, so many days ago."""

    days_ago: int = 0

    def now_ms(self) -> int:
        return time_ns() // 1_000_000 - 1000 * self.days_ago * DAY_S

    def monotonic(self) -> float:
        return monotonic()

    def note(self, text: str, days_ago: int) -> SignedEvent:
        """A note of some days before today."""
        return ALICE.sign(text, created_at=time_ns() // 1_000_000_000 - days_ago * DAY_S)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages look around often, and the sweeper goes over everything without rest."""
    monkeypatch.setattr(crawler, "_TURN_S", 0.01)
    monkeypatch.setattr(crawler, "_LOOK_AT_RELAYS_S", 0.05)
    monkeypatch.setattr(sweeper, "_TURN_S", 0.005)
    monkeypatch.setattr(table_walk, "REST_S", 0.0)
    monkeypatch.setattr(retention, "SEEN_PACE_S", 0.0)
    monkeypatch.setattr(retention, "_HORIZON_EVERY_S", 0.0)


class Scene:
    """Two relays of the operator's: one that stays, and one that goes away forty days before today."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.calendar = Calendar()
        self.staying, self.leaving = ScriptedRelay(), ScriptedRelay()
        self.staying.start()
        self.leaving.start()
        relays = {"EVENTS_BOOTSTRAP_RELAYS": f"{self.staying.url},{self.leaving.url}"}
        once = {"EVENTS_CRAWLERS": "1", "EVENTS_BACKFILL": "1d", "EVENTS_NEW_AUTHOR_LOOKBACK": "1d"}
        self.world = World(directory, {**relays, **once, **settings}, clock=self.calendar)
        self.calendar.days_ago = 40
        self.world.register(ALICE.pubkey)

    def close(self) -> None:
        self.world.close()
        self.staying.stop()
        self.leaving.stop()

    @contextmanager
    def on_day(self, days_ago: int) -> Iterator[Running]:
        """Crawl and save so many days before today; gives the saver."""
        self.calendar.days_ago = days_ago
        with ExitStack() as stack:
            saving = stack.enter_context(Running(self.world.context("saver"), saver.run))
            stack.enter_context(Running(self.world.context("crawler"), crawler.run))
            yield saving

    def sweep(self) -> None:
        """Go over everything some times, today."""
        self.calendar.days_ago = 0
        with Running(self.world.context("sweeper"), sweeper.run) as running:
            calls = {"handlerName": "cleanupProcessedEvents", "result": "success"}
            wait_until(lambda: running.metric("application_handler_calls_total", **calls) >= 10, "swept")

    def wait_caught_up(self) -> None:
        """Return once the cursors of both relays are of today."""
        wait_until(lambda: self.world.value(_BEHIND, time_ns() // 1_000_000_000 - DAY_S) == 0, "caught up", _PATIENCE_S)

    def wait_seen(self, *events: SignedEvent) -> None:
        ids = {event.id for event in events}
        wait_until(lambda: ids <= self.world.seen(), f"{len(ids)} events saved", _PATIENCE_S)

    def wait_made_up_for(self) -> None:
        """Return once nothing is owed by the relay that was away, and what it gave is saved."""
        wait_until(lambda: self.world.value(_OWED, self.leaving.url) == 0, "all made up for", _PATIENCE_S)
        self.world.wait_saved()

    def live_through(self) -> tuple[SignedEvent, list[SignedEvent], list[SignedEvent]]:
        """Forty days, up to today: what both had before, what the one that stayed brought, what only the other has."""
        note = self.calendar.note
        before = note("before", 40)
        shared = [note(f"shared {days}", days) for days in (39, 38, 37)]
        own = [note(f"own {days}", days) for days in (39, 38, 2)]
        for relay in (self.staying, self.leaving):
            relay.hold([before])
        with self.on_day(40):
            self.wait_seen(before)
            wait_until(lambda: self.world.value(_COMPLETE) == 0, "both swept", _PATIENCE_S)
        self.leaving.stop()
        self.staying.hold(shared)
        with self.on_day(36):
            self.wait_seen(before, *shared)
        self.leaving.hold([*shared, *own])
        self.sweep()
        return before, shared, own


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def test_forty_days_away_bring_nothing_twice_and_what_was_missed(scene: Scene) -> None:
    """Though ids are kept for thirty days only where no relay is away, and what is owed comes last."""
    before, shared, own = scene.live_through()
    assert {before.id, *(event.id for event in shared)} <= scene.world.seen()
    scene.leaving.behave(Behaviour(refusals=(Refusal(reason="error: busy", when=reaches_beyond(41)),)))
    scene.leaving.start()
    with scene.on_day(0):
        scene.wait_seen(*own)
        scene.wait_caught_up()
    scene.sweep()
    scene.leaving.behave(Behaviour())
    # A new process has no ids in memory.
    with scene.on_day(0) as saving:
        scene.wait_made_up_for()
        assert saving.metric("event_service_events_beyond_retention_total") == 0
    assert scene.world.queued() == sorted(event.id for event in (before, *shared, *own))


def test_beyond_longest_retention_events_come_again_and_are_counted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, EVENTS_SEEN_RETENTION_MAX="33d")
    try:
        before, shared, own = scene.live_through()
        assert scene.world.seen() == set()
        scene.leaving.start()
        with scene.on_day(0) as saving:
            scene.wait_seen(*shared, *own)
            scene.wait_made_up_for()
            again = {*(event.id for event in shared)} | ({before.id} & scene.world.seen())
            old = len(again) + len(own) - 1
            wait_until(lambda: saving.metric("event_service_events_beyond_retention_total") == old, "counted")
        queued = [before.id, *(event.id for event in (*shared, *own)), *again]
        assert scene.world.queued() == sorted(queued)
    finally:
        scene.close()
