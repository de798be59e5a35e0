"""By author some numbers, packed: about 20 bytes an author and 4 a number, where a dictionary takes 250.

An author is known by 64 bits of a salted hash. Two authors with the same hash would share their numbers. Chance does
not bring that about, and a stranger cannot: the salt never leaves the process.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

# Of a million authors fifteen share one.
_BUCKETS: Final = 1 << 16
_MASK: Final = _BUCKETS - 1
# A bucket begins with how many authors it has. The hash of each follows, how many numbers each has, and the numbers.
_COUNT: Final = Struct("=H")
_HASH: Final = Struct("=q")
_NUMBER_BYTES: Final = 4
_MOST_NUMBERS: Final = 255
_NUMBER: Final = Struct("=I")
_EMPTY: Final = _COUNT.pack(0)


class PackedUses:
    """Numbers by author. Changed by one thread, read by all."""

    __slots__ = ("_buckets", "_size")

    def __init__(self) -> None:
        self._buckets = [_EMPTY] * _BUCKETS
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def get(self, key: bytes) -> tuple[int, ...]:
        """Return the numbers of an author, none where none are known."""
        salted = hash(key)
        bucket = self._buckets[salted & _MASK]
        place = _place(bucket, salted)
        if place is None:
            return ()
        low, high = _span(bucket, place)
        return tuple(memoryview(bucket)[low:high].cast("I"))

    def put(self, key: bytes, numbers: Sequence[int]) -> None:
        """Let these be the numbers of an author, in place of others; none are forgotten with the author."""
        salted, new = hash(key), numbers[:_MOST_NUMBERS]
        bucket = self._buckets[salted & _MASK]
        (count,) = _COUNT.unpack_from(bucket)
        place = _place(bucket, salted)
        low, high = (len(bucket), len(bucket)) if place is None else _span(bucket, place)
        first, after = (count, count) if place is None else (place, place + 1)
        at_lengths = _COUNT.size + _HASH.size * count
        hashes, lengths = bucket[_COUNT.size : at_lengths], bucket[at_lengths : at_lengths + count]
        its_hash, its_length = (_HASH.pack(salted), bytes((len(new),))) if new else (b"", b"")
        hashes = hashes[: _HASH.size * first] + its_hash + hashes[_HASH.size * after :]
        lengths = lengths[:first] + its_length + lengths[after:]
        numbers_before, numbers_after = bucket[at_lengths + count : low], bucket[high:]
        its_numbers = b"".join(map(pack_number, new))
        head = _COUNT.pack(len(lengths))
        self._size += len(lengths) - count
        self._buckets[salted & _MASK] = b"".join((head, hashes, lengths, numbers_before, its_numbers, numbers_after))

    def has(self, key: bytes, packed: bytes) -> bool:
        """Return True if a number, as `pack_number` gives it, is among those of an author."""
        salted = hash(key)
        bucket = self._buckets[salted & _MASK]
        if packed not in bucket:
            # Most buckets have it of no author.
            return False
        place = _place(bucket, salted)
        if place is None:
            return False
        low, high = _span(bucket, place)
        while (at := bucket.find(packed, low, high)) >= 0:
            if not (at - low) % _NUMBER_BYTES:
                return True
            low += (at - low) // _NUMBER_BYTES * _NUMBER_BYTES + _NUMBER_BYTES
        return False


def pack_number(number: int) -> bytes:
    """Return the bytes of a number as they are stored."""
    return _NUMBER.pack(number & 0xFFFFFFFF)


def _place(bucket: bytes, salted: int) -> int | None:
    """Return the place of an author in a bucket."""
    (count,) = _COUNT.unpack_from(bucket)
    end = _COUNT.size + _HASH.size * count
    wanted, low = _HASH.pack(salted), _COUNT.size
    while (at := bucket.find(wanted, low, end)) >= 0:
        place, rest = divmod(at - _COUNT.size, _HASH.size)
        if not rest:
            return place
        low = at + 1
    return None


def _span(bucket: bytes, place: int) -> tuple[int, int]:
    """Return where the numbers of the author at a place begin and end."""
    (count,) = _COUNT.unpack_from(bucket)
    lengths = _COUNT.size + _HASH.size * count
    low = lengths + count + _NUMBER_BYTES * sum(bucket[lengths : lengths + place])
    return low, low + _NUMBER_BYTES * bucket[lengths + place]
