"""The largest message that the target relay says it takes (NIP-11), looked up once a day beside the sending."""

import math
import threading
from collections.abc import Callable
from typing import Final

from pipeline.process.clock import Clock
from pipeline.relay.limits import INFORMATION_AGE_S
from pipeline.relay.nip11 import InvalidInformation, RelayInformation

# A relay that accepts less accepts no event; a smaller figure means something else.
_LEAST_BYTES: Final = 1_024


class FrameLimit:
    """`most` bytes of a message, None while the relay has not said. `fetch` may wait, in a thread of its own."""

    __slots__ = ("_asked_at", "_clock", "_fetch", "most")

    def __init__(self, fetch: Callable[[], RelayInformation], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._asked_at = -math.inf
        self.most: int | None = None

    def refresh(self) -> None:
        """Ask the relay if that was not done for a day, without waiting."""
        now = self._clock.monotonic()
        if now - self._asked_at >= INFORMATION_AGE_S:
            self._asked_at = now
            threading.Thread(target=self._look, name="frame-limit", daemon=True).start()

    def _look(self) -> None:
        try:
            said = self._fetch().limits.max_message_length
        except InvalidInformation:
            return
        self.most = None if said is None or said < _LEAST_BYTES else said
