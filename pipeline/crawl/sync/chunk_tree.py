"""Keys cut into chunks by their leading bits, so that one key more or less changes one chunk, or splits or merges it.

A node of the tree holds the members whose keys begin with the same bits: a leaf up to `most` of them, in order of their
keys, a branch more, by their next bit. Nodes are never changed: a change makes new ones on its way from the root, and
all other chunks stay the same objects.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Generic, Protocol, TypeAlias, TypeVar


class Keyed(Protocol):
    """Something with a public key of 32 bytes."""

    @property
    def public_key(self) -> bytes:
        """Return the key."""
        ...


_Item = TypeVar("_Item", bound=Keyed)
_key = attrgetter("public_key")


@dataclass(frozen=True, slots=True)
class _Branch(Generic[_Item]):
    size: int
    zero: "_Node[_Item]"
    one: "_Node[_Item]"


_Node: TypeAlias = "_Branch[_Item] | tuple[_Item, ...]"


class ChunkTree(Generic[_Item]):
    """Members by key, in chunks of at most `most`. Owned by one thread."""

    __slots__ = ("_most", "_root")

    def __init__(self, most: int) -> None:
        self._most = most
        self._root: _Node[_Item] = ()

    def __len__(self) -> int:
        return _size(self._root)

    def change(self, changes: Mapping[bytes, _Item | None]) -> None:
        """Put each member in the place of the one with its key; None removes it."""
        self.change_in_order(sorted(changes.items(), key=itemgetter(0)))

    def change_in_order(self, changes: Sequence[tuple[bytes, _Item | None]]) -> None:
        """Do the same with changes that are in order of their keys, each once."""
        self._root = _changed(self._root, changes, 0, self._most)

    def chunks(self) -> Iterator[tuple[str, tuple[_Item, ...]]]:
        """Yield all chunks in order of their keys, each with the bits that its keys begin with."""
        yield from _leaves(self._root, "")


def _size(node: "_Node[_Item]") -> int:
    return node.size if isinstance(node, _Branch) else len(node)


def _changed(
    node: "_Node[_Item]", changes: Sequence[tuple[bytes, _Item | None]], depth: int, most: int
) -> "_Node[_Item]":
    """Return the node of `depth` bits with `changes`, which are in order of their keys, made to it."""
    if not changes:
        return node
    if not isinstance(node, _Branch):
        members = _merged(node, changes)
        return node if members is None else _cut(members, depth, most)
    middle = _border(changes, depth)
    zero = _changed(node.zero, changes[:middle], depth + 1, most)
    one = _changed(node.one, changes[middle:], depth + 1, most)
    if zero is node.zero and one is node.one:
        return node
    size = _size(zero) + _size(one)
    # Neither half is a branch then.
    return (*_members(zero), *_members(one)) if size <= most else _Branch(size, zero, one)


def _merged(node: "tuple[_Item, ...]", changes: Sequence[tuple[bytes, _Item | None]]) -> "Sequence[_Item] | None":
    """Return the members of a leaf after `changes` in order of their keys; None if they change nothing."""
    known = frozenset(map(_key, node))
    effective = [change for change in changes if change[1] is not None or change[0] in known]
    if not effective:
        return None
    replaced = known.intersection(map(itemgetter(0), effective))
    kept = [member for member in node if _key(member) not in replaced] if replaced else [*node]
    kept += [member for _, member in effective if member is not None]
    # Two runs that are in order each, which is what it sorts fastest.
    kept.sort(key=_key)
    return kept


def _cut(members: Sequence[_Item], depth: int, most: int) -> "_Node[_Item]":
    """Return the node of members that are in order and share their first `depth` bits."""
    if len(members) <= most:
        return tuple(members)
    middle = bisect_left(members, True, key=lambda member: _bit(_key(member), depth))
    zero, one = _cut(members[:middle], depth + 1, most), _cut(members[middle:], depth + 1, most)
    return _Branch(len(members), zero, one)


def _members(node: "_Node[_Item]") -> Iterator[_Item]:
    for _, chunk in _leaves(node, ""):
        yield from chunk


def _leaves(node: "_Node[_Item]", prefix: str) -> Iterator[tuple[str, tuple[_Item, ...]]]:
    if isinstance(node, _Branch):
        yield from _leaves(node.zero, prefix + "0")
        yield from _leaves(node.one, prefix + "1")
    elif node:
        yield prefix, node


def _border(changes: Sequence[tuple[bytes, _Item | None]], depth: int) -> int:
    """Return the place of the first change whose key has the bit at `depth`."""
    return bisect_left(changes, True, key=lambda change: _bit(change[0], depth))


def _bit(key: bytes, place: int) -> bool:
    return bool(key[place >> 3] >> (7 - (place & 7)) & 1)
