"""Which share of the relays one crawler process takes, by who else crawls. Pure; `now` is monotonic seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SETTLED_AFTER_S: Final = 10.0
"""A change of who crawls is followed when nothing changed for so long: a process that is restarted is away for less."""


@dataclass(frozen=True, slots=True)
class Share:
    """The `index`-th of `count` equal shares."""

    index: int
    count: int


class Crew:
    """The crawler processes that share the relays, as the one in slot `index` sees them."""

    __slots__ = ("_changed_at", "_index", "_members", "_seen")

    def __init__(self, index: int) -> None:
        self._index = index
        self._members: tuple[int, ...] | None = None
        self._seen: tuple[int, ...] = ()
        self._changed_at = 0.0

    def share(self, held: Sequence[int], supervised: int | None, now: float) -> Share | None:
        """The share of this process; None if the others take everything.

        `held`: the slots of all crawlers that run. `supervised`: how many crawlers the supervisor runs, which are
        always those of the lowest slots; None without a supervisor.
        """
        if supervised is not None:
            return Share(self._index, supervised) if self._index < supervised else None
        members = tuple(sorted({*held, self._index}))
        if members != self._seen:
            self._seen, self._changed_at = members, now
        if self._members is None or now - self._changed_at >= SETTLED_AFTER_S:
            self._members = self._seen
        return Share(self._members.index(self._index), len(self._members))
