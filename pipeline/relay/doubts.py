"""A refusal that names no subscription: those that stay unanswered may be meant. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.subscription import Subscription

# How long pages may still be answered after a refusal that could be of any of them.
DOUBT_S: Final = 2.0
# How long others wait for a page that is to be asked for alone; it may be wanted no more.
ALONE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class _Doubt:
    """What a page ends with if it has had no answer until a time."""

    refusal: RelayRefusal
    text: str
    until: float


class Doubts:
    """The pages of one connection of which some were refused."""

    __slots__ = ("_alone", "_doubts")

    def __init__(self) -> None:
        # By the key of a page that may have been refused, until when it is waited for to be asked for alone.
        self._alone: dict[str, float] = {}
        self._doubts: dict[str, _Doubt] = {}

    @property
    def asks_alone(self) -> bool:
        """Whether pages are asked for one at a time, so that a refusal is surely theirs."""
        return bool(self._alone)

    @property
    def until(self) -> float | None:
        """When `take_due` will have something to do."""
        return min((*(each.until for each in self._doubts.values()), *self._alone.values()), default=None)

    def begin(self, pages: Sequence[Subscription], refusal: RelayRefusal, text: str, now: float) -> None:
        """A refusal with this text is of one of these pages, if it is of any page."""
        if len(pages) > 1:
            refusal = RelayRefusal.UNCLEAR
        elif not refusal.is_lasting:
            # It may be of size, though nothing of that size was asked for.
            refusal = RelayRefusal.UNSUPPORTED
        for each in pages:
            self._doubts.setdefault(each.id, _Doubt(refusal, text, now + DOUBT_S))

    def begin_live(self, live: Sequence[Subscription], text: str, now: float) -> None:
        """A refusal with this text may be of one of these live subscriptions, for their `limit: 0`."""
        for each in live:
            if not each.answered:
                self._doubts.setdefault(each.id, _Doubt(RelayRefusal.ZERO_LIMIT, text, now + DOUBT_S))

    def take_due(self, asked: Iterable[Subscription], now: float) -> list[tuple[Subscription, RelayRefusal, str]]:
        """Return those that stayed without an answer, once their time is over, each with its refusal and the text.

        Where several may have been meant it is unclear of each, and they are asked for alone next.
        """
        self._alone = {key: until for key, until in self._alone.items() if until > now}
        due = {name: doubt for name, doubt in self._doubts.items() if doubt.until <= now}
        for name in due:
            del self._doubts[name]
        found = [(each, due[each.id]) for each in asked if each.id in due and not each.answered]
        for each, doubt in found:
            if doubt.refusal is RelayRefusal.UNCLEAR:
                self._alone[each.key] = now + ALONE_S
            else:
                self.on_page_ended(each.key)
        return [(each, doubt.refusal, doubt.text) for each, doubt in found]

    def on_page_ended(self, key: str) -> None:
        """Note how the page of this key ended for itself: answered, or surely refused."""
        self._alone.pop(key, None)
