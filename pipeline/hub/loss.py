"""Makes good what the hub lost of this host: drops what vouches for it, so that relays are asked for it again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.process.logs import Logger
from pipeline.store import hub_losses
from pipeline.store.database import Database
from pipeline.store.events import FIRST_SEEN
from pipeline.store.hub_losses import Loss

# A transaction of so many rows takes some ten milliseconds.
_SLICE: Final = 5_000


@dataclass(slots=True)
class LossSettling:
    """For one thread. `running`: the slots of the crawlers that run."""

    running: Callable[[], Sequence[str]]
    log: Logger
    _loss: Loss | None = None
    """What is being settled."""
    _place: tuple[int, bytes] | None = FIRST_SEEN
    """Behind the last id that was looked at; None behind all."""

    def is_open(self, database: Database) -> bool:
        """Return True if anything is to be settled; no relay may be held until then."""
        with database.read() as tx:
            return not hub_losses.newest(tx).is_settled

    def turn(self, database: Database) -> bool:
        """Drop a slice, if no crawler remembers what is dropped; return True if all is dropped."""
        with database.read() as tx:
            loss, followed = hub_losses.newest(tx), hub_losses.followed(tx)
        if any(followed.get(slot) != loss.number for slot in self.running()):
            return False
        if loss != self._loss:
            self._loss, self._place = loss, FIRST_SEEN
            self.log.warning("the hub lost events of this host, which are asked for again", loss=loss.number)
        with database.write() as tx:
            if hub_losses.drop_cursors(tx, _SLICE):
                return False
            if self._place is not None:
                self._place = hub_losses.forget_seen(tx, loss, self._place, _SLICE)
        return self._place is None
