"""What a window could not have, and what it could not have by pages alone."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.crawl.sync.paging.slices import Gap, Slice


@dataclass(frozen=True, slots=True)
class Missing:
    """What could not be had: why, from when to when, and how many events the page that shows it had."""

    gap: Gap
    low: int
    high: int
    form: str = ""
    returned: int = 0


@dataclass(frozen=True, slots=True)
class Stuck:
    """A slice that pages do not divide, and how many events its page had."""

    part: Slice
    gap: Gap
    returned: int


@dataclass(slots=True)
class MissingRecord:
    """All that one window could not have. `reasons`: how often, but for the same second twice in a row."""

    reasons: Counter[Gap] = field(default_factory=Counter)
    _all: list[Missing] = field(default_factory=list)
    _new: list[Missing] = field(default_factory=list)
    _last: tuple[Gap, int] | None = None

    def add(self, missing: Missing, *, once: bool = False) -> None:
        """Note what is missing; `once`: it is counted once, since how much is missing cannot be known."""
        self._all.append(missing)
        self._new.append(missing)
        if once:
            self.reasons[missing.gap] = 1
        elif self._last != (missing.gap, missing.high):
            self.reasons[missing.gap] += 1
            self._last = (missing.gap, missing.high)

    def absorb(self, other: "MissingRecord") -> None:
        """Take what another window found, which tells and counts it by itself."""
        self._all += other._all

    def take_new(self) -> list[Missing]:
        """Return what was added since the last call."""
        taken, self._new = self._new, []
        return taken

    def confirmed(self, may_be_full: Callable[[str, int], bool]) -> list[Missing]:
        """Return all but what pages show that, as `may_be_full` of their form and size says, were not cut off."""
        return [each for each in self._all if not each.form or may_be_full(each.form, each.returned)]

    @property
    def gaps(self) -> set[Gap]:
        """For which reasons anything is missing."""
        return {each.gap for each in self._all}
