"""A crawling host's side of the plan: takes from the hub whose events are wanted, in slices.

| state | event | next state |
|---|---|---|
| following | the hub publishes more | taking, from what is followed |
| taking | a slice is written | taking, behind it |
| taking | nothing more of any subject | forgetting the ids that home did not want |
| forgetting | nothing more | following what was published when it began; crawlers are rung |
| taking, forgetting | another connection | following: it begins again where crawlers are |
"""

import math
from dataclasses import dataclass, field
from typing import Final

from pipeline.hub import unwanted_ids
from pipeline.hub.connection import HubConnection, HubRefused
from pipeline.hub.plan_feed import PAST_ALL, unpack
from pipeline.hub.unwanted_ids import UnwantedSync
from pipeline.process.clock import Clock, pause
from pipeline.process.logs import Logger
from pipeline.store import plan_copy, wanted_authors
from pipeline.store.database import Database
from pipeline.store.plan_copy import SUBJECTS, FollowedPlan, NamedRelays, PlanMember

CHANNEL: Final = "plan"
FUNCTIONS: Final = ("plan_v1", "authors_v1", "lists_v1", *unwanted_ids.FUNCTIONS)
"""What the hub must have for this."""
# A megabyte of records.
_FETCHED: Final = 20_000
# A transaction of so many takes some tens of milliseconds of the write lock.
SLICE: Final = 1_000
# A process that waits for the lock tries again within less.
_GAP_S: Final = 0.004
_LISTS_SLICE: Final = 500
# A turn writes slices for so long; between turns events are handed over.
_TURN_S: Final = 0.1
# Beside notifications, which a broken connection loses.
_LOOK_S: Final = 5.0


class OtherHub(HubRefused):
    """The hub is not the one that this database belongs to; what the database has can be handed over to any."""


@dataclass(slots=True)
class _Taking:
    published: int
    subjects: list[int]
    """Those that are not whole yet, the first under way."""
    generation: int
    key: bytes = PAST_ALL
    fetched: list[PlanMember] | None = None
    """What is not written yet, the next last; None: to be fetched."""


@dataclass(slots=True)
class PlanSync:
    """For one thread."""

    clock: Clock
    log: Logger
    _followed: int = -1
    _taking: _Taking | None = None
    _unwanted: UnwantedSync = field(default_factory=UnwantedSync)
    _plan: FollowedPlan = field(default_factory=lambda: FollowedPlan("", 0))
    _lists: int = 0
    """The newest change of relay lists that the hub has."""
    _lists_place: tuple[int, bytes] = (0, PAST_ALL)
    """Behind the newest list that was taken."""
    _look_at: float = -math.inf
    _connection: HubConnection | None = None

    def turn(self, connection: HubConnection, database: Database) -> bool:
        """Take some of what is new; return True if there is more. Raises `HubUnavailable` or `HubRefused`."""
        if connection is not self._connection:
            self._join(connection, database)
        if self._taking is None and not self._look(connection):
            return self._take_lists(connection, database)
        until = self.clock.monotonic() + _TURN_S
        while self._taking is not None and self.clock.monotonic() < until:
            self._take(connection, database, self._taking)
        return self._taking is not None or self._lists_place[0] < self._lists

    @property
    def followed(self) -> int:
        """The generation that crawlers see; another one is worth a ring."""
        return self._followed

    def _join(self, connection: HubConnection, database: Database) -> None:
        connection.listen(CHANNEL)
        ((plan, _, _),) = connection.call("plan_v1")
        with database.read() as tx:
            before, self._followed = plan_copy.followed(tx), wanted_authors.latest_generation(tx)
        if before is None and self._followed > 0:
            raise HubRefused(
                "this database wanted authors before it joined the hub: set EVENTS_DATABASE_PATH to a new file"
            )
        if before is not None and before.id != plan:
            raise OtherHub("this database followed another hub: set EVENTS_DATABASE_PATH to a new file")
        if before is None:
            with database.write() as tx:
                plan_copy.put_followed(tx, FollowedPlan(plan, 0))
        self._plan = before or FollowedPlan(plan, 0)
        self._lists_place = (self._plan.lists, PAST_ALL)
        self._connection, self._taking, self._look_at = connection, None, -math.inf

    def _look(self, connection: HubConnection) -> bool:
        """Return True if the hub has published more."""
        now = self.clock.monotonic()
        if not connection.wait(0.0) and now < self._look_at:
            return False
        self._look_at = now + _LOOK_S
        ((_, published, self._lists),) = connection.call("plan_v1")
        if published <= self._followed:
            return False
        self._taking = _Taking(published, list(SUBJECTS), self._followed)
        return True

    def _take_lists(self, connection: HubConnection, database: Database) -> bool:
        """Take some relay lists; return True if there are more."""
        if self._lists_place[0] >= self._lists:
            return False
        rows = connection.call("lists_v1", *self._lists_place, _LISTS_SLICE)
        found = [
            NamedRelays(key, tuple(writes.split()), tuple(reads.split()), change) for key, writes, reads, change in rows
        ]
        is_whole = len(found) < _LISTS_SLICE
        self._lists_place = (self._lists, PAST_ALL) if is_whole else (found[-1].change, found[-1].public_key)
        with database.write() as tx:
            plan_copy.put_lists(tx, found, self.clock.now_ms())
            if is_whole:
                self._plan = FollowedPlan(self._plan.id, self._lists)
                plan_copy.put_followed(tx, self._plan)
        return not is_whole

    def _take(self, connection: HubConnection, database: Database, taking: _Taking) -> None:
        if not taking.subjects:
            # Last, so that no author is asked for by these changes while ids are known that home lacks.
            if not self._unwanted.turn(connection, database):
                self._finish(database, taking)
            return
        subject = taking.subjects[0]
        if taking.fetched is None:
            ((packed,),) = connection.call("authors_v1", subject, taking.generation, taking.key, _FETCHED)
            taking.fetched = unpack(packed)
            if taking.fetched:
                taking.generation, taking.key = taking.fetched[-1].generation, taking.fetched[-1].public_key
            taking.fetched.reverse()
            if not taking.fetched:
                self._finish_subject(taking)
            return
        members, taking.fetched = taking.fetched[-SLICE:], taking.fetched[:-SLICE] or None
        with database.write() as tx:
            plan_copy.put_members(tx, subject, members[::-1])
        pause(_GAP_S)

    def _finish_subject(self, taking: _Taking) -> None:
        del taking.subjects[0]
        taking.generation, taking.key, taking.fetched = self._followed, PAST_ALL, None

    def _finish(self, database: Database, taking: _Taking) -> None:
        with database.read() as tx:
            count = plan_copy.count_wanted(tx)
        with database.write() as tx:
            plan_copy.raise_generation(tx, taking.published)
            plan_copy.put_count(tx, count)
        self._followed, self._taking = taking.published, None
        self.log.info("follows what home wants", generation=taking.published, authors=count)
