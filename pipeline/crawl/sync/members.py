"""Whom queries name, packed: 48 bytes each, where an object with its key and its numbers takes two hundred.

There may be a million of them. A sequence of members is never changed; a part of one shares its bytes.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import starmap
from struct import Struct
from typing import Final, TypeAlias, overload
from weakref import ref

_RECORD: Final = Struct("=32sqq")
SIZE: Final = _RECORD.size
KEY_BYTES: Final = 32
# A record is as long as so many numbers, of which the last two are `since` and `generation`.
_WORDS: Final = SIZE // 8

_Places: TypeAlias = "range | array[int]"


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody whom a query names, wanted since `since` (seconds) by change number `generation`."""

    public_key: bytes
    since: int
    generation: int

    def pack(self) -> bytes:
        """Return the record of this member."""
        return _RECORD.pack(self.public_key, self.since, self.generation)


def _nothing() -> None:
    """Return what a weak reference does once its object is gone."""


class Members(Sequence[Member]):
    """Some members: records, and the places of those that belong to it, `None` for all."""

    __slots__ = ("__weakref__", "_hex_keys", "_key_set", "_places", "_records")

    def __init__(self, records: bytes = b"", places: "_Places | None" = None) -> None:
        self._records = records
        self._places: _Places = range(len(records) // SIZE) if places is None else places
        self._key_set: Callable[[], frozenset[bytes] | None] = _nothing
        self._hex_keys: Callable[[], frozenset[str] | None] = _nothing

    @classmethod
    def of(cls, members: Iterable[Member]) -> "Members":
        """Return `members`, packed if they are not."""
        return members if isinstance(members, Members) else cls(b"".join(map(Member.pack, members)))

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Member]:
        return starmap(Member, _RECORD.iter_unpack(self.records))

    @overload
    def __getitem__(self, place: int) -> Member: ...

    @overload
    def __getitem__(self, place: slice) -> "Members": ...

    def __getitem__(self, place: int | slice) -> "Member | Members":
        if isinstance(place, slice):
            return Members(self._records, self._places[place])
        return Member(*_RECORD.unpack_from(self._records, SIZE * self._places[place]))

    def __contains__(self, member: object) -> bool:
        return any(each == member for each in self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Members):
            return NotImplemented
        return self is other or (len(self) == len(other) and self.records == other.records)

    def __hash__(self) -> int:
        return hash(self.records)

    def __repr__(self) -> str:
        return f"Members({[*self]!r})"

    @property
    def records(self) -> bytes:
        """Return the records of all, one after the other."""
        places, records = self._places, self._records
        if isinstance(places, range) and places.step == 1:
            return records[SIZE * places.start : SIZE * places.stop]
        return b"".join([records[at : at + SIZE] for at in map(SIZE.__mul__, places)])

    @property
    def keyed_records(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the public key and the record of each, in order."""
        records = self._records
        return ((records[at : at + KEY_BYTES], records[at : at + SIZE]) for at in map(SIZE.__mul__, self._places))

    @property
    def keys(self) -> list[bytes]:
        """Return the public keys of all, in order."""
        records = self._records
        return [records[at : at + KEY_BYTES] for at in map(SIZE.__mul__, self._places)]

    @property
    def key_set(self) -> frozenset[bytes]:
        """Return the public keys of all, the same object to everybody: hundreds of relays are asked for them."""
        if (keys := self._key_set()) is None:
            keys = frozenset(self.keys)
            self._key_set = ref(keys)
        return keys

    @property
    def hex_keys(self) -> frozenset[str]:
        """Return the public keys of all in hexadecimal, the same object to everybody."""
        if (keys := self._hex_keys()) is None:
            keys = frozenset(map(bytes.hex, self.keys))
            self._hex_keys = ref(keys)
        return keys

    @property
    def newest(self) -> int:
        """Return the newest change by which any became wanted; 0 where there are none."""
        return max(self._numbers(_WORDS - 1), default=0)

    @property
    def earliest(self) -> int | None:
        """Return since when the first of them is wanted (seconds); None where there are none."""
        return min(self._numbers(_WORDS - 2), default=None)

    def after(self, generation: int) -> "Members":
        """Return those who became wanted after a change."""
        return self._chosen([number > generation for number in self._numbers(_WORDS - 1)])

    def generations_after(self, generation: int) -> list[int]:
        """Return the changes after `generation` by which they became wanted."""
        return [number for number in self._numbers(_WORDS - 1) if number > generation]

    def among(self, keys: AbstractSet[bytes]) -> "Members":
        """Return those with one of these keys."""
        return self._chosen([key in keys for key in self.keys]) if keys else NO_MEMBERS

    def split(self, keys: AbstractSet[bytes]) -> "tuple[Members, Members]":
        """Return those with one of these keys, and those with none of them."""
        if not keys:
            return NO_MEMBERS, self
        chosen = [key in keys for key in self.keys]
        return self._chosen(chosen), self._chosen([not is_chosen for is_chosen in chosen])

    def _chosen(self, chosen: Sequence[bool]) -> "Members":
        count = sum(chosen)
        if count == len(chosen):
            return self
        places = array("I", (place for place, is_chosen in zip(self._places, chosen, strict=True) if is_chosen))
        return Members(self._records, places) if count else NO_MEMBERS

    def _numbers(self, word: int) -> Iterable[int]:
        numbers, places = memoryview(self._records).cast("q"), self._places
        if isinstance(places, range) and places.step == 1:
            return numbers[_WORDS * places.start + word : _WORDS * places.stop : _WORDS].tolist()
        return [numbers[_WORDS * place + word] for place in places]


NO_MEMBERS: Final = Members()


def place_of(records: bytes, key: bytes, low: int = 0) -> int:
    """Return the place of a key in records that are in order of theirs, or where it would be; from place `low` on."""
    high = len(records) // SIZE
    while low < high:
        middle = (low + high) >> 1
        at = SIZE * middle
        if records[at : at + KEY_BYTES] < key:
            low = middle + 1
        else:
            high = middle
    return low


def has_at(records: bytes, key: bytes, place: int) -> bool:
    """Return True if the record at a place, which may be the end, is that of a key."""
    return records[SIZE * place : SIZE * place + KEY_BYTES] == key


def first_with_bit(records: bytes, bit: int) -> int:
    """Return the place of the first record whose key has a bit, among such as are in order and alike before it."""
    byte, mask = bit >> 3, 0x80 >> (bit & 7)
    return bisect_left(range(len(records) // SIZE), True, key=lambda place: records[SIZE * place + byte] & mask != 0)
