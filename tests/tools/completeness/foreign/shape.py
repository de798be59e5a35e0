"""What the seeded world of a trial looks like, and the events of it."""

import random
from dataclasses import dataclass
from enum import Enum
from time import time

from tests.factories.events import SignedEvent
from tests.tools.completeness.world import World

LATE_S = 48 * 3600
"""How far back late arrivals are dated: as NIP-59 dates its wraps."""
_MENTIONING_KINDS = (1, 1, 1, 4, 7, 1059, 1111, 9735, 30023, 30311, 31923)
_MENTIONS = 0.06


class Order(Enum):
    """In which order a relay is given its events."""

    SHUFFLED = "shuffled"
    ARRIVAL = "arrival"


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the world.

    `span_s`: events are dated so far back; `mentions_s`: mentions of users by strangers, which are one event in
    sixteen, that far. `dense`: notes of one second by many authors; `dense_author`: of another second by one author.
    """

    events: int = 6_000
    users: int = 8
    followees: int = 110
    strangers: int = 400
    span_s: int = 24 * 3600
    mentions_s: int = 72 * 3600
    dense: int = 60
    dense_author: int = 0
    order: Order = Order.SHUFFLED

    @property
    def reach_s(self) -> int:
        """How far back the service has to reach so that all of it is due."""
        return max(self.span_s, self.mentions_s, LATE_S) + 3600

    def world(self, seed: int) -> World:
        """Who is in it."""
        return World.make(seed, users=self.users, followees=self.followees, strangers=self.strangers)

    def stored(self, world: World) -> list[SignedEvent]:
        """What relays hold before the service starts, in `order`."""
        mentions = int(self.events * _MENTIONS)
        events = [*world.contact_lists]
        events += [mention(world, self.mentions_s) for _ in range(mentions)]
        events += world.one_second(self.dense, world.now - self.span_s // 3)
        events += world.one_second(self.dense_author, world.now - self.span_s // 2, author=world.followees[0])
        events += [dated_back(world, self.span_s) for _ in range(self.events - len(events))]
        if self.order is Order.ARRIVAL:
            return sorted(events, key=lambda event: event.created_at)
        random.Random(world.now).shuffle(events)
        return events


def dated_back(world: World, most_s: int) -> SignedEvent:
    """Any event, dated at most `most_s` back."""
    return world.event(world.now - world.rng.randrange(5, most_s))


def mention(world: World, most_s: int) -> SignedEvent:
    """An event of a stranger that mentions a user, dated at most `most_s` back."""
    kind = world.rng.choice(_MENTIONING_KINDS)
    tags = [("p", world.rng.choice(world.users).pubkey)]
    if kind >= 30000:
        tags.append(("d", f"{world.rng.random()}"))
    created_at = world.now - world.rng.randrange(5, most_s)
    return world.rng.choice(world.strangers).sign(f"{world.rng.random()}", kind=kind, created_at=created_at, tags=tags)


def streamed(world: World) -> SignedEvent:
    """An event of this moment, one in ten dated back by up to an hour."""
    back_s = world.rng.randrange(30, 3600) if world.rng.random() < 0.1 else 0
    return world.event(int(time()) - back_s)


def streamed_anyhow(world: World) -> SignedEvent:
    """An event of this moment, one in ten dated back by up to two days."""
    return late(world) if world.rng.random() < 0.1 else world.event(int(time()))


def late(world: World) -> SignedEvent:
    """An event that arrives long after its date."""
    if world.rng.random() < 0.2:
        return mention(world, LATE_S)
    return dated_back(world, LATE_S)
