"""Members cut into chunks by the leading bits of their keys, so that one more or less changes one chunk, or splits or
merges it.

A node of the tree holds the members whose keys begin with the same bits: a leaf up to `most` of them, in order of their
keys, a branch more, by their next bit. Nodes are never changed: a change makes new ones on its way from the root, and
all other chunks stay the same objects.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import TypeAlias

from pipeline.crawl.sync.members import KEY_BYTES, NO_MEMBERS, SIZE, Member, Members, first_with_bit, has_at, place_of
from pipeline.crawl.sync.wanted_keys import Index


@dataclass(frozen=True, slots=True)
class _Branch:
    size: int
    zero: "_Node"
    one: "_Node"


_Node: TypeAlias = "_Branch | Members"
MemberChange: TypeAlias = tuple[bytes, Member | None]
"""A key, and who has it from now on."""


class ChunkTree:
    """Members by key, in chunks of at most `most`. Owned by one thread."""

    __slots__ = ("_chunks", "_index", "_most", "_root")

    def __init__(self, most: int) -> None:
        self._most = most
        self._root: _Node = NO_MEMBERS
        # Of the tree as it is, once they are asked for.
        self._chunks: list[tuple[str, Members]] | None = None
        self._index: Index | None = None

    @classmethod
    def of(cls, parts: Iterable[Members], most: int) -> "ChunkTree":
        """Return the tree of the members of all `parts`, which may be in any order."""
        tree = cls(most)
        records = dict(chain.from_iterable(part.keyed_records for part in parts))
        tree._root = _cut(b"".join([records[key] for key in sorted(records)]), 0, most)
        return tree

    def __len__(self) -> int:
        return _size(self._root)

    def change(self, changes: Mapping[bytes, Member | None]) -> None:
        """Put each member in the place of the one with its key; None removes it."""
        self.change_in_order(sorted(changes.items(), key=itemgetter(0)))

    def change_in_order(self, changes: Sequence[MemberChange]) -> None:
        """Do the same with changes that are in order of their keys, each once."""
        root = _changed(self._root, changes, 0, self._most)
        if root is not self._root:
            self._root, self._chunks, self._index = root, None, None

    def chunks(self) -> Sequence[tuple[str, Members]]:
        """Return all chunks in order of their keys, each with the bits that its keys begin with."""
        if self._chunks is None:
            self._chunks = []
            _list_leaves(self._root, "", self._chunks)
        return self._chunks

    def index(self) -> Index:
        """Return by what keys are looked up in the chunks as they are now."""
        if self._index is None:
            records = [chunk.records for _, chunk in self.chunks()]
            self._index = [each[:KEY_BYTES] for each in records], records
        return self._index


def _size(node: _Node) -> int:
    return node.size if isinstance(node, _Branch) else len(node)


def _changed(node: _Node, changes: Sequence[MemberChange], depth: int, most: int) -> _Node:
    """Return the node of `depth` bits with `changes`, which are in order of their keys, made to it."""
    if not changes:
        return node
    if not isinstance(node, _Branch):
        records = _merged(node.records, changes)
        return node if records is None else _cut(records, depth, most)
    middle = _border(changes, depth)
    zero = _changed(node.zero, changes[:middle], depth + 1, most)
    one = _changed(node.one, changes[middle:], depth + 1, most)
    if zero is node.zero and one is node.one:
        return node
    size = _size(zero) + _size(one)
    # Neither half is a branch then.
    return Members(_records(zero) + _records(one)) if size <= most else _Branch(size, zero, one)


def _merged(records: bytes, changes: Sequence[MemberChange]) -> bytes | None:
    """Return the records of a leaf after `changes` in order of their keys; None if they change nothing."""
    pieces: list[bytes] = []
    done = 0
    for key, member in changes:
        place = place_of(records, key, done)
        is_known = has_at(records, key, place)
        if member is None and not is_known:
            continue
        pieces += records[SIZE * done : SIZE * place], b"" if member is None else member.pack()
        done = place + is_known
    return b"".join((*pieces, records[SIZE * done :])) if pieces else None


def _cut(records: bytes, depth: int, most: int) -> _Node:
    """Return the node of records that are in order and share their first `depth` bits."""
    count = len(records) // SIZE
    if count <= most:
        return Members(records) if count else NO_MEMBERS
    border = SIZE * first_with_bit(records, depth)
    return _Branch(count, _cut(records[:border], depth + 1, most), _cut(records[border:], depth + 1, most))


def _records(node: _Node) -> bytes:
    leaves: list[tuple[str, Members]] = []
    _list_leaves(node, "", leaves)
    return b"".join(chunk.records for _, chunk in leaves)


def _list_leaves(node: _Node, prefix: str, leaves: list[tuple[str, Members]]) -> None:
    if isinstance(node, _Branch):
        _list_leaves(node.zero, prefix + "0", leaves)
        _list_leaves(node.one, prefix + "1", leaves)
    elif node:
        leaves.append((prefix, node))


def _border(changes: Sequence[MemberChange], depth: int) -> int:
    """Return the place of the first change whose key has the bit at `depth`."""
    return bisect_left(changes, True, key=lambda change: bool(change[0][depth >> 3] & 0x80 >> (depth & 7)))
