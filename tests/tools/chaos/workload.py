"""What happens in the environment of a run: events of every sort, one after the other, by the seed."""

import random
import time
from dataclasses import dataclass, field

from tests.factories.events import Author, SignedEvent

MIN_LATE_S = 60
# Weights of what people do.
_DEEDS = (
    ("note", 50.0),
    ("note by a followee", 20.0),
    ("mention", 10.0),
    ("late", 8.0),
    ("profile", 3.0),
    ("relay list", 3.0),
    ("contacts", 2.0),
    # Deleted before anybody has seen it, as when the deletion travels faster.
    ("deleted", 2.0),
)


@dataclass(slots=True)
class People:
    """The authors, of whom the first `registrable` register sooner or later, and whom these follow.

    `late_s`: late events are dated back by at most so much.
    """

    authors: list[Author]
    registrable: int
    rng: random.Random
    late_s: int
    follows: dict[str, list[Author]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    """Ids of what is deleted, which some relays refuse."""
    _number: int = 0
    _to_come: SignedEvent | None = None
    """What was deleted already, and comes next."""
    _dates: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def users(self) -> list[Author]:
        """Those who register."""
        return self.authors[: self.registrable]

    def history(self, count: int, *, since: int, until: int) -> list[SignedEvent]:
        """What had happened before: a contact list of each user, and `count` other events."""
        lists = [self._contacts(user, self.rng.randint(since, until)) for user in self.users]
        return lists + [self.event(self.rng.randint(since, until)) for _ in range(count)]

    def event(self, now: int | None = None) -> SignedEvent:
        """The next thing that somebody does."""
        at = int(time.time()) if now is None else now
        if self._to_come is not None:
            event, self._to_come = self._to_come, None
            return event
        deeds, weights = zip(*_DEEDS, strict=True)
        deed = self.rng.choices(deeds, weights)[0]
        anybody, user = self.rng.choice(self.authors), self.rng.choice(self.users)
        self._number += 1
        text = f"{deed} {self._number}"
        followees = [*self.follows.get(user.pubkey, []), user]
        match deed:
            case "note":
                event = anybody.sign(text, created_at=at)
            case "note by a followee":
                event = self.rng.choice(followees).sign(text, kind=self.rng.choice((1, 6, 7)), created_at=at)
            case "mention":
                event = anybody.sign(text, created_at=at, tags=[("p", user.pubkey)])
            case "late":
                back = self.rng.randint(MIN_LATE_S, self.late_s)
                event = self.rng.choice(followees).sign(text, created_at=at - back)
            case "profile":
                event = anybody.sign(text, kind=0, created_at=self._later(anybody, 0, at))
            case "deleted":
                self._to_come = self.rng.choice(followees).sign(text, created_at=at)
                self.deleted.add(self._to_come.id)
                author = next(each for each in followees if each.pubkey == self._to_come.pubkey)
                event = author.sign("", kind=5, created_at=at, tags=[("e", self._to_come.id)])
            case "relay list":
                tags = [("r", f"wss://relay-{self._number % 50}.example")]
                event = anybody.sign(text, kind=10002, created_at=self._later(anybody, 10002, at), tags=tags)
            case _:
                event = self._contacts(user, at)
        return event

    def _contacts(self, user: Author, at: int) -> SignedEvent:
        """A new list: some go, some come."""
        known = self.follows.get(user.pubkey, [])
        kept = self.rng.sample(known, max(0, len(known) - self.rng.randint(0, 3)))
        new = self.rng.sample(self.authors, self.rng.randint(1, 4) if known else 15)
        followees = list({author.pubkey: author for author in (*kept, *new)}.values())
        self.follows[user.pubkey] = followees
        return user.contact_list(followees, self._later(user, 3, at))

    def _later(self, author: Author, kind: int, at: int) -> int:
        """A date that no earlier version of this replaceable event has."""
        created_at = max(at, self._dates.get((author.pubkey, kind), 0) + 1)
        self._dates[(author.pubkey, kind)] = created_at
        return created_at
