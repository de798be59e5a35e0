"""Messages of negentropy, protocol version 1 (NIP-77), taken apart and put together.

A message is a sequence of ranges, each with its upper bound, a mode and what the mode brings. A bound is held as a time
of 8 bytes, big-endian, and the beginning of an id, so that bytes compare as the protocol wants.
"""

from enum import IntEnum, StrEnum
from typing import Final

from pipeline.errors import EventServiceError

MAX_MESSAGE_LENGTH: Final = 2 << 20  # bytes taken; strfry sends up to 500,000, khatru 1 MiB
MAX_RANGES: Final = 100_000  # taken in one message; a MiB of fingerprints, the shortest that say anything, has 50,000

ID_SIZE: Final = 32
TIME_SIZE: Final = 8
FINGERPRINT_SIZE: Final = 16
MAX_TIME: Final = 2**64 - 1
START: Final = bytes(TIME_SIZE)
INFINITY: Final = b"\xff" * TIME_SIZE

_VERSION: Final = 0x61
_MAX_VARINT_SIZE: Final = 10


class NegentropyFault(StrEnum):
    """Why a relay's message cannot be used; a closed set, fit for a metric label."""

    VERSION = "version"
    LENGTH = "length"
    TRUNCATED = "truncated"
    VARINT = "varint"
    BOUND = "bound"
    ORDER = "order"
    MODE = "mode"
    IDS = "ids"
    ROUNDS = "rounds"


_EXPLANATIONS: Final = {
    NegentropyFault.VERSION: "it is of another protocol version",
    NegentropyFault.LENGTH: "it has more bytes or ranges than we take",
    NegentropyFault.TRUNCATED: "it ends in the middle of a range",
    NegentropyFault.VARINT: "it contains an integer of more than 64 bits",
    NegentropyFault.BOUND: "it contains a bound longer than an id",
    NegentropyFault.ORDER: "its ranges are out of order",
    NegentropyFault.MODE: "it contains a range of unknown mode",
    NegentropyFault.IDS: "it names more ids than we take",
    NegentropyFault.ROUNDS: "the reconciliation does not come to an end",
}


class InvalidNegentropy(EventServiceError):
    """A relay's message that ends the reconciliation; what `Reconciliation.need` holds by then is still good."""

    def __init__(self, reason: NegentropyFault) -> None:
        super().__init__(_EXPLANATIONS[reason])
        self.reason: Final = reason


class Mode(IntEnum):
    """What a range brings."""

    SKIP = 0
    FINGERPRINT = 1
    ID_LIST = 2


class Reader:
    """A message taken apart from front to back; every step raises `InvalidNegentropy` where it cannot go on.

    Its caller reads, until `at_end`, a `range_head` and what the mode calls for.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_MESSAGE_LENGTH:
            raise InvalidNegentropy(NegentropyFault.LENGTH)
        self._data = data
        self._position = 0
        self._ranges = 0
        self._time = 0
        if self._take(1)[0] != _VERSION:
            raise InvalidNegentropy(NegentropyFault.VERSION)

    @property
    def at_end(self) -> bool:
        """True if no range is left."""
        return self._position == len(self._data)

    def range_head(self, lower_bound: bytes) -> tuple[bytes, Mode]:
        """Return a range's upper bound, which is not below `lower_bound`, and its mode."""
        self._ranges += 1
        if self._ranges > MAX_RANGES:
            raise InvalidNegentropy(NegentropyFault.LENGTH)
        bound = self._bound()
        # Empty ranges are legal: a full message of the C++ reference may end with two that reach to infinity.
        if _padded(bound) < _padded(lower_bound):
            raise InvalidNegentropy(NegentropyFault.ORDER)
        try:
            return bound, Mode(self._varint())
        except ValueError:
            raise InvalidNegentropy(NegentropyFault.MODE) from None

    def fingerprint(self) -> bytes:
        """Return what a range of mode FINGERPRINT brings."""
        return self._take(FINGERPRINT_SIZE)

    def ids(self) -> set[bytes]:
        """Return what a range of mode ID_LIST brings."""
        count = self._varint()
        data = self._take(count * ID_SIZE)
        return {data[start : start + ID_SIZE] for start in range(0, len(data), ID_SIZE)}

    def _bound(self) -> bytes:
        delta = self._varint()
        self._time = min(self._time + delta - 1, MAX_TIME) if delta else MAX_TIME
        length = self._varint()
        if length > ID_SIZE:
            raise InvalidNegentropy(NegentropyFault.BOUND)
        prefix = self._take(length)
        return INFINITY if self._time == MAX_TIME else self._time.to_bytes(TIME_SIZE, "big") + prefix

    def _varint(self) -> int:
        value = 0
        for _ in range(_MAX_VARINT_SIZE):
            byte = self._take(1)[0]
            value = value << 7 | byte & 0x7F
            if byte < 0x80 and value <= MAX_TIME:
                return value
        raise InvalidNegentropy(NegentropyFault.VARINT)

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise InvalidNegentropy(NegentropyFault.TRUNCATED)
        taken = self._data[self._position : end]
        self._position = end
        return taken


class Writer:
    """A message in the making."""

    def __init__(self) -> None:
        self.data = bytearray((_VERSION,))
        self._time = 0

    def skip(self, bound: bytes) -> None:
        """Add a range that is settled."""
        self._head(bound, Mode.SKIP)

    def fingerprint(self, bound: bytes, fingerprint: bytes) -> None:
        """Add a range whose items have `fingerprint`."""
        self._head(bound, Mode.FINGERPRINT)
        self.data += fingerprint

    def id_list(self, bound: bytes, ids: list[bytes]) -> None:
        """Add a range whose items are `ids`."""
        self._head(bound, Mode.ID_LIST)
        self.data += encode_varint(len(ids)) + b"".join(ids)

    def mark(self) -> tuple[int, int]:
        """Return the present state, for `reset`."""
        return len(self.data), self._time

    def reset(self, mark: tuple[int, int]) -> None:
        """Take back what was added since `mark`."""
        length, self._time = mark
        del self.data[length:]

    def _head(self, bound: bytes, mode: Mode) -> None:
        delta = 0
        if bound != INFINITY:
            time = int.from_bytes(bound[:TIME_SIZE], "big")
            delta = time - self._time + 1
            self._time = time
        prefix = bound[TIME_SIZE:]
        self.data += encode_varint(delta) + encode_varint(len(prefix)) + prefix + encode_varint(mode)


def _padded(bound: bytes) -> bytes:
    return bound.ljust(TIME_SIZE + ID_SIZE, b"\0")


def encode_varint(value: int) -> bytes:
    """`value` in base 128, most significant digit first, the high bit set on all but the last byte."""
    encoded = [value & 0x7F]
    while value := value >> 7:
        encoded.append(value & 0x7F | 0x80)
    return bytes(reversed(encoded))
