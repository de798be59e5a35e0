"""Random events for the saver: many at equal times, contact lists that change, things taken back."""

import random

from tests.factories.events import Author, SignedEvent, authors
from tests.integration.stages.support import NOW

KINDS = (0, 1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7, 30023, 62, 1059, 1059, 10002, 10002)
# Only what was made lately is deleted.
_RECENT = 300


class Chance:
    """Events of a few people in batches; `span_s`: over how much time they are spread, from past to present."""

    def __init__(self, seed: int, *, people: int = 10, events: int = 0, span_s: int = 0) -> None:
        self.rng = random.Random(seed)
        self.people = authors(seed, people)
        self.made: list[SignedEvent] = []
        self._number = 0
        self._first = NOW - span_s
        self._per_second = events / span_s if span_s else 0.0

    def batch(self, size: int = 12) -> list[SignedEvent]:
        """Up to `size` new events and old ones again, in any order; some come only later, among the old ones."""
        new = [self._event() for _ in range(self.rng.randint(1, size))]
        old = self.rng.sample(self.made, min(len(self.made), self.rng.randint(0, 2 * size // 3)))
        held_back = {event.id for event in new if self.rng.random() < 0.15}
        self.made += new
        batch = [event for event in new + old if event.id not in held_back]
        self.rng.shuffle(batch)
        return batch + self.rng.sample(batch, min(len(batch), 2))

    def person(self) -> Author:
        return self.rng.choice(self.people)

    def _event(self) -> SignedEvent:
        self._number += 1
        author, kind = self.person(), self.rng.choice(KINDS)
        now = min(NOW, self._first + round(self._number / self._per_second)) if self._per_second else NOW
        created_at = now - self.rng.randint(0, 6)
        return author.sign(f"{self._number}", kind=kind, created_at=created_at, tags=self._tags(author, kind))

    def _tags(self, author: Author, kind: int) -> list[list[str]]:
        rng = self.rng
        tags: list[list[str]] = []
        match kind:
            case 3:
                followees = rng.sample(self.people, rng.randint(0, len(self.people) // 2))
                tags += [["p", person.pubkey, "wss://hint.example"] for person in followees]
                tags += [["p", rng.choice(["", "zz", "AB" * 32, "ab" * 31])], ["p"]] * (rng.random() < 0.3)
            case 5:
                recent = self.made[-_RECENT:]
                tags += [["e", event.id] for event in rng.sample(recent, min(3, len(recent)))]
                tags += [["e", event.id] for event in recent if event.pubkey == author.pubkey and rng.random() < 0.2]
                tags += [["a", f"3:{author.pubkey}:"]] * (rng.random() < 0.3)
                tags += [["a", f"30023:{self.person().pubkey}:{rng.choice('ab')}"]] * (rng.random() < 0.5)
                tags += [["a", f"10002:{author.pubkey}:"]] * (rng.random() < 0.2)
            case 30023:
                tags += [["d", rng.choice("ab")]]
            case 62:
                tags += [["relay", rng.choice(["ALL_RELAYS", "wss://one.example"])]]
            case 10002:
                tags += [["r", f"wss://r{number}.example"] for number in rng.sample(range(9), rng.randint(0, 3))]
            case _:
                tags += [["p", self.person().pubkey]] * (rng.random() < 0.4)
        tags += [["-"]] * (rng.random() < 0.1)
        tags += [["expiration", str(NOW + rng.choice([-5, 0, 5]))]] * (rng.random() < 0.1)
        return tags
