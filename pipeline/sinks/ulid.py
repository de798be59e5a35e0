"""ULIDs: 26 characters of Crockford's base 32, the first ten a time in milliseconds."""

from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_SHIFTS: Final = range(120, -1, -10)
_TIME_BITS: Final = 48


def ulid(time_ms: int, entropy: bytes) -> str:
    """Return the ULID of a time and ten bytes; the same for the same arguments."""
    assert len(entropy) == 10, "a ULID holds 80 bits beside its time"
    number = (time_ms & ((1 << _TIME_BITS) - 1)) << 80 | int.from_bytes(entropy)
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
