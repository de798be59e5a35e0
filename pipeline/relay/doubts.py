"""A refusal that may be of any of several pages: those that stay unanswered are asked for again, one by one. Pure."""

from collections.abc import Iterable
from typing import Final

from pipeline.relay.subscription import Subscription

# How long pages may still be answered after a refusal that could be of any of them.
DOUBT_S: Final = 2.0


class Doubts:
    """The pages of one connection of which one was refused; `alone`: how many more are asked for one at a time."""

    __slots__ = ("_ids", "alone", "text", "until")

    def __init__(self) -> None:
        self.text = ""
        self.until: float | None = None
        self.alone = 0
        self._ids: frozenset[str] = frozenset()

    def begin(self, pages: Iterable[Subscription], text: str, now: float) -> None:
        """A refusal with this text is of one of these pages; one that is in doubt already is looked at first."""
        ids = frozenset(each.id for each in pages)
        if ids and self.until is None:
            self._ids, self.text, self.until = ids, text, now + DOUBT_S

    def take_due(self, asked: Iterable[Subscription], now: float) -> list[Subscription]:
        """Return those that stayed without an answer, once their time is over; they are asked for alone next."""
        if self.until is None or now < self.until:
            return []
        unanswered = [each for each in asked if each.id in self._ids and not each.answered]
        self.until = None
        self.alone = len(unanswered)
        return unanswered

    def on_page_ended(self) -> None:
        """Note the end of a page that was asked for."""
        self.alone = max(0, self.alone - 1)
