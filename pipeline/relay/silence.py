"""What it means that a relay does not answer: at the start of a connection, and later. Pure; times are monotonic.

A silence has many reasons: a relay that attaches its reader late hears nothing of what is sent before; one that paces
its clients answers late; one that drops what is too much for it never answers. Only the last teaches a limit, and only
when it does the same on another connection.
"""

from typing import Final

from pipeline.relay.subscription import Subscription

# If nothing at all is answered for so long after the first request, one page is asked for once more.
REPEAT_AFTER_S: Final = 2.0
# A silence on another connection within this time counts as the same.
_MEMORY_S: Final = 3_600.0


class Outset:
    """The start of a connection: one page is repeated if nothing is answered, and the rest if that is.

    ```
    state      event                          next      does
    unasked    first request                  waiting   begins to wait
    waiting    anything is answered, refused  over
    waiting    REPEAT_AFTER_S without answer  repeated  `repeat_at` is reached: the owner repeats one page
    repeated   the repeated page is answered  over      the owner repeats the rest that was sent before it
    repeated   anything else is answered      over
    ```
    """

    __slots__ = ("_repeated", "is_over", "repeat_at")

    def __init__(self) -> None:
        self.is_over = False
        self.repeat_at: float | None = None
        self._repeated: int | None = None

    def on_request(self, now: float) -> None:
        """Note a request."""
        if self.repeat_at is None and not self.is_over and self._repeated is None:
            self.repeat_at = now + REPEAT_AFTER_S

    def on_repeated(self, subscription: Subscription | None) -> None:
        """Note that the time to repeat a page has come, and which one was repeated, if there was any."""
        self.repeat_at = None
        self._repeated = None if subscription is None else subscription.number

    def on_answer(self, subscription: Subscription) -> bool:
        """Note an answer; returns whether the relay did not hear what was sent before this: it is to be repeated."""
        if self.is_over:
            return False
        self.is_over = True
        self.repeat_at = None
        return subscription.number == self._repeated

    def on_refusal(self) -> None:
        """Note a refusal that names no request: the relay hears."""
        self.is_over = True
        self.repeat_at = None

    def postpone(self, now: float) -> None:
        """Wait anew, after a pause in which nothing was read."""
        if self.repeat_at is not None:
            self.repeat_at = max(self.repeat_at, now + REPEAT_AFTER_S)


class Silences:
    """Pages that a relay left unanswered while it answered others; outlives its connections."""

    __slots__ = ("_at", "_connection")

    def __init__(self) -> None:
        self._at = 0.0
        self._connection: object | None = None

    def awaits(self, connection: object, now: float) -> bool:
        """Return True if `connection` is to show whether what happened on another happens again."""
        is_other = self._connection is not None and self._connection is not connection
        return is_other and now - self._at < _MEMORY_S

    def repeats(self, connection: object, now: float) -> bool:
        """Note a page without an answer; returns whether the same happened on another connection before."""
        if self.awaits(connection, now):
            self._connection = None
            return True
        self._at, self._connection = now, connection
        return False
