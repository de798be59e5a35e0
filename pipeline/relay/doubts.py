"""A refusal that names no page: those that stay unanswered may be meant, and are asked for again one by one. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.relay.refusals import Refusal
from pipeline.relay.subscription import Subscription

# How long pages may still be answered after a refusal that could be of any of them.
DOUBT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Doubt:
    """What a page ends with if it has had no answer until a time."""

    refusal: Refusal
    text: str
    until: float


class Doubts:
    """The pages of one connection of which some were refused; `alone`: how many more are asked for one at a time."""

    __slots__ = ("_doubts", "alone")

    def __init__(self) -> None:
        self.alone = 0
        self._doubts: dict[str, _Doubt] = {}

    @property
    def until(self) -> float | None:
        """When `take_due` will have something to do."""
        return min((each.until for each in self._doubts.values()), default=None)

    def begin(self, pages: Sequence[Subscription], refusal: Refusal, text: str, now: float) -> None:
        """A refusal with this text is of one of these pages, if it is of any page."""
        if len(pages) > 1:
            refusal = Refusal.UNCLEAR
        elif not refusal.is_lasting:
            # It may be of size, though nothing of that size was asked for.
            refusal = Refusal.UNSUPPORTED
        for each in pages:
            self._doubts.setdefault(each.id, _Doubt(refusal, text, now + DOUBT_S))

    def take_due(self, asked: Iterable[Subscription], now: float) -> list[tuple[Subscription, Refusal, str]]:
        """Return those that stayed without an answer, once their time is over, each with its refusal and the text.

        Where several may have been meant it is unclear of each, and they are asked for alone next.
        """
        due = {name: doubt for name, doubt in self._doubts.items() if doubt.until <= now}
        for name in due:
            del self._doubts[name]
        found = [(each, due[each.id]) for each in asked if each.id in due and not each.answered]
        self.alone += sum(doubt.refusal is Refusal.UNCLEAR for _, doubt in found)
        return [(each, doubt.refusal, doubt.text) for each, doubt in found]

    def on_page_ended(self) -> None:
        """Note the end of a page that was asked for."""
        self.alone = max(0, self.alone - 1)
