"""The search for the most that a relay takes of something, in few questions. Pure."""

from bisect import bisect_left
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

from pipeline.probe.exchange import Ask, Reply

# What people set limits to.
ROUND: Final = (
    1, 2, 3, 4, 5, 10, 15, 16, 20, 25, 30, 32, 40, 50, 64, 80, 100, 128, 150, 200, 250, 256, 300, 400, 500, 512, 750,
    1_000, 1_024, 1_500, 2_000, 2_048, 2_500, 3_000, 4_000, 5_000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Taken:
    """`most`: what was taken; None where not even one was. `refused_at` and `refusal`: the least that was not."""

    most: int | None
    refused_at: int | None = None
    refusal: Reply | None = None


class _Bracket:
    """What was taken and what was not, so far."""

    def __init__(self, top: int, refusal: Reply) -> None:
        self.low = 0
        self.high = top
        self.refusal = refusal
        self._tried_round = False

    def next(self) -> int:
        """Return what to try: the number that the relay names, round numbers, then halves."""
        complaint = self.refusal.complaint
        named = None if complaint is None else complaint.most
        if named is not None and self.low < named < self.high:
            return named
        if self.low and self.low in (*ROUND, named) and not self._tried_round:
            first, last = bisect_left(ROUND, self.low + 1), bisect_left(ROUND, self.high)
            if first >= last or named == self.low:
                # Limits are round: that one more is refused mostly settles it.
                self._tried_round = True
                return self.low + 1
        between = [each for each in ROUND if self.low < each < self.high]
        return between[len(between) // 2] if between else (self.low + self.high) // 2

    def note(self, size: int, answer: Reply, *, is_taken: bool) -> None:
        """Take what was found for `size`."""
        if is_taken:
            self.low = size
        else:
            self.high, self.refusal = size, answer


def most_taken(
    ask: Callable[[int], Ask], is_taken: Callable[[Reply, int], bool], top: int, *, refusal: Reply | None = None
) -> Generator[Ask, Reply, Taken]:
    """Return the most of 1 to `top` that is taken; `refusal`: that of `top`, where it is known already."""
    if refusal is None:
        refusal = yield ask(top)
        if is_taken(refusal, top):
            return Taken(top)
    bracket = _Bracket(top, refusal)
    while bracket.high - bracket.low > 1:
        size = bracket.next()
        answer = yield ask(size)
        bracket.note(size, answer, is_taken=is_taken(answer, size))
    return Taken(bracket.low or None, bracket.high, bracket.refusal)
