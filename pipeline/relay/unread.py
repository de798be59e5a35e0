"""Where in one answer lies what could not be read. Pure; times are Unix seconds."""

from typing import Final

# Spans of one page that are told apart.
MAX_UNREAD_SPANS: Final = 64


class UnreadSpans:
    """The spans of one page in which lie events that could not be read.

    An event of unknown time lies between its neighbours, as answers fall.
    """

    __slots__ = ("_latest", "spans")

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        # The time before which one of unknown time came, until the time behind it is known.
        self._latest: int | None = None

    def add(self, since: int, until: int) -> None:
        """Add a span; beyond the bound, one stands for all that are too many."""
        if len(self.spans) < MAX_UNREAD_SPANS:
            self.spans.append((since, until))
        else:
            first, last = self.spans[-1]
            self.spans[-1] = (min(first, since), max(last, until))

    def add_undated(self, latest: int) -> None:
        """Add an event of unknown time that is not newer than `latest`."""
        if self._latest is None:
            self._latest = latest

    def on_time(self, created_at: int) -> None:
        """Take the time of the next event: what came before it is not older."""
        if self._latest is not None:
            self.add(min(created_at, self._latest), max(created_at, self._latest))
            self._latest = None

    def on_end(self, since: int) -> None:
        """Take the end of the answer, which goes back to `since`."""
        if self._latest is not None:
            self.add(min(since, self._latest), self._latest)
            self._latest = None
