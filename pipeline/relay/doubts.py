"""A refusal that may be of any of several pages: those that stay unanswered are asked for again, one by one. Pure."""

from collections.abc import Iterable
from typing import Final

from pipeline.relay.subscription import Subscription

# How long pages may still be answered after a refusal that could be of any of them.
DOUBT_S: Final = 2.0


class Doubts:
    """The pages of one connection of which some were refused; `alone`: how many more are asked for one at a time."""

    __slots__ = ("_until", "alone", "text")

    def __init__(self) -> None:
        self.text = ""
        self.alone = 0
        # By id, until when a page may show that it was not refused.
        self._until: dict[str, float] = {}

    @property
    def until(self) -> float | None:
        """When `take_due` will have something to do."""
        return min(self._until.values(), default=None)

    def begin(self, pages: Iterable[Subscription], text: str, now: float) -> None:
        """A refusal with this text is of one of these pages."""
        self.text = text
        for each in pages:
            self._until.setdefault(each.id, now + DOUBT_S)

    def take_due(self, asked: Iterable[Subscription], now: float) -> list[Subscription]:
        """Return those that stayed without an answer, once their time is over; they are asked for alone next."""
        due = {name for name, until in self._until.items() if until <= now}
        if not due:
            return []
        for name in due:
            del self._until[name]
        unanswered = [each for each in asked if each.id in due and not each.answered]
        self.alone += len(unanswered)
        return unanswered

    def on_page_ended(self) -> None:
        """Note the end of a page that was asked for."""
        self.alone = max(0, self.alone - 1)
