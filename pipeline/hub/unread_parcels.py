"""Parcels that home cannot read: kept in its database until a version of it can, as far as there is room for them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.hub.parcel import InvalidParcel, decode_events
from pipeline.hub.taking import HubParcel, Opened, open_parcel, put
from pipeline.printable import count_of
from pipeline.process.logs import Logger
from pipeline.rules.acceptance import EventLimits
from pipeline.store import taken_parcels
from pipeline.store.counters import StageTally
from pipeline.store.database import Database, Tx

# Beyond it the streams that such parcels come from wait in the hub, and their hosts with them.
MOST_BYTES: Final = 256 << 20


@dataclass(slots=True)
class UnreadParcels:
    """For one thread."""

    limits: EventLimits
    log: Logger
    _count: int = 0
    _size: int = 0
    _after: int = 0
    """The last one that was tried again."""
    _waiting: set[str] = field(default_factory=set)
    """Hosts whose streams wait."""

    @property
    def problem(self) -> str:
        """What is wrong, for health; empty while there are none."""
        if self._waiting:
            hosts = ", ".join(sorted(self._waiting))
            return f"parcels of {hosts} cannot be read and wait in the hub: update this home host"
        return (
            f"{count_of(self._count, 'parcel', 'are')} kept that cannot be read: update this home host"
            if self._count
            else ""
        )

    def look(self, database: Database) -> None:
        """Count what is kept."""
        with database.read() as tx:
            self._count, self._size = taken_parcels.unread_size(tx)

    def next(self, database: Database, now: int) -> tuple[int, Opened] | None:
        """Return the next one that can be read now, with its number."""
        while True:
            with database.read() as tx:
                found = taken_parcels.unread(tx, self._after)
            if found is None:
                return None
            self._after = found.id
            opened = open_parcel(HubParcel("", found.host, 0, b"", b"", found.body, found.notes), self.limits, now)
            if not opened.problem:
                self.log.info("parcel that was set aside is taken", host=found.host)
                return found.id, opened

    def take(self, tx: Tx, found: tuple[int, Opened], now: int) -> StageTally:
        """Write what is in it, and keep it no longer; return what to count."""
        id_, opened = found
        _, tally = put(tx, [opened], now)
        taken_parcels.drop_unread(tx, id_)
        return tally

    def acceptable(self, found: Sequence[HubParcel]) -> list[HubParcel]:
        """Return the parcels that may be taken: without room for more, none of a stream from an unreadable one on."""
        self._waiting.clear()
        if self._size < MOST_BYTES:
            return list(found)
        streams: set[str] = set()
        for each in found:
            if each.stream not in streams and not _is_readable(each):
                streams.add(each.stream)
                self._waiting.add(each.host)
        return [each for each in found if each.stream not in streams]

    def on_taken(self, database: Database, opened: Sequence[Opened]) -> None:
        """Count what was set aside."""
        if any(each.problem for each in opened):
            self.look(database)


def _is_readable(parcel: HubParcel) -> bool:
    try:
        decode_events(parcel.body)
    except InvalidParcel:
        return False
    return True
