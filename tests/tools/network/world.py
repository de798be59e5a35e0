"""Who is in the network: relays of very different sizes, people with relay lists, and what they write where."""

import hashlib
import itertools
import random
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from tests.factories.events import Author, SignedEvent

BOOTSTRAP = 5
"""Relays that the service begins with."""
# How many relays an author writes to: as in real lists a few, sometimes many. The mean is about 5.
_LIST_SIZES = ((1, 6), (2, 14), (3, 20), (4, 18), (5, 14), (6, 9), (7, 6), (8, 4), (10, 4), (15, 3), (20, 1), (35, 1))
_KINDS = ((1, 55.0), (7, 30.0), (6, 6.0), (0, 2.0), (30023, 2.0), (9735, 5.0))
_GLOBAL_KINDS = frozenset({0, 3, 10002})
# A relay that gets so many times the authors of the next in rank … by its rank to this power.
_SKEW = 0.95
# One relay of a list does not take an event in this often; one event in so many is passed on to many relays.
_LOST_COPY = 0.1
_PASSED_ON = 0.02
_MANY = 35


@dataclass(frozen=True, slots=True)
class Person:
    """An author, and the numbers of the relays that their list says they write to."""

    number: int
    seed: int
    relays: tuple[int, ...]

    @property
    def author(self) -> Author:
        """The keys; made when they are needed, since fifty thousand take seconds."""
        return Author.from_seed(self.seed, self.number)


@dataclass(frozen=True, slots=True)
class Placed:
    """An event, the relays that have it, and whether the service wants it."""

    event: SignedEvent
    relays: tuple[int, ...]
    is_wanted: bool


@dataclass(slots=True)
class Network:
    """Everything, made from `seed`. The first `users` people are registered, the first `wanted` followed by them."""

    seed: int
    relays: int
    people: tuple[Person, ...]
    users: int
    wanted: int
    _weights: Sequence[float] = field(repr=False)
    base: str = ""
    """What addresses of relays begin with where they are none of loopback: two of four numbers."""
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @classmethod
    def make(cls, seed: int, *, relays: int, people: int, users: int, wanted: int, base: str = "") -> Self:
        """The same for the same numbers."""
        rng = random.Random(seed)
        weights = list(itertools.accumulate(1 / (rank + 1) ** _SKEW for rank in range(relays)))
        sizes, shares = zip(*_LIST_SIZES, strict=True)
        everybody = tuple(
            Person(number, seed, draw(rng, weights, size))
            for number, size in enumerate(rng.choices(sizes, shares, k=people))
        )
        return cls(seed, relays, everybody, users, wanted, weights, base)

    def address(self, relay: int) -> str:
        """The address of a relay; each is a host of its own."""
        if self.base:
            return f"{self.base}.{128 + relay // 200}.{relay % 200 + 1}"
        return f"127.{60 + relay // 200}.{relay % 200 + 1}.9"

    def relay_lists(self, since: int, until: int, port: int) -> Iterator[Placed]:
        """Everybody's relay list, dated anywhere in between."""
        rng = random.Random(f"{self.seed} lists")
        for person in self.people:
            tags = [("r", f"ws://{self.address(relay)}:{port}") for relay in person.relays]
            event = person.author.sign(kind=10002, created_at=rng.randint(since, until), tags=tags)
            yield Placed(event, person.relays, True)

    def contact_lists(self, at: int) -> Iterator[Placed]:
        """Those of the registered users, who together follow all that are wanted; on the relays that all begin with."""
        keys = [person.author.pubkey for person in self.people[: self.wanted]]
        for user in self.people[: self.users]:
            event = user.author.contact_list(keys[user.number :: self.users], at - user.number)
            yield Placed(event, tuple(range(5)), True)

    def note(self, rng: random.Random, created_at: int) -> Placed:
        """Something that somebody writes, on the relays of their list that take it, and now and then on many more."""
        person = rng.choice(self.people)
        kinds, shares = zip(*_KINDS, strict=True)
        kind = rng.choices(kinds, shares)[0]
        tags: list[tuple[str, ...]] = []
        is_wanted = person.number < self.wanted or kind in _GLOBAL_KINDS
        if rng.random() < 0.15:
            mentioned = rng.choice(self.people)
            tags.append(("p", mentioned.author.pubkey))
            is_wanted = is_wanted or mentioned.number < self.users
        if kind == 30023:
            tags.append(("d", hashlib.sha256(rng.randbytes(8)).hexdigest()[:12]))
        event = person.author.sign(f"{next(self._numbers)}", kind=kind, created_at=created_at, tags=tags, size=700)
        return Placed(event, self._holders(rng, person), is_wanted)

    def _holders(self, rng: random.Random, person: Person) -> tuple[int, ...]:
        if rng.random() < _PASSED_ON:
            return tuple(sorted({*person.relays, *draw(rng, self._weights, _MANY)}))
        kept = tuple(relay for relay in person.relays if rng.random() >= _LOST_COPY)
        return kept or person.relays[:1]


def draw(rng: random.Random, weights: Sequence[float], count: int) -> tuple[int, ...]:
    """`count` different numbers, the first of `weights` (added up) most often."""
    found: dict[int, None] = {}
    while len(found) < min(count, len(weights)):
        found[bisect(weights, rng.random() * weights[-1])] = None
    return tuple(found)
