"""What the losses of one relay's connections teach about its limits. Pure."""

from enum import Enum, auto
from typing import Final

from pipeline.relay.dimensions import Dimension, Source
from pipeline.relay.session import Session

# Connections in a row that were lost while their largest request was unanswered until requests are made smaller.
MAX_FRUITLESS: Final = 2
# Connections in a row that were lost in the middle of a page until pages are made smaller.
MAX_CUT: Final = 2
# Smaller pages end a relay's patience with slow readers no less, and cost a request for each few events.
LEAST_PAGE: Final = 20


class Lesson(Enum):
    """What follows from a loss."""

    NONE = auto()
    SMALLER_REQUESTS = auto()
    SMALLER_PAGES = auto()


class Losses:
    """The losses in a row. Some relays reset a connection over a request that is too large, and some end those who read
    slower than a page is sent.

    Smaller requests may have been answered on the same connection: what counts is whether the largest was.
    """

    __slots__ = ("_cut", "_fruitless", "_largest_answered")

    def __init__(self) -> None:
        self._fruitless = 0
        self._cut = 0
        # The bytes of the largest request that was answered on any connection.
        self._largest_answered = 0

    def on_page(self, count: int, limit: int) -> None:
        """A page of `count` events came to its end, of at most `limit`."""
        if 2 * count >= limit:
            self._cut = 0

    def on_lost(self, session: Session) -> Lesson:
        """Take the loss of the connection of `session`, whose limits are narrowed if it teaches something."""
        self._largest_answered = max(self._largest_answered, session.subscriptions.largest_answered)
        if session.subscriptions.cut_page:
            self._cut += 1
            return self._take_cut(session)
        if not session.subscriptions.suspect:
            self._fruitless = 0
            return Lesson.NONE
        self._fruitless += 1
        smaller = session.limits.below(session.subscriptions.suspect, self._largest_answered)
        if self._fruitless < MAX_FRUITLESS or smaller == session.limits:
            return Lesson.NONE
        session.learn(smaller)
        return Lesson.SMALLER_REQUESTS

    def _take_cut(self, session: Session) -> Lesson:
        smaller = max(LEAST_PAGE, session.limits.page_limit // 2)
        if self._cut < MAX_CUT or smaller >= session.limits.page_limit:
            return Lesson.NONE
        self._cut = 0
        session.learn(session.limits.narrowed(Dimension.LIMIT, smaller, Source.LOSS))
        return Lesson.SMALLER_PAGES
