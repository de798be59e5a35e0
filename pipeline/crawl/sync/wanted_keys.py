"""Whether an author is wanted: looked up in the chunks of a plan, so that no key is in memory twice.

Several hundred thousand keys are looked for in four trees of chunks, which takes some 10 µs. Most events are by few
authors, whose answer is remembered, and most of the others by authors whom a filter knows not to be wanted.
"""

from bisect import bisect_right
from collections.abc import Container, Iterable, Sequence
from typing import Final, TypeAlias

from pipeline.crawl.sync.members import has_at, place_of

# Answers that are remembered at once.
_REMEMBERED: Final = 10_000
# The filter takes a megabyte; of a million authors it takes one in nine for wanted who is not.
_FILTER_BITS: Final = 1 << 23
# From so many keys on, half of all others are taken for wanted: those who left are to be forgotten.
_FILTER_MOST: Final = 5_000_000

Index: TypeAlias = "tuple[list[bytes], list[bytes]]"
"""The records of each chunk of a tree, in order of their keys, and before these the first key of each."""


class KeyFilter:
    """What was added is found; hardly anything else. Added to by one thread, read by others."""

    __slots__ = ("_bits", "_count")

    def __init__(self) -> None:
        self._bits = bytearray(_FILTER_BITS // 8)
        self._count = 0

    @property
    def is_full(self) -> bool:
        """Return True if it should be replaced by a new one."""
        return self._count >= _FILTER_MOST

    def add(self, keys: Iterable[bytes]) -> None:
        """Let `keys` be found from now on."""
        bits = self._bits
        # Salted by Python, so that no stranger chooses where a key falls.
        for place in map(hash, keys):
            bits[(place & _FILTER_BITS - 1) >> 3] |= 1 << (place & 7)
            self._count += 1

    def may_have(self, key: bytes) -> bool:
        """Return False if the key was never added."""
        place = hash(key)
        return bool(self._bits[(place & _FILTER_BITS - 1) >> 3] >> (place & 7) & 1)


class WantedKeys(Container[bytes]):
    """The public keys of all members of some trees, which are never changed. For one thread."""

    __slots__ = ("_answers", "_filter", "_indexes")

    def __init__(self, indexes: Sequence[Index], key_filter: KeyFilter) -> None:
        """`key_filter` has all keys, and maybe others."""
        self._indexes = indexes
        self._filter = key_filter
        self._answers: dict[object, bool] = {}

    def __contains__(self, key: object) -> bool:
        answer = self._answers.get(key)
        if answer is None:
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            answer = self._answers[key] = isinstance(key, bytes) and self._find(key)
        return answer

    def _find(self, key: bytes) -> bool:
        if not self._filter.may_have(key):
            return False
        for firsts, chunks in self._indexes:
            number = bisect_right(firsts, key) - 1
            if number >= 0 and has_at(chunks[number], key, place_of(chunks[number], key)):
                return True
        return False
