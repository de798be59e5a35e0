"""Whole workloads of events from one seed: many authors, contact lists, mentions, times spread over a window."""

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.factories.events import Author, SignedEvent, authors, from_raw

COMMON_KINDS = ((0, 6.0), (1, 60.0), (3, 4.0), (7, 25.0), (10002, 5.0))
AVERAGE_EVENT_BYTES = 770
_CACHE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Workload:
    """What to generate; equal workloads give equal events.

    `since` and `until` (Unix seconds, both included) bound created_at. The first `registered` authors are the
    registered users. `mentions` is the share of events of other kinds with a `p` tag. `size` pads events other than
    contact lists to about so many bytes. `first_author` shifts the authors, for worlds that must not share any.
    """

    seed: int
    events: int
    authors: int
    since: int
    until: int
    registered: int = 0
    kinds: tuple[tuple[int, float], ...] = COMMON_KINDS
    follows: tuple[int, int] = (3, 40)
    mentions: float = 0.2
    size: int | None = None
    first_author: int = 0

    def people(self) -> list[Author]:
        """All authors, the registered ones first."""
        return authors(self.seed, self.first_author + self.authors)[self.first_author :]

    def registered_users(self) -> list[Author]:
        """The authors whose registrations this world expects."""
        return self.people()[: self.registered]

    def generate(self) -> Iterator[SignedEvent]:
        """The events in no order of time, `events` in number and all different."""
        rng = random.Random(f"{self.seed} {self.first_author}")
        people = self.people()
        kinds, weights = zip(*self.kinds, strict=True)
        for number in range(self.events):
            author = rng.choice(people)
            kind = rng.choices(kinds, weights)[0]
            created_at = rng.randint(self.since, self.until)
            yield self._event(rng, people, author, kind, created_at, number)

    def _event(
        self, rng: random.Random, people: list[Author], author: Author, kind: int, created_at: int, number: int
    ) -> SignedEvent:
        content = f"{kind} {number} of {self.seed}"
        if kind == 3:
            followees = rng.sample(people, min(rng.randint(*self.follows), len(people)))
            tags = [("p", followee.pubkey) for followee in followees]
            return author.sign(content, kind=3, created_at=created_at, tags=tags)
        if kind == 10002:
            relay_tags = [("r", f"ws://127.9.{number % 250}.1:7777", rng.choice(("read", "write")))]
            return author.sign(content, kind=10002, created_at=created_at, tags=relay_tags, size=self.size)
        mentioned = [("p", rng.choice(people).pubkey)] if rng.random() < self.mentions else []
        return author.sign(content, kind=kind, created_at=created_at, tags=mentioned, size=self.size)

    def cached(self, directory: Path) -> list[SignedEvent]:
        """The events, read from a file in `directory` when an equal workload was generated there before."""
        name = hashlib.sha256(f"{_CACHE_FORMAT} {self!r}".encode()).hexdigest()[:24]
        path = directory / f"events-{name}.jsonl"
        if path.exists():
            return read_events(path)
        events = list(self.generate())
        directory.mkdir(parents=True, exist_ok=True)
        write_events(path, events)
        return events


def write_events(path: Path, events: Iterable[SignedEvent]) -> int:
    """Write one event per line; a reader never sees half a file. Returns how many were written."""
    unfinished = path.with_suffix(path.suffix + ".part")
    count = 0
    with unfinished.open("w", encoding="utf-8", newline="\n") as file:
        for event in events:
            file.write(event.raw + "\n")
            count += 1
    unfinished.replace(path)
    return count


def read_events(path: Path) -> list[SignedEvent]:
    """Read what `write_events` wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        return [from_raw(line.rstrip("\n")) for line in file]


def replaceable_key(event: SignedEvent) -> tuple[str, int, str] | None:
    """What the newest version is kept of (NIP-01 kind classes); `None` for kinds that are all kept."""
    if event.kind in (0, 3) or 10000 <= event.kind < 20000:
        return (event.pubkey, event.kind, "")
    if 30000 <= event.kind < 40000:
        identifiers = [tag[1] if len(tag) > 1 else "" for tag in event.tags if tag and tag[0] == "d"]
        return (event.pubkey, event.kind, identifiers[0] if identifiers else "")
    return None


def newest_versions(events: Iterable[SignedEvent]) -> list[SignedEvent]:
    """What a relay that replaces events still holds after it took all of `events`: newest wins, at a tie lowest id."""
    kept: dict[object, SignedEvent] = {}
    for event in events:
        key: object = replaceable_key(event) or event.id
        rival = kept.get(key)
        if rival is None or (-event.created_at, event.id) < (-rival.created_at, rival.id):
            kept[key] = event
    return list(kept.values())
