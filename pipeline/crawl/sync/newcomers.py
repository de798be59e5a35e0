"""Who became wanted lately, so that a look for newcomers need not go through all authors. Pure.

Most that ask have followed the plan before the newest one: for them this is a few thousand members, where a crowd's
chunks are hundreds of thousands.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pipeline.crawl.sync.members import Member, Members

# Members that are remembered beyond the newest change.
MOST: Final = 50_000
# Answers that are kept, each for all that have followed up to the same change.
_KEPT: Final = 8

Changed: TypeAlias = Mapping[bytes, tuple[int, Member | None]]
"""By public key the tier of who became wanted, None in place of who is wanted no longer."""


@dataclass(frozen=True, slots=True)
class _NewcomerBatch:
    """What changed up to change number `until`: wanted authors by tier, and the keys of those no longer wanted."""

    until: int
    began: Mapping[int, Members]
    ended: frozenset[bytes]

    def __len__(self) -> int:
        return sum(map(len, self.began.values())) + len(self.ended)


@dataclass(frozen=True, slots=True)
class Newcomers:
    """Everything that changed after `floor`, in batches, each with the change up to which it goes."""

    floor: int = 0
    _batches: tuple[_NewcomerBatch, ...] = ()
    _answers: dict[int, Mapping[int, Sequence[Members]]] = field(default_factory=dict, compare=False, repr=False)

    def plus(self, generation: int, changed: Changed) -> "Newcomers":
        """Return these and what changed up to `generation`, without the oldest batches if they are too many."""
        floor, batches = self.floor, [*self._batches, _batch(generation, changed)]
        size = sum(map(len, batches))
        while size > MOST:
            oldest = batches.pop(0)
            floor = oldest.until
            size -= len(oldest)
        # What came together is known as a whole or not at all.
        return Newcomers(floor, tuple(batch for batch in batches if batch.until > floor))

    def since(self, generation: int) -> Mapping[int, Sequence[Members]] | None:
        """Return by tier who became wanted after a change and still is; None if that is too long ago to be known.

        In parts that share the bytes of the batches: a thousand relays may keep them for long.
        """
        if generation < self.floor:
            return None
        found = self._answers.get(generation)
        if found is None:
            if len(self._answers) >= _KEPT:
                self._answers.clear()
            found = self._answers[generation] = self._collected(generation)
        return found

    def _collected(self, generation: int) -> Mapping[int, Sequence[Members]]:
        found: defaultdict[int, list[Members]] = defaultdict(list)
        # Who changed in a newer batch is as it says.
        newer: set[bytes] = set()
        batches = [batch for batch in self._batches if batch.until > generation]
        for batch in reversed(batches):
            for tier, members in batch.began.items():
                if part := members.after(generation).split(newer)[1]:
                    found[tier].append(part)
            if batch is not batches[0]:
                newer.update(batch.ended, *(members.keys for members in batch.began.values()))
        return dict(found)


def _batch(generation: int, changed: Changed) -> _NewcomerBatch:
    began: defaultdict[int, list[Member]] = defaultdict(list)
    for tier, member in changed.values():
        if member is not None:
            began[tier].append(member)
    ended = frozenset(key for key, (_, member) in changed.items() if member is None)
    return _NewcomerBatch(generation, {tier: Members.of(members) for tier, members in began.items()}, ended)
