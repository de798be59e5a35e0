"""Whose relay lists (NIP-65) name which relay, so that each relay is asked first for those who are to be found there.

It decides about order only: a list may be old, wrong or missing, and everybody is asked for everywhere.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final
from weakref import WeakKeyDictionary

from pipeline.crawl.sync.found_chunks import FoundChunks
from pipeline.crawl.sync.members import Members
from pipeline.crawl.sync.packed_uses import PackedUses, pack_number
from pipeline.crawl.sync.query import BY_TAG, USERS, Query, Subject, tier_mark
from pipeline.store.relay_lists import Listed
from pipeline.store.wanted_authors import TIER_SIZES, TIERS

# No chunk of the plan has it in its name.
_MARK: Final = "@"
# Enough for the lists of one chunk, 250 with some four relays each, to leave most uses out.
_DIGEST_BITS: Final = 4096
# The tiers of bounded size, and those that a crowd can fill.
_EARLY: Final = range(len(TIER_SIZES))
_LATE: Final = range(len(TIER_SIZES), TIERS)


class RelayLists:
    """The newest lists of all wanted authors, in memory (about 50 bytes each). Changed by one thread, read by all."""

    __slots__ = ("_digests", "_lists")

    def __init__(self) -> None:
        # By author, the uses of relays.
        self._lists = PackedUses()
        self._digests = _Digests(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def apply(self, changes: Iterable[Listed]) -> dict[int, set[bytes]]:
        """Take what lists say now; returns by relay the keys of those who are named there unlike before."""
        changed: dict[int, set[bytes]] = {}
        for each in changes:
            uses = (*map(_writing, each.writes), *map(_reading, each.reads))
            before = self._lists.get(each.public_key)
            for use in {*before} ^ {*uses}:
                changed.setdefault(use // 2, set()).add(each.public_key)
            if uses != before:
                self._lists.put(each.public_key, uses)
        if changed:
            self._digests.forget()
        return changed

    def at(self, relay: int) -> "Named":
        """Who is named at a relay, now and later on."""
        return Named(self._lists, self._digests, relay)


class Named:
    """Those whose lists name one relay: as authors where they write to it, as mentioned where they read from it."""

    __slots__ = ("_changed", "_chunks", "_digests", "_lists", "_relay")

    def __init__(self, lists: PackedUses, digests: "_Digests", relay: int) -> None:
        self._lists = lists
        self._digests = digests
        self._relay = relay
        # What comes first, by subject and mark; used by the thread only that calls `first`.
        self._chunks: dict[tuple[Subject, str], FoundChunks] = {}
        # Whose lists changed since that was looked up.
        self._changed: frozenset[bytes] = frozenset()

    def after(self, changed: Collection[bytes]) -> "Named":
        """The same once the lists of these changed: another object, so that it can be told. May be called by others."""
        named = Named(self._lists, self._digests, self._relay)
        named._chunks, named._changed = self._chunks, self._changed.union(changed)
        return named

    def keys_among(self, query: Query) -> set[bytes]:
        """The members of `query` who are to be found here by what it asks for; nobody, if it is about all the world."""
        return self.keys_of(query.subject, query.members)

    def keys_of(self, subject: Subject, members: Members) -> set[bytes]:
        """The keys of `members` who are to be found here by what a query of `subject` asks for."""
        use = _reading(self._relay) if subject in BY_TAG else _writing(self._relay)
        if not self._lists or not self._digests.may_have(members, use):
            return set()
        packed = pack_number(use)
        return {key for key in members.keys if self._lists.has(key, packed)}

    def first(self, queries: Sequence[Query], users: Sequence[Query]) -> tuple[Query, ...]:
        """Return the live queries that come first where there is no room for `queries`, in stable chunks of own names.

        Users come before authors, those who are named here before others, and early authors before users who are named
        elsewhere: hardly anybody publishes where their list does not say. What all `users` write is asked for too,
        since many have no list. Authors of later tiers come last, as a crowd may have invented them.
        """
        changed, self._changed = self._changed, frozenset()
        for chunks in self._chunks.values():
            chunks.forget(changed)
        return (
            *self._alone(Subject.AUTHORS, users, USERS),
            *self._alone(Subject.MENTIONS, queries),
            *(each for tier in _EARLY for each in self._authors(queries, tier)),
            *users,
            *(each for tier in _LATE for each in self._authors(queries, tier)),
        )

    def _authors(self, queries: Sequence[Query], tier: int) -> Iterator[Query]:
        return self._alone(Subject.AUTHORS, [query for query in queries if query.tier == tier], tier_mark(tier))

    def _alone(self, subject: Subject, queries: Iterable[Query], mark: str = "") -> Iterator[Query]:
        """Yield queries about those members of `queries` only who are to be found here."""
        if not self._lists:
            return
        asked = [query for query in queries if query.subject is subject]
        chunks = self._chunks.setdefault((subject, mark), FoundChunks())
        yield from chunks.follow(asked, self._among, lambda bits, chunk: Query(subject, f"{_MARK}{mark}{bits}", chunk))

    def _among(self, query: Query) -> Members:
        return query.members.among(self.keys_among(query))


class _Digests:
    """Which uses members may have, so that not every relay looks through all chunks after each change of one.

    A bit for each use, which several share; made for members when they are first asked about.
    """

    __slots__ = ("_digests", "_lists")

    def __init__(self, lists: PackedUses) -> None:
        self._lists = lists
        self._digests: WeakKeyDictionary[Members, bytes] = WeakKeyDictionary()

    def forget(self) -> None:
        """Take note that lists changed. A digest of the former lists that is being made is dropped with them."""
        self._digests = WeakKeyDictionary()

    def may_have(self, members: Members, use: int) -> bool:
        """Return False if none of `members` has the use."""
        known = self._digests
        digest = known.get(members)
        if digest is None:
            digest = known[members] = self._digest(members)
        return bool(digest[use % _DIGEST_BITS >> 3] >> (use & 7) & 1)

    def _digest(self, members: Members) -> bytes:
        bits = bytearray(_DIGEST_BITS >> 3)
        for use in chain.from_iterable(map(self._lists.get, members.keys)):
            bits[use % _DIGEST_BITS >> 3] |= 1 << (use & 7)
        return bytes(bits)


def is_named(query: Query) -> bool:
    """Return True if `query` is about those only who are to be found at one relay."""
    return query.prefix.startswith(_MARK)


_NO_USES: Final = PackedUses()
NOBODY: Final = Named(_NO_USES, _Digests(_NO_USES), 0)


def _writing(relay: int) -> int:
    return 2 * relay


def _reading(relay: int) -> int:
    return 2 * relay + 1
