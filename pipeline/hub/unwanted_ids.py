"""Home's word to crawling hosts which ids to forget, since it did not want the events (`pipeline.store.unwanted_ids`).

Home hands over all that it noted before it publishes a change of whom it wants, and a host forgets all of that before
it follows the change. So nothing that home lacks of one who becomes wanted
by the change is known when relays are asked for it.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final

from pipeline.hub.connection import HubConnection
from pipeline.store import unwanted_ids
from pipeline.store.database import Database
from pipeline.store.unwanted_ids import UnwantedId

FEED_FUNCTIONS: Final = ("put_unwanted_v1",)
FUNCTIONS: Final = ("unwanted_v1",)
"""What the hub must have for home's side, and for a crawling host's."""
RECORD: Final = Struct(">32sq")
MOST: Final = 1_000
# Calls of home that are read at once.
_ROWS: Final = 5
# A transaction of so many takes some ten milliseconds of the write lock.
_SLICE: Final = 5_000


def hand_over(connection: HubConnection, database: Database) -> None:
    """Hand over all that home noted by now. Raises `HubUnavailable` or `HubRefused`."""
    while True:
        with database.read() as tx:
            noted = unwanted_ids.first(tx, MOST)
        if noted is None:
            return
        connection.call("put_unwanted_v1", b"".join(RECORD.pack(*each) for each in noted.ids), noted.is_all)
        with database.write() as tx:
            unwanted_ids.remove(tx, noted.last)


@dataclass(slots=True)
class UnwantedSync:
    """A crawling host's side. For one thread."""

    _forgets_all_for: int | None = None
    """The place to go to once all ids are forgotten."""

    def turn(self, connection: HubConnection, database: Database) -> bool:
        """Forget some of what home noted; return True if there is more. Raises `HubUnavailable` or `HubRefused`."""
        if self._forgets_all_for is not None:
            self._forget_all(database, self._forgets_all_for)
            return True
        with database.read() as tx:
            before = unwanted_ids.place(tx)
        ((place, packed, is_whole),) = connection.call("unwanted_v1", before, _ROWS)
        if not is_whole:
            self._forgets_all_for = place
            return True
        if place == before:
            return False
        with database.write() as tx:
            unwanted_ids.forget(tx, (UnwantedId(*each) for each in RECORD.iter_unpack(packed)))
            unwanted_ids.put_place(tx, place)
        return True

    def _forget_all(self, database: Database, place: int) -> None:
        """Forget a slice; home drops what it gets twice."""
        with database.write() as tx:
            if not unwanted_ids.forget_some(tx, _SLICE):
                unwanted_ids.put_place(tx, place)
                self._forgets_all_for = None
