"""The people and events of a run: what relays hold before it, what comes to them during it, and what is wanted."""

import random
from dataclasses import dataclass, field
from time import time

from tests.factories.events import Author, SignedEvent, authors

REACH_S = 2 * 3600
"""How far back a first start reaches."""
_MARGIN_S = 120
"""Nothing is dated so close to the edge that the service's start time would decide."""
_KINDS = ((0, 5.0), (1, 55.0), (3, 2.0), (4, 3.0), (7, 20.0), (1059, 3.0), (10002, 4.0), (30023, 3.0), (9735, 5.0))
_GLOBAL_KINDS = frozenset({0, 2, 3, 10002})


@dataclass(frozen=True, slots=True)
class World:
    """Registered users, those they follow, and strangers; everything is made from `rng`."""

    rng: random.Random
    users: tuple[Author, ...]
    followees: tuple[Author, ...]
    strangers: tuple[Author, ...]
    now: int
    contact_lists: tuple[SignedEvent, ...]
    _wanted: frozenset[str] = field(repr=False)

    @classmethod
    def make(cls, seed: int, *, users: int = 8, followees: int = 110, strangers: int = 25) -> "World":
        """The world of `seed`, now."""
        people = authors(seed, users + followees + strangers)
        registered, followed = people[:users], people[users : users + followees]
        now = int(time())
        lists = [
            user.contact_list(followed[number::users], now - REACH_S * 20 - number)
            for number, user in enumerate(registered)
        ]
        wanted = frozenset(author.pubkey for author in (*registered, *followed))
        return cls(
            random.Random(seed), tuple(registered), tuple(followed), tuple(people[users + followees :]), now,
            tuple(lists), wanted,
        )  # fmt: skip

    def is_wanted(self, event: SignedEvent) -> bool:
        """Whether the service must have it; everything made here lies within its reach."""
        users = {user.pubkey for user in self.users}
        return event.kind in _GLOBAL_KINDS or event.pubkey in self._wanted or bool(users & event.mentioned())

    def is_by_wanted(self, event: SignedEvent) -> bool:
        """Whether it is wanted for more than its kind."""
        users = {user.pubkey for user in self.users}
        return event.pubkey in self._wanted or bool(users & event.mentioned())

    def is_by_wanted_author(self, event: SignedEvent) -> bool:
        """Whether it is wanted for who wrote it."""
        return event.pubkey in self._wanted

    def stored(self, count: int) -> list[SignedEvent]:
        """Events dated anywhere within reach."""
        return [self.event(self._any_time()) for _ in range(count)]

    def fresh(self, count: int) -> list[SignedEvent]:
        """Events dated now, one in four back-dated."""
        return [self.event(self._any_time() if self.rng.random() < 0.25 else int(time())) for _ in range(count)]

    def block(self, count: int, kind: int, *, newest: int) -> list[SignedEvent]:
        """Events of one kind by wanted authors, a second apart, down from `newest`."""
        return [self.event(newest - number, kind=kind, author=self.wanted_author()) for number in range(count)]

    def one_second(self, count: int, at: int, *, author: Author | None = None) -> list[SignedEvent]:
        """Notes that share a second, by many wanted authors or by one."""
        return [self.event(at, kind=1, author=author or self.wanted_author()) for _ in range(count)]

    def event(self, created_at: int, *, kind: int | None = None, author: Author | None = None) -> SignedEvent:
        """One event, of which two in three are wanted."""
        rng = self.rng
        kinds, weights = zip(*_KINDS, strict=True)
        chosen = rng.choices(kinds, weights)[0] if kind is None else kind
        by = author or rng.choice(self._wanted_authors() if rng.random() < 0.6 else self.strangers)
        if chosen == 3 and by in self.users:
            # Another contact list of a user would change what is wanted.
            chosen = 1
        tags: list[tuple[str, ...]] = []
        if chosen in (4, 1059) or (chosen not in (0, 3, 10002) and rng.random() < 0.2):
            tags = [("p", rng.choice((*self.users, *self.strangers)).pubkey)]
        if chosen == 30023:
            tags.append(("d", f"{rng.random()}"))
        return by.sign(f"{chosen} {rng.random()}", kind=chosen, created_at=created_at, tags=tags)

    def _wanted_authors(self) -> tuple[Author, ...]:
        return (*self.users, *self.followees)

    def wanted_author(self) -> Author:
        """One of those whose events are wanted."""
        return self.rng.choice(self._wanted_authors())

    def _any_time(self) -> int:
        return self.rng.randint(self.now - REACH_S + _MARGIN_S, self.now - 5)
