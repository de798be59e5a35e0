"""Whether a relay that comes back has the store that it had before, told by a few events that it gave.

No I/O, no clock; `mono` is monotonic seconds.
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import is_regular
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded

# A sample is worth a row again once it is so old: the relay may have forgotten the oldest events of it by then.
SAVE_EVERY_S: Final = 3_600.0


class StoreIdentity:
    """The sample of one relay's events, over all its connections and processes."""

    KEY: Final = "identity"
    SAMPLE: Final = 20

    __slots__ = ("_given", "_is_due", "_save_at", "_saved")

    def __init__(self) -> None:
        self._given: deque[bytes] = deque(maxlen=self.SAMPLE)
        self._saved: tuple[bytes, ...] = ()
        self._save_at = -math.inf
        self._is_due = False

    def recall(self, ids: Iterable[bytes]) -> None:
        """Take the sample of a former process."""
        self._given.extend(dict.fromkeys(ids))
        self._saved = tuple(self._given)

    def note(self, event: Event) -> None:
        """Note that the relay gave an event, once; those that a newer version replaces say nothing."""
        if is_regular(event.kind) and event.id not in self._given:
            self._given.append(event.id)

    def on_connected(self) -> None:
        """Ask on this connection, if enough is known."""
        self._is_due = len(self._given) == self.SAMPLE

    def open(self, session: Session, mono: float) -> None:
        """Ask for the events, if that is due and there is room."""
        if self._is_due and session.has_room_for_page():
            self._is_due = False
            session.open_page(self.KEY, Filter(ids=frozenset(self._given), limit=self.SAMPLE), mono)

    def is_other(self, ended: PageEnded) -> bool:
        """Take the answer; return True if fewer than half came back. Only a complete answer says anything."""
        if ended.refusal is not None or 2 * len(ended.ids & set(self._given)) >= len(self._given):
            return False
        self._given.clear()
        self._save_at = -math.inf
        return True

    def take_sample(self, mono: float) -> tuple[bytes, ...] | None:
        """Return the sample if it is to be stored now: once it is whole, and when the one that is stored is old."""
        if mono < self._save_at or (self._given and len(self._given) < self.SAMPLE):
            return None
        sample = tuple(self._given)
        if sample == self._saved:
            return None
        self._saved, self._save_at = sample, mono + SAVE_EVERY_S
        return sample
