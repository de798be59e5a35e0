"""Home's side of the plan: hands over to the hub whose events are wanted, in slices, and then publishes them.

What the hub has is read from it, so that nothing is remembered here. A home that was restored from an older copy finds
that the hub is ahead: what changed there since is corrected to what home knows, under numbers above the hub's.
"""

from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from pipeline.hub import unwanted_ids
from pipeline.hub.connection import HubConnection
from pipeline.process.clock import Clock
from pipeline.process.logs import Logger
from pipeline.store import plan_copy, relay_lists, wanted_authors
from pipeline.store.database import Database
from pipeline.store.plan_copy import SUBJECTS, NamedRelays, Place, PlanMember

SLICE: Final = 2_000
_LISTS_SLICE: Final = 1_000
FUNCTIONS: Final = (
    "plan_v1",
    "put_authors_v1",
    "put_lists_v1",
    "publish_plan_v1",
    "authors_v1",
    "home_lists_v1",
    *unwanted_ids.FEED_FUNCTIONS,
)
"""What the hub must have for this."""
RECORD: Final = Struct(">32s?Bqq")
# Behind all keys of a generation.
PAST_ALL: Final = b"\xff" * 33


@dataclass(slots=True)
class _Push:
    """Handing over all changes up to `latest`: how far each subject is, None once it is done."""

    latest: int
    places: dict[int, Place]


@dataclass(slots=True)
class PlanFeed:
    """For one thread."""

    clock: Clock
    log: Logger
    _published: int = 0
    _push: _Push | None = None
    _lists: int = 0
    """The newest change of relay lists that was handed over."""
    _connection: HubConnection | None = field(default=None)

    def turn(self, connection: HubConnection, database: Database) -> bool:
        """Hand over a slice, if anything changed; return True if there is more. Raises `HubUnavailable`."""
        if connection is not self._connection:
            ((_, self._published, _),) = connection.call("plan_v1")
            self._push = None
            self._catch_up(connection, database)
            self._connection = connection
        with database.read() as tx:
            latest = wanted_authors.latest_generation(tx)
        if self._push is None and latest == self._published:
            return self._hand_lists(connection, database)
        with database.read() as tx:
            push = self._push or _Push(latest, {each: Place(self._published) for each in SUBJECTS})
            subject, place = next(iter(push.places.items()))
            members, end = plan_copy.changed_after(tx, subject, place, push.latest, SLICE)
            wanted = (each.public_key for each in members if each.is_wanted)
            lists = plan_copy.lists_of(tx, wanted) if subject == plan_copy.WANTED else []
        self._push = push
        _put(connection, subject, members)
        self._put_lists(connection, lists)
        if len(members) == SLICE:
            push.places[subject] = end
            return True
        del push.places[subject]
        if not push.places:
            # Which were noted before these changes, and others: no host follows them before it forgets those.
            unwanted_ids.hand_over(connection, database)
            connection.call("publish_plan_v1", push.latest)
            self._published, self._push = push.latest, None
        return True

    def _hand_lists(self, connection: HubConnection, database: Database) -> bool:
        """Hand over relay lists that changed; return True if there are more."""
        with database.read() as tx:
            lists = plan_copy.lists_after(tx, self._lists, _LISTS_SLICE)
        if lists:
            self._lists = lists[-1].change
            self._put_lists(connection, lists)
        return len(lists) == _LISTS_SLICE

    def _put_lists(self, connection: HubConnection, lists: list[NamedRelays]) -> None:
        if lists:
            connection.call(
                "put_lists_v1", [each.public_key for each in lists], [" ".join(each.writes) for each in lists],
                [" ".join(each.reads) for each in lists], self._lists,
            )  # fmt: skip

    def _catch_up(self, connection: HubConnection, database: Database) -> None:
        """Go above the hub's changes where it has more than this database, and correct these."""
        ((lists,),) = connection.call("home_lists_v1")
        with database.read() as tx:
            latest = wanted_authors.latest_generation(tx)
            # A home that was restored numbers its changes again.
            self._lists = lists if lists <= relay_lists.latest(tx) else 0
        if latest >= self._published:
            return
        self.log.warning(
            "the hub has a newer plan than this database: it was restored, and the plan is corrected",
            hub=self._published, here=latest,
        )  # fmt: skip
        generation = self._published + 1
        for subject in SUBJECTS:
            after, key = latest, PAST_ALL
            while members := unpack(connection.call("authors_v1", subject, after, key, SLICE)[0][0]):
                after, key = members[-1].generation, members[-1].public_key
                with database.write() as tx:
                    unknown = plan_copy.change_again(tx, subject, (each.public_key for each in members), generation)
                _put(connection, subject, [PlanMember(each, False, 0, generation, 0) for each in unknown])
        with database.write() as tx:
            plan_copy.raise_generation(tx, generation)


def _put(connection: HubConnection, subject: int, members: list[PlanMember]) -> None:
    if members:
        keys, wanted, sinces, generations, tiers = map(list, zip(*members, strict=True))
        connection.call("put_authors_v1", subject, keys, wanted, sinces, generations, tiers)


def unpack(packed: bytes) -> list[PlanMember]:
    """Read what `authors_v1` answers."""
    return [
        PlanMember(key, is_wanted, since, generation, tier)
        for key, is_wanted, tier, since, generation in RECORD.iter_unpack(packed)
    ]
