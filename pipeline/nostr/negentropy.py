"""Negentropy, protocol version 1 (NIP-77): which events a relay has that we do not, found by comparing sets.

This is the asking side, without I/O: `Reconciliation.open` gives the first message, `Reconciliation.receive` takes each
answer and gives the next message, until none is needed and `need` holds the ids to fetch. Messages are bytes here, and
hexadecimal in frames.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from hashlib import sha256
from itertools import accumulate
from typing import Final

from pipeline.nostr.negentropy_wire import (
    FINGERPRINT_SIZE,
    ID_SIZE,
    INFINITY,
    START,
    TIME_SIZE,
    InvalidNegentropy,
    Mode,
    NegentropyFault,
    Reader,
    Writer,
    encode_varint,
)

__all__ = ["InvalidNegentropy", "ItemSet", "NegentropyFault", "Reconciliation", "item_key"]

DEFAULT_FRAME_LIMIT: Final = 60_000  # bytes; strfry takes frames of 131,072, where each byte is two hexadecimal digits
MIN_FRAME_LIMIT: Final = 4_096  # below, the answer to a single range might not fit
MAX_NEED: Final = 250_000  # ids; some 25 MB, beyond which a shorter window is the better question
MAX_ROUNDS: Final = 1_000  # answers; the need above, in frames of 60,000 bytes, takes some 150

_FANOUT: Final = 16
_FEW: Final = 32  # fewer items than this are listed in the first message
# Of a range that differs and where we have fewer items than this, so many make one fingerprint. It costs some 22 bytes,
# and each item that the relay lists in answer 32, so that no more than need be are listed; ours never are.
_MANY: Final = 256
_FINE: Final = 3
_SUM_STEP: Final = 64  # items per stored sum: one for each item would double the memory
_RESERVE: Final = 200  # room for the two ranges that end a full message


class ItemSet:
    """The events that we have, by `created_at` and 32-byte id; immutable, so that many reconciliations may share it."""

    # `_sums[n]` is the sum of the ids before index `_starts[n]`, so that a part is made without summing up again.
    __slots__ = ("_keys", "_starts", "_sums")

    def __init__(self, items: Iterable[tuple[int, bytes]]) -> None:
        """Take `(created_at, id)` pairs in any order; repeated ones count once."""
        self._sum_up(sorted({item_key(time, event_id) for time, event_id in items}))
        if any(len(key) != TIME_SIZE + ID_SIZE for key in self._keys):
            raise ValueError("an id has 32 bytes")
        if self._keys and self._keys[-1] >= INFINITY:
            raise ValueError("a time is below 2**64 - 1")

    @classmethod
    def of_keys(cls, keys: Iterable[bytes]) -> "ItemSet":
        """Return the items with these keys, each of which `item_key` gave; the keys are shared, not copied."""
        made = cls(())
        made._sum_up(sorted(set(keys)))
        return made

    def __len__(self) -> int:
        return len(self._keys)

    def between(self, since: int, until: int) -> "ItemSet":
        """Return the items with `since <= created_at <= until`, as in a filter; neither is negative."""
        lower = bisect_left(self._keys, since.to_bytes(TIME_SIZE, "big"))
        upper = bisect_left(self._keys, (until + 1).to_bytes(TIME_SIZE, "big"))
        first, last = bisect_right(self._starts, lower), bisect_left(self._starts, upper)
        before = self._sum_before(lower)
        return self._part(
            self._keys[lower:upper],
            [0, *(start - lower for start in self._starts[first:last])],
            [0, *(total - before for total in self._sums[first:last])],
        )

    def holding_back(self, most: int) -> tuple["ItemSet", set[bytes]]:
        """Return all but up to `most` items, spread evenly, and the ids of these."""
        step = max(1, len(self._keys) // most)
        held_back = range(step // 2, len(self._keys), step)[:most]
        keys, starts, sums = self._keys.copy(), list[int](), list[int]()
        gone = missing = 0
        for start, total in zip(self._starts, self._sums, strict=True):
            while gone < len(held_back) and held_back[gone] < start:
                missing += _sum_ids([self._keys[held_back[gone]]])
                gone += 1
            starts.append(start - gone)
            sums.append(total - missing)
        for index in reversed(held_back):
            del keys[index]
        return self._part(keys, starts, sums), {self._keys[index][TIME_SIZE:] for index in held_back}

    def index(self, bound: bytes, lower: int) -> int:
        """Return the index of the first item from `lower` on that is not below `bound`."""
        return bisect_left(self._keys, bound, lower)

    def key(self, index: int) -> bytes:
        """Return the item at `index` in the form of a bound."""
        return self._keys[index]

    def time(self, index: int) -> int:
        """Return when the item at `index` was created."""
        return int.from_bytes(self._keys[index][:TIME_SIZE], "big")

    def id(self, index: int) -> bytes:
        """Return the id of the item at `index`."""
        return self._keys[index][TIME_SIZE:]

    def ids(self, lower: int, upper: int) -> list[bytes]:
        """Return the ids of the items from index `lower` up to `upper`."""
        return [key[TIME_SIZE:] for key in self._keys[lower:upper]]

    def fingerprint(self, lower: int, upper: int) -> bytes:
        """Return the protocol's 16-byte fingerprint of the items from index `lower` up to `upper`."""
        total = self._sum_before(upper) - self._sum_before(lower)
        summed = (total % 2**256).to_bytes(ID_SIZE, "little")
        return sha256(summed + encode_varint(upper - lower)).digest()[:FINGERPRINT_SIZE]

    def _sum_up(self, keys: list[bytes]) -> None:
        self._keys = keys
        self._starts = list(range(0, max(len(keys), 1), _SUM_STEP))
        sums = (_sum_ids(keys[start : start + _SUM_STEP]) for start in self._starts[:-1])
        self._sums = list(accumulate(sums, initial=0))

    @classmethod
    def _part(cls, keys: list[bytes], starts: list[int], sums: list[int]) -> "ItemSet":
        part = cls.__new__(cls)
        part._keys, part._starts, part._sums = keys, starts, sums
        return part

    def _sum_before(self, index: int) -> int:
        block = bisect_right(self._starts, index) - 1
        return self._sums[block] + _sum_ids(self._keys[self._starts[block] : index])


def item_key(created_at: int, event_id: bytes) -> bytes:
    """Return the form of an item that sorts as the protocol wants."""
    return created_at.to_bytes(TIME_SIZE, "big") + event_id


def _sum_ids(keys: list[bytes]) -> int:
    return sum(int.from_bytes(key[TIME_SIZE:], "little") for key in keys)


class Reconciliation:
    """One comparison of `items` with what a relay has in the same window; for one thread.

    `need` collects the ids that only the relay has, `have` those that only we have. Both grow with each answer and are
    complete once `receive` has returned None. A relay that lies can hide events, and fill `need` with ids that no relay
    has, `max_need` of them at most.
    """

    def __init__(
        self, items: ItemSet, *, frame_limit: int | None = DEFAULT_FRAME_LIMIT, max_need: int = MAX_NEED
    ) -> None:
        """`frame_limit` bounds each message that we send, in bytes; None leaves it open."""
        if frame_limit is not None and frame_limit < MIN_FRAME_LIMIT:
            raise ValueError(f"a frame limit is at least {MIN_FRAME_LIMIT}")
        self.need: set[bytes] = set()
        self.have: set[bytes] = set()
        self.rounds = 0
        self._items = items
        self._max_output = None if frame_limit is None else frame_limit - _RESERVE
        self._max_need = max_need

    def open(self) -> bytes:
        """Return the message for NEG-OPEN."""
        writer = Writer()
        if len(self._items) < _FEW:
            writer.id_list(INFINITY, self._items.ids(0, len(self._items)))
        else:
            self._split(writer, 0, len(self._items), INFINITY, _FANOUT)
        return bytes(writer.data)

    def receive(self, message: bytes) -> bytes | None:
        """Take the relay's message and give the next one, or None when there is nothing left to ask.

        Raises `InvalidNegentropy` for a message that breaks the protocol or a bound.
        """
        self.rounds += 1
        if self.rounds > MAX_ROUNDS:
            raise InvalidNegentropy(NegentropyFault.ROUNDS)
        reader, writer = Reader(message), Writer()
        lower, lower_bound, skipping = 0, START, False
        while not reader.at_end:
            bound, mode = reader.range_head(lower_bound)
            upper = self._items.index(bound, lower)
            if mode is Mode.ID_LIST:
                self._compare(reader.ids(), lower, upper)
            if mode is Mode.FINGERPRINT and reader.fingerprint() != self._items.fingerprint(lower, upper):
                if skipping:
                    writer.skip(lower_bound)
                if not self._split_if_room(writer, lower, upper, bound):
                    break
                skipping = False
            else:
                skipping = True
            lower, lower_bound = upper, bound
        return bytes(writer.data) if len(writer.data) > 1 else None

    def _compare(self, theirs: set[bytes], lower: int, upper: int) -> None:
        ours = set(self._items.ids(lower, upper))
        self.have |= ours - theirs
        self.need |= theirs - ours
        if len(self.need) > self._max_need:
            raise InvalidNegentropy(NegentropyFault.IDS)

    def _split_if_room(self, writer: Writer, lower: int, upper: int, bound: bytes) -> bool:
        """Ask about a range that differs; where that makes the message too long, about all from `lower` on instead."""
        mark = writer.mark()
        self._ask(writer, lower, upper, bound)
        if self._max_output is None or len(writer.data) <= self._max_output:
            return True
        writer.reset(mark)
        if lower == len(self._items):
            # A full relay may answer with the fingerprint of its own empty rest, which would look like agreement.
            writer.id_list(INFINITY, [])
        else:
            writer.fingerprint(INFINITY, self._items.fingerprint(lower, len(self._items)))
        return False

    def _ask(self, writer: Writer, lower: int, upper: int, bound: bytes) -> None:
        """Ask about a range that differs; of where we have nothing, for all that the relay has."""
        count = upper - lower
        if count == 0:
            writer.id_list(bound, [])
        else:
            self._split(writer, lower, upper, bound, _FANOUT if count >= _MANY else -(-count // _FINE))

    def _split(self, writer: Writer, lower: int, upper: int, bound: bytes, buckets: int) -> None:
        size, larger = divmod(upper - lower, buckets)
        for bucket in range(buckets):
            end = lower + size + (bucket < larger)
            inner = bound if end == upper else _shortest_bound(self._items.key(end - 1), self._items.key(end))
            writer.fingerprint(inner, self._items.fingerprint(lower, end))
            lower = end


def _shortest_bound(before: bytes, after: bytes) -> bytes:
    """Return the shortest bound that is above one item and not above the next."""
    common = next(index for index, (one, other) in enumerate(zip(before, after, strict=True)) if one != other)
    return after[: max(common + 1, TIME_SIZE)]
