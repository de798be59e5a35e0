"""Home's place in the hub's log: which parcels come next in each stream, also after the hub went back.

A hub that went back may have other parcels by now under numbers that home has taken, since a host may have lost the
same ones. Digests tell, and home goes back to the last parcel that both have; what it takes again costs a look at ids.

| what the hub has of a stream | then |
|---|---|
| more, and the next parcel follows what home took | taken |
| more, but the next parcel follows another | home goes back to the newest in common |
| less than home took, or another parcel of that number | the same |
| a parcel with a higher number than the next | taken; the hub dropped those between, which is reported |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.hub.connection import HubConnection
from pipeline.hub.taking import HubParcel
from pipeline.process.logs import RateLimitedLogger
from pipeline.store import taken_parcels
from pipeline.store.database import Database
from pipeline.store.taken_parcels import Position, newest_common

FUNCTIONS: Final = ("parcels_v1", "taken_v1", "streams_v1", "confirm_v1")
"""What the hub must have for this."""
# Of one look: some five transactions of the inbox.
_MOST_PARCELS: Final = 5
_MOST_BYTES: Final = 4 << 20


@dataclass(slots=True)
class HubLog:
    """For one thread."""

    _log: RateLimitedLogger
    _positions: dict[str, Position] = field(default_factory=dict)
    _begun_again: set[str] = field(default_factory=set)
    """Streams that are taken from their first kept parcel on, what is before it having been taken."""

    def load(self, database: Database) -> None:
        """Go by what this database has."""
        with database.read() as tx:
            self._positions = taken_parcels.positions(tx)

    def next(self, connection: HubConnection, database: Database) -> list[HubParcel]:
        """Return the next parcels, those of each stream in their order. Raises `HubUnavailable` or `HubRefused`."""
        names = list(self._positions)
        numbers = [self._positions[name].number for name in names]
        rows = connection.call("parcels_v1", names, numbers, _MOST_PARCELS, _MOST_BYTES)
        found = [
            HubParcel(stream, host, number, before, digest, body, notes)
            for stream, host, number, before, digest, body, notes in rows
        ]
        parted = {each.stream for each in found if not self._follows(each)}
        for stream in parted:
            self._go_back(connection, database, stream)
        return [each for each in found if each.stream not in parted]

    def _follows(self, parcel: HubParcel) -> bool:
        position = self._positions.get(parcel.stream, Position())
        return parcel.number != position.number + 1 or parcel.before == position.digest

    def compare(self, connection: HubConnection, database: Database) -> None:
        """Find streams of which the hub has less than home took, or other parcels."""
        for stream, last, digest in connection.call("streams_v1", list(self._positions)):
            position = self._positions[stream]
            if last < position.number or (last == position.number and digest != position.digest):
                self._go_back(connection, database, stream)

    def _go_back(self, connection: HubConnection, database: Database, stream: str) -> None:
        with database.read() as tx:
            kept = taken_parcels.taken(tx, stream)
        rows = connection.call(
            "confirm_v1", [stream] * len(kept), [each.number for each in kept], [each.digest for each in kept]
        )
        common = newest_common(kept, {number: True for _, number in rows})
        self._log.warning(
            "hub-went-back", "the hub went back, parcels are taken again",
            stream=stream, taken=self._positions.get(stream, Position()).number, common=common.number,
        )  # fmt: skip
        with database.write() as tx:
            taken_parcels.go_back(tx, stream, common)
        self._positions[stream] = common
        if not common.number:
            self._begun_again.add(stream)

    def on_taken(self, parcels: Sequence[HubParcel]) -> dict[str, tuple[int, int]]:
        """Go on behind parcels that are committed; return by host the numbers that the hub had dropped before them."""
        missing: dict[str, tuple[int, int]] = {}
        for each in parcels:
            before = self._positions.get(each.stream, Position()).number
            if each.number > before + 1 and each.stream not in self._begun_again:
                missing[each.host] = (before + 1, each.number - 1)
            self._positions[each.stream] = each.position
            self._begun_again.discard(each.stream)
        return missing

    def report(self, connection: HubConnection) -> None:
        """Let the hub know how far home is."""
        if self._positions:
            numbers = [each.number for each in self._positions.values()]
            connection.call("taken_v1", list(self._positions), numbers)
