"""What questions know of each other: the events that a relay showed, and what was found so far. Pure."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Final, Protocol, TypeAlias

from pipeline.nostr.event import Event, public_key
from pipeline.nostr.kinds import CONFIDENTIAL_KINDS, DELETION, TEXT_NOTE, is_ephemeral, is_regular
from pipeline.nostr.tags import expiration
from pipeline.probe.exchange import Ask, Reply
from pipeline.probe.observation import Observation
from pipeline.relay.nip11 import RelayInformation

Steps: TypeAlias = Generator[Ask, Reply, Iterable[Observation]]
"""The exchanges of one question: yields what is to be asked, is sent what came, returns what is seen."""

# Events to check with; more tell no more.
MAX_KEPT: Final = 2_000
# Values of a letter that are long or empty prove little.
_MOST_VALUE: Final = 200


@dataclass(slots=True)
class Known:
    """`now`: Unix seconds, when the question began; `sample`: the events that the relay showed first, in its order;
    `sample_kinds`: what it was asked for by, where not by nothing; `pool`: all that it showed.

    `secret`: the throw-away key; `writes`: events may be published with it, `published` are those that were accepted,
    `is_taken_back`: their deletion was published. `offered`: by secret key, ids of all that may be there to be deleted,
    noted before it is sent, since the probe may be ended before the verdict comes.
    `plain_refusal`: what the relay says where notes are asked for and nothing else.
    """

    now: int
    secret: bytes
    writes: bool = False
    information: RelayInformation | None = None
    sample: tuple[Event, ...] = ()
    is_sample_kindless: bool = False
    sample_kinds: tuple[int, ...] = ()
    pool: dict[bytes, Event] = field(default_factory=dict)
    published: list[Event] = field(default_factory=list)
    offered: dict[bytes, list[bytes]] = field(default_factory=dict)
    is_taken_back: bool = False
    plain_refusal: str = ""
    last_id: int = 0

    def new_id(self) -> str:
        """Return a subscription id that was not used before."""
        self.last_id += 1
        return f"q{self.last_id}"

    def offer(self, secret: bytes, event: Event) -> None:
        """Note that `event`, signed with `secret`, is about to be published."""
        if event.kind != DELETION and not is_ephemeral(event.kind):
            self.offered.setdefault(secret, []).append(event.id)

    def on_refused(self, event_id: bytes) -> None:
        """The relay refused an event: there is nothing to be deleted."""
        for secret, ids in list(self.offered.items()):
            left = [each for each in ids if each != event_id]
            self.offered[secret] = left
            if not left:
                del self.offered[secret]

    def note(self, events: Iterable[Event]) -> None:
        """Keep events that the relay showed, up to a bound."""
        for event in events:
            if len(self.pool) < MAX_KEPT:
                self.pool.setdefault(event.id, event)

    def is_refused_as_ever(self, answer: Reply) -> bool:
        """Return True if the relay says no more than where notes are asked for and nothing else."""
        return bool(self.plain_refusal) and answer.words == self.plain_refusal

    def controls(self, suits: Callable[[Event], bool] = lambda _: True) -> list[Event]:
        """Return events that the relay keeps and that no rule hides, notes first and then the newest first."""
        lasting = [each for each in self.pool.values() if _is_lasting(each) and suits(each)]
        return sorted(lasting, key=lambda each: (each.kind != TEXT_NOTE, -each.created_at, each.id))

    def tagged(self, letter: str = "") -> list[tuple[Event, str, str]]:
        """Return controls with a letter and value that they can be found by; those with `p` first."""
        found = [
            (event, name, value) for event in self.controls() for name, value in letters(event) if letter in ("", name)
        ]
        return sorted(found, key=lambda each: "pet".find(each[1]) % 4)


class ProbeQuestion(Protocol):
    """A small number of exchanges that show one trait of a relay; `names`: the lines that it gives."""

    @property
    def names(self) -> tuple[str, ...]:
        """The lines that it gives."""
        ...

    def ask(self, known: Known) -> Steps:
        """Return its exchanges."""
        ...


def letters(event: Event) -> Iterator[tuple[str, str]]:
    """The name and first value of the tags that relays index."""
    for tag in event.tags:
        if (
            len(tag) > 1
            and len(tag[0]) == 1
            and tag[0].isascii()
            and tag[0].isalpha()
            and 0 < len(tag[1]) <= _MOST_VALUE
        ):
            yield tag[0], tag[1]


def commonest(values: Iterable[object], most: int) -> list[object]:
    """Return the values that occur most often."""
    return [value for value, _ in Counter(values).most_common(most)]


@lru_cache(maxsize=4_096)
def stranger(number: int) -> str:
    """Return the key, in hexadecimal, of an author whom no relay has: the same for the same number."""
    return public_key(sha256(f"event-service probe {number}".encode()).digest()).hex()


def _is_lasting(event: Event) -> bool:
    return is_regular(event.kind) and event.kind not in CONFIDENTIAL_KINDS and expiration(event) is None
