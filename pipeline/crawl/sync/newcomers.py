"""Who became wanted lately, so that a look for newcomers need not go through all authors. Pure.

Most that ask have followed the plan before the newest one: for them this is a few thousand members, where a crowd's
chunks are hundreds of thousands.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

# Members that are remembered beyond the newest change.
MOST: Final = 50_000
# Answers that are kept, each for all that have followed up to the same change.
_KEPT: Final = 8


class Dated(Protocol):
    """An author who became wanted by change number `generation`."""

    @property
    def generation(self) -> int:
        """Return the number."""
        ...


_Item = TypeVar("_Item", bound=Dated)
Changed: TypeAlias = Mapping[bytes, tuple[int, _Item | None]]
"""By public key the tier of who became wanted, None in place of who is wanted no longer."""


@dataclass(frozen=True, slots=True)
class Newcomers(Generic[_Item]):
    """Everything that changed after `floor`, in batches, each with the change up to which it goes."""

    floor: int = 0
    _batches: "tuple[tuple[int, Changed[_Item]], ...]" = ()
    _answers: dict[int, dict[int, list[_Item]]] = field(default_factory=dict, compare=False, repr=False)

    def plus(self, generation: int, changed: "Changed[_Item]") -> "Newcomers[_Item]":
        """Return these and what changed up to `generation`, without the oldest batches if they are too many."""
        floor, batches = self.floor, [*self._batches, (generation, changed)]
        size = sum(len(batch) for _, batch in batches)
        while size > MOST:
            floor, oldest = batches.pop(0)
            size -= len(oldest)
        return Newcomers(floor, tuple(batches))

    def since(self, generation: int) -> dict[int, list[_Item]] | None:
        """Return by tier who became wanted after a change and still is; None if that is too long ago to be known."""
        if generation < self.floor:
            return None
        found = self._answers.get(generation)
        if found is None:
            if len(self._answers) >= _KEPT:
                self._answers.clear()
            found = self._answers[generation] = self._collected(generation)
        return found

    def _collected(self, generation: int) -> dict[int, list[_Item]]:
        newest: dict[bytes, tuple[int, _Item | None]] = {}
        for until, batch in self._batches:
            if until > generation:
                newest |= batch
        found: defaultdict[int, list[_Item]] = defaultdict(list)
        for tier, member in newest.values():
            if member is not None and member.generation > generation:
                found[tier].append(member)
        return dict(found)
