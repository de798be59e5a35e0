"""Honest users, honest relays and honest traffic, and a sink that notes when each event arrives."""

import queue
import random
import threading
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

from pipeline.nostr.address import parse_address
from tests.factories.events import Author, SignedEvent, authors
from tests.fakes.behaviour import PRESETS
from tests.fakes.command_relay import CommandRelay
from tests.fakes.publisher import PatientPublisher
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Disconnected
from tests.tools.completeness.foreign.registry import QUICK
from tests.tools.siege.names import literal, named

# Presets whose relays answer at once and give everything to everybody.
_PRESETS = ("honest", "strfry", "nostr-relay", "nostream")
_RATE = 10.0
_USERS = 8
_FOLLOWEES = 24
_HOSTER = "hoster.example"
"""A registrable domain of many honest relays."""
JOIN_S = 30.0


@dataclass(slots=True)
class HonestRelay:
    """A relay that does what it should, ours or one that others wrote. `url`: where the service finds it."""

    url: str
    scripted: ScriptedRelay | None = None
    foreign: CommandRelay | None = None
    _to_publish: queue.SimpleQueue[SignedEvent | None] = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None

    @property
    def key(self) -> str:
        """The address as the service stores it."""
        return parse_address(self.url).url

    @property
    def disconnections(self) -> int:
        """How many connections have ended so far; unknown, hence 0, for one that others wrote."""
        return 0 if self.scripted is None else len(self.scripted.journal.of(Disconnected))

    def start(self) -> None:
        """Serve."""
        if self.scripted is not None:
            self.scripted.start()
        if self.foreign is not None:
            self.foreign.start()
            self._thread = threading.Thread(target=self._publish_all, name=f"to {self.url}", daemon=True)
            self._thread.start()

    def publish(self, event: SignedEvent) -> None:
        """Take an event and give it to subscribers; returns at once."""
        if self.scripted is not None:
            self.scripted.publish(event)
        else:
            self._to_publish.put(event)

    def _publish_all(self) -> None:
        assert self.foreign is not None
        with PatientPublisher(self.foreign.url) as publisher:
            while (event := self._to_publish.get()) is not None:
                with suppress(Exception):
                    # It was asked in good faith; what it did not take is missing at the sink.
                    publisher.publish([event])

    def close(self) -> None:
        """End it."""
        self._to_publish.put(None)
        if self._thread is not None:
            self._thread.join(JOIN_S)
        if self.scripted is not None:
            self.scripted.stop()
        if self.foreign is not None:
            self.foreign.kill()


class World:
    """Everything honest outside the service; a context manager.

    The first relays are the operator's, some are named by users in their registrations, the others by two authors each.
    """

    def __init__(self, seed: int, relays: int, directory: Path) -> None:
        self.seed = seed
        self.rng = random.Random(f"siege {seed}")
        people = authors(seed, _USERS + _FOLLOWEES)
        self.users, self.followees = people[:_USERS], people[_USERS:]
        self.relays = [self._scripted(number) for number in range(relays)]
        for relay in QUICK:
            if relay.is_installed:
                command = relay.variant()
                foreign = CommandRelay(command.command, directory / command.name, env=command.env)
                self.relays.append(HonestRelay(foreign.url, foreign=foreign))
        self.sent: dict[str, float] = {}
        self.published = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._stack = ExitStack()
        self._thread: threading.Thread | None = None

    @staticmethod
    def _scripted(number: int) -> HonestRelay:
        relay = ScriptedRelay(PRESETS[_PRESETS[number % len(_PRESETS)]])
        by_name = number % 2 == 0
        url = named(relay.address, relay.port, _HOSTER) if by_name else literal(relay.address, relay.port)
        return HonestRelay(url, scripted=relay)

    def __enter__(self) -> "World":
        try:
            for relay in self.relays:
                self._stack.callback(relay.close)
                relay.start()
            self._tell_of_relays()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_publishing()
        self._stack.close()

    @property
    def bootstrap(self) -> list[str]:
        """The operator's relays."""
        return [relay.url for relay in self.relays[:3]]

    @property
    def named_by_users(self) -> list[str]:
        """Relays that users name when they register."""
        return [relay.url for relay in self.relays[3::2]]

    @property
    def named_by_lists(self) -> list[str]:
        """Relays that are only named in relay lists."""
        return [relay.url for relay in self.relays[4::2]]

    def _tell_of_relays(self) -> None:
        now = int(time())
        for number, user in enumerate(self.users):
            followees = self.followees[number % 3 :: 3]
            self.relays[number % 3].publish(user.contact_list(followees, now - 60))
        tags = [("r", url) for url in self.named_by_lists]
        for author in self.followees[:2]:
            self.relays[0].publish(author.sign(kind=10002, created_at=now - 60, tags=tags))

    def start_publishing(self) -> None:
        """Let people write, some events a second, each on one to three relays."""
        self._thread = threading.Thread(target=self._publish_all, name="honest traffic", daemon=True)
        self._thread.start()

    def stop_publishing(self) -> None:
        """Let nobody write any more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def _publish_all(self) -> None:
        due = monotonic()
        while not self._stop.is_set():
            due = max(due + self.rng.expovariate(_RATE), monotonic() - 1.0)
            if self._stop.wait(max(0.0, due - monotonic())):
                return
            self.write(self.rng.choice([*self.users, *self.followees]))

    def write(self, author: Author) -> str:
        """Let `author` write something that the sink must get; return its id."""
        with self._lock:
            self.published += 1
            kind = self.rng.choice((1, 6, 7))
            event = author.sign(f"honest {self.published}", kind=kind, created_at=int(time()))
            places = self.rng.sample(self.relays, self.rng.choice((1, 1, 2, 3)))
            self.sent[event.id] = time()
        for relay in places:
            relay.publish(event)
        return event.id

    def tell(self, events: Iterable[SignedEvent], relays: int = 1) -> None:
        """Leave events of anybody on honest relays, which take what is signed."""
        chosen = [relay for relay in self.relays if relay.scripted is not None][:relays]
        for event in events:
            for relay in chosen:
                relay.publish(event)

    def new_relay(self) -> HonestRelay:
        """Start one more honest relay, which nobody has named yet."""
        relay = self._scripted(len(self.relays))
        self._stack.callback(relay.close)
        relay.start()
        return relay
