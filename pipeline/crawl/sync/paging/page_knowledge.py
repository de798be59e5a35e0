"""What the pages of one relay showed, by the form of the filter; shared by all its windows. No I/O, no clock.

Above all: whether a relay leaves out of a page only what is older than all of it. That a page falls from newest to
oldest does not show it: its events may be sorted after they were chosen. So some pages are followed by a *control*: the
time that the page covers is asked for alone, and must not hold more than the page had of it. A control proves something
only if its page was cut off, which shows when older events follow.

| what is known of a form | event | then |
|---|---|---|
| fewer than `CONTROLS` proofs | a page that may be cut off | a control, unless so many are asked for already |
| as many controls asked for as are lacking | `CONTROL_EVERY` such pages without a proof | one more control |
| as many, or more | `CONTROL_EVERY` such pages since the last control | a control; twice as many until the next |
| anything | a control holds no more than its page, and older events follow | a proof more |
| anything | a control brings the same page again, as `since` is ignored | nothing: it shows nothing |
| anything | a control holds more than its page | no proof; every window of that form begins again, in any order |
| anything | a page has more than the one above it of the time that both cover | the same |
| fewer than `CONTROLS` proofs | a page that may be cut off rises or ignores `until`, after others fell | the same |

Forms are told apart, since stores have an index for each and may read one of them in another order.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

# Proofs until the order of a form is trusted.
CONTROLS: Final = 3
# Pages from then on to the first control, and at most between two.
CONTROL_EVERY: Final = 16
MAX_CONTROL_EVERY: Final = 256


@dataclass(slots=True)
class _Order:
    proofs: int = 0
    failures: int = 0
    pages: int = 0
    asked: int = 0
    every: int = CONTROL_EVERY


@dataclass(slots=True)
class PageKnowledge:
    """`largest`: the most events that were returned at once; `checked`: forms of which an empty page was checked."""

    largest: Counter[str] = field(default_factory=Counter)
    checked: set[str] = field(default_factory=set)
    _orders: dict[str, _Order] = field(default_factory=dict)

    def note_size(self, form: str, returned: int) -> None:
        """Take note that a page had so many events."""
        self.largest[form] = max(self.largest[form], returned)

    def proofs(self, form: str) -> int:
        """Return how often only what is older was seen to be left out."""
        return self._order(form).proofs

    def is_proven(self, form: str) -> bool:
        """Return True if only what is older was left out as often as it takes to trust the order."""
        return self.proofs(form) >= CONTROLS

    def failures(self, form: str) -> int:
        """Return how often something else was seen to be left out."""
        return self._order(form).failures

    def wants_control(self, form: str, returned: int) -> bool:
        """Take note of a page that falls, with so many events; return True if a control is to follow it."""
        order = self._order(form)
        if 2 * returned < self.largest[form]:
            # Hardly one that was cut off.
            return False
        order.pages += 1
        is_lacking = order.proofs + order.asked < CONTROLS
        if not is_lacking and order.pages < order.every:
            return False
        if order.proofs >= CONTROLS:
            order.every = min(2 * order.every, MAX_CONTROL_EVERY)
        order.pages, order.asked = 0, order.asked + 1
        return True

    def prove(self, form: str) -> None:
        """Take note that a control held no more than its page, which was cut off."""
        order = self._order(form)
        order.proofs, order.pages, order.asked = order.proofs + 1, 0, max(0, order.asked - 1)

    def disprove(self, form: str) -> None:
        """Take note that something else than what is older was left out."""
        self._orders[form] = _Order(failures=self.failures(form) + 1)

    def _order(self, form: str) -> _Order:
        return self._orders.setdefault(form, _Order())
