"""CLOSEs that the relay may not have taken. Pure.

A relay that limits the rate of messages drops a CLOSE like any other, and says so in a NOTICE that names none. The
subscription stays open there, beside all that are opened after it, until they are too many.

| a CLOSE is | event | it becomes |
|---|---|---|
| sent | a request that was sent after it is answered | taken: forgotten |
| sent | the relay says that it drops messages | doubtful |
| doubtful | messages may be sent again | sent, once more |
| sent, doubtful | its id is used again | forgotten, as a REQ replaces what is open |
"""

from typing import Final

# Far more than any relay lets us have open.
_MAX_SENT: Final = 256


class SentCloses:
    """The CLOSEs of one connection by the ids that they name."""

    __slots__ = ("_doubtful", "_sent")

    def __init__(self) -> None:
        # By id, how many requests had been sent before the CLOSE; in the order of sending.
        self._sent: dict[str, int] = {}
        self._doubtful: dict[str, None] = {}

    @property
    def doubtful(self) -> int:
        """How many subscriptions may still be open at the relay."""
        return len(self._doubtful)

    def on_sent(self, subscription_id: str, requests: int) -> None:
        """Note a CLOSE that is sent after so many requests."""
        self._sent.pop(subscription_id, None)
        self._sent[subscription_id] = requests
        if len(self._sent) > _MAX_SENT:
            del self._sent[next(iter(self._sent))]

    def on_opened(self, subscription_id: str) -> None:
        """Note a REQ under an id."""
        self._sent.pop(subscription_id, None)
        self._doubtful.pop(subscription_id, None)

    def on_answered(self, number: int) -> None:
        """Note that the relay answered the `number`th request: it read what was sent before."""
        while self._sent and self._sent[oldest := next(iter(self._sent))] < number:
            del self._sent[oldest]

    def on_dropped(self) -> None:
        """Note that the relay dropped some message."""
        self._doubtful.update(dict.fromkeys(self._sent))
        self._sent.clear()

    def take_doubtful(self, most: int) -> list[str]:
        """Return at most so many ids to send a CLOSE for once more."""
        taken = list(self._doubtful)[:most]
        for subscription_id in taken:
            del self._doubtful[subscription_id]
        return taken
