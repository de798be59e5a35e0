"""The change-over from the Go service: what it has handed on is never handed on again, and what it has not, is."""

import json
from contextlib import closing
from pathlib import Path
from time import time

import pytest

from tests.factories.events import Author, SignedEvent
from tests.factories.workload import Workload
from tests.fakes.go_database import GoDatabase, GoSchema
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService, settings
from tests.integration.commands.operator import Operator
from tests.support.seeds import told_seed

NOW = int(time())
# A crawler may look for relays half a minute apart where a look takes long.
WAIT_S = 150.0
pytestmark = pytest.mark.timeout(400)


class Past:
    """An hour of a Go service: every third event was not handed on yet."""

    def __init__(self, source: Path, schema: GoSchema) -> None:
        workload = Workload(
            seed=told_seed(), events=600, authors=120, since=NOW - 3000, until=NOW - 100, registered=2, mentions=0.3
        )
        people = workload.people()
        self.users = workload.registered_users()
        self.followee, self.stranger = people[10], Author.from_seed(workload.seed + 1, 0)
        self.events = list(workload.generate())
        self.events += [
            self.stranger.sign("nobody asked", kind=1, created_at=NOW - 50),
            self.stranger.sign("hello", kind=1, created_at=NOW - 50, tags=[("p", self.users[0].pubkey)]),
            self.followee.sign("followed", kind=1, created_at=NOW - 50),
        ]
        lists = [user.contact_list([self.followee], NOW - 40) for user in self.users]
        self.done: list[SignedEvent] = []
        self.waiting: list[SignedEvent] = []
        with GoDatabase(source, schema) as database:
            for user in self.users:
                database.register(user, NOW - 90_000, NOW - 90_000)
            for number, event in enumerate(self.events):
                (self.waiting if number % 3 == 0 else self.done).append(event)
                (database.save if number % 3 == 0 else database.done)(event)
            # The users' newest lists came last; the fake takes every list for newer than the one before.
            for event in lists:
                database.done(event, at=NOW - 30)
                self.done.append(event)
        self.relevant = {event.id for event in self.waiting if self._is_relevant(event)}

    def _is_relevant(self, event: SignedEvent) -> bool:
        """By the rules, worked out anew: the users' newest lists name nobody but the followee."""
        users = {user.pubkey for user in self.users}
        return (
            event.kind in (0, 2, 3, 10002)
            or event.pubkey in {*users, self.followee.pubkey}
            or bool(event.mentioned() & users)
        )


def published(service: EventService) -> list[str]:
    if not service.sink_path.exists():
        return []
    # A line that is being written has no end yet.
    whole, _, _ = service.sink_path.read_bytes().rpartition(b"\n")
    return [json.loads(line)["id"] for line in whole.splitlines()]


def settle(service: EventService, wanted: set[str], live: SignedEvent, relay: ScriptedRelay) -> list[str]:
    """Everything published once the wanted events and a last one, sent live, are."""
    relay.publish(live)
    service._poll(lambda: {*wanted, live.id} <= set(published(service)), WAIT_S, "published")
    assert service.stop() == 0
    return published(service)


@pytest.mark.parametrize("schema", [GoSchema.NEWEST, GoSchema.UNMARKED])
@pytest.mark.parametrize("running", [False, True], ids=["before the start", "into a running service"])
def test_the_pipeline_hands_on_what_is_left_and_nothing_else(tmp_path: Path, schema: GoSchema, running: bool) -> None:
    """Relays offer all of it again, as they do in the first minutes."""
    past = Past(tmp_path / "go.db", schema)
    live = past.users[0].sign("after the change-over", kind=1, created_at=NOW)
    with ScriptedRelay() as relay:
        service = EventService(tmp_path / "service", settings(relays=[relay.url], EVENTS_BACKFILL="2h"))
        operator = Operator(service.database)
        service.directory.mkdir()
        # Started once: one that is killed and started again may deliver twice what it had claimed.
        with closing(service):
            if running:
                service.start()
            operator.succeed("import-go", str(tmp_path / "go.db"))
            relay.hold([*past.done, *past.waiting])
            if not running:
                service.start()
            found = settle(service, past.relevant, live, relay)
    assert len(past.relevant) > 20
    assert set(found) == {*past.relevant, live.id}
    assert len(found) == len(set(found))


def test_in_place_the_same_settings_go_on_working(tmp_path: Path) -> None:
    """`supervise` refuses the old database and names the command; after it, the same environment works."""
    with ScriptedRelay() as relay:
        service = EventService(tmp_path / "service", settings(relays=[relay.url], EVENTS_BACKFILL="2h"))
        service.directory.mkdir()
        past = Past(service.database, GoSchema.NEWEST)
        before = service.database.read_bytes()
        service.start(wait=False)
        assert service.wait_exit() == 3
        (line,) = [line for line in service.log_text().splitlines() if "Go service" in line]
        assert "event-service import-go --in-place" in line
        assert service.database.read_bytes() == before

        Operator(service.database).succeed("import-go", "--in-place")
        relay.hold([*past.done, *past.waiting])
        live = past.users[1].sign("after the change-over", kind=1, created_at=NOW)
        with service:
            found = settle(service, past.relevant, live, relay)
    assert sorted(found) == sorted({*past.relevant, live.id})
    assert service.database.with_name("events.db.go-backup").read_bytes() == before
