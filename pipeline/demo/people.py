"""The people of the demo: who they are, whom they follow, and what they do next. Knows no clock and does no I/O."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.nostr import kinds
from pipeline.nostr.event import Event, public_key, sign

USERS: Final = 3
FRIENDS: Final = 9
STRANGERS: Final = 12
_NAMES: Final = (
    "ada", "bruno", "carla", "dmitri", "emeka", "fatima", "goro", "hedda", "ines", "jonas", "kavya", "liang", "mira",
    "noor", "otto", "pilar", "quentin", "rosa", "sven", "tariq", "uma", "vera", "wanda", "xavier",
)  # fmt: skip
_TEXTS: Final = (
    "Good morning, relays.", "Who else is up?", "The bread turned out well today.", "Reading about lighthouses.",
    "It rains, and the cat disapproves.", "Back from the mountains.", "Two chords and the truth.",
    "Has anybody a spare bicycle pump?", "New post is out.", "That was a good game.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Person:
    """A person with a key."""

    name: str
    secret: bytes
    key: bytes

    @classmethod
    def made_by(cls, rng: random.Random, name: str) -> "Person":
        """Return a person with a new key."""
        secret = rng.randbytes(32)
        return cls(name, secret, public_key(secret))


class People:
    """Registered users, friends whom they follow, and strangers, some of whom mention a user now and then."""

    def __init__(self, rng: random.Random, relay: str) -> None:
        everybody = [Person.made_by(rng, name) for name in _NAMES[: USERS + FRIENDS + STRANGERS]]
        self.users: Sequence[Person] = everybody[:USERS]
        self.friends: Sequence[Person] = everybody[USERS : USERS + FRIENDS]
        self.strangers: Sequence[Person] = everybody[USERS + FRIENDS :]
        self._everybody = everybody
        self._rng = rng
        self._relay = relay

    def introductions(self, now: int) -> Iterator[Event]:
        """Everybody's profile and relay list, and whom the users follow; `now` in seconds."""
        for person in self._everybody:
            profile = json.dumps({"name": person.name, "about": "lives in a demo"})
            yield sign(person.secret, created_at=now, kind=kinds.METADATA, tags=[], content=profile)
            yield sign(person.secret, created_at=now, kind=kinds.RELAY_LIST, tags=[["r", self._relay]], content="")
        for user in self.users:
            yield self.contact_list(user, now)

    def contact_list(self, user: Person, now: int) -> Event:
        """Return a new list of whom `user` follows: most of the friends."""
        followed = self._rng.sample(self.friends, k=self._rng.randint(FRIENDS // 2, FRIENDS - 1))
        tags = [["p", friend.key.hex()] for friend in followed]
        return sign(user.secret, created_at=now, kind=kinds.CONTACTS, tags=tags, content="")

    def registration(self, user: Person, now: int) -> Event:
        """Return what `user` registers with."""
        content = json.dumps({"relays": [{"address": self._relay}]})
        return sign(user.secret, created_at=now, kind=kinds.REGISTRATION, tags=[], content=content)

    def next_event(self, now: int) -> Event:
        """Return what a person does next: mostly notes, some of them by strangers that no user follows."""
        rng = self._rng
        chance = rng.random()
        if chance < 0.04:
            return self.contact_list(rng.choice(self.users), now)
        author = rng.choice(self._everybody)
        tags = [["p", rng.choice(self.users).key.hex()]] if chance < 0.25 else []
        kind = kinds.REACTION if chance < 0.10 else kinds.TEXT_NOTE
        content = "+" if kind == kinds.REACTION else rng.choice(_TEXTS)
        # Else the same author saying the same within a second would be the same event.
        nonce = ["nonce", rng.randbytes(4).hex()]
        return sign(author.secret, created_at=now, kind=kind, tags=[*tags, nonce], content=content)
