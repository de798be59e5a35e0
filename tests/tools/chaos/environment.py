"""The environment of a run: relays with overlapping contents, people who publish, users who register, both sinks."""

import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.factories.events import SignedEvent, authors, forge_signature
from tests.factories.workload import replaceable_key
from tests.fakes.net import loopback_address, pause
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService
from tests.oracle.delivery import DeliveryOracle
from tests.oracle.relevance import GLOBAL_KINDS, Horizon
from tests.tools.chaos.peers import MIRRORS, SOURCES, IndependentPeer, Peer, ScriptedPeer
from tests.tools.chaos.upgrade import HOLDER
from tests.tools.chaos.workload import People

REACH_S = 2 * 3600
HISTORY_S = 3000
HISTORY_EVENTS = 2000
AUTHORS = 250
USERS = 10
FIRST_USERS = 3
LEFT_BEHIND = 60
_TICK_S = 0.05
_REGISTER_EVERY_S = 3.0
_FORGED = 0.01
JOIN_S = 15.0


@dataclass(slots=True)
class Environment:
    """Everything outside the service. `rate`: events a second; `register` is told the service by `live_with`."""

    seed: int
    rate: float
    people: People
    peers: list[Peer]
    target: ScriptedRelay
    pubsub: PubSubProcess
    began: int
    registered: list[str] = field(default_factory=list)
    flood: float = 1.0
    published: int = 0
    _left_behind: list[SignedEvent] = field(default_factory=list)
    _rng: random.Random = field(default_factory=random.Random)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _errors: list[BaseException] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        seed: int,
        directory: Path,
        *,
        rate: float,
        late_s: int,
        address: Callable[[], str] = loopback_address,
    ) -> "Environment":
        """Start all peers and let them hold the past. Late events are dated back by up to `late_s`.

        `address`: gives one for each relay.
        """
        rng = random.Random(f"world {seed}")
        began = int(time.time())
        people = People(authors(seed, AUTHORS), USERS, rng, late_s)
        target, pubsub = ScriptedRelay(), PubSubProcess(record=directory / "pubsub.record")
        peers: list[Peer] = [ScriptedPeer.start(preset, seed, address()) for preset in (*SOURCES, *MIRRORS)]
        environment = cls(seed, rate, people, peers, target, pubsub, began)
        try:
            peers.append(IndependentPeer(directory / "lmdb", address()))
            target.start()
            pubsub.start()
            environment._rng = random.Random(f"placing {seed}")
            environment._remember(people.history(HISTORY_EVENTS, since=began - HISTORY_S, until=began - 60))
        except BaseException:
            environment.close()
            raise
        return environment

    def _remember(self, events: list[SignedEvent]) -> None:
        held: dict[str, list[SignedEvent]] = {peer.name: [] for peer in self.peers}
        for event in events:
            for peer in self._places(event):
                held[peer.name].append(event)
        for peer in self.peers:
            peer.hold(held[peer.name])

    @property
    def scripted(self) -> list[ScriptedPeer]:
        """The scripted relays."""
        return [peer for peer in self.peers if isinstance(peer, ScriptedPeer)]

    @property
    def independent(self) -> IndependentPeer:
        """The one that is not."""
        (found,) = [peer for peer in self.peers if isinstance(peer, IndependentPeer)]
        return found

    @property
    def urls(self) -> list[str]:
        """Where all relays are."""
        return [peer.url for peer in self.peers]

    def _places(self, event: SignedEvent) -> list[Peer]:
        """One to three relays, at least one of which offers it to everybody for ever."""
        sources: list[Peer] = [peer for peer in self.scripted if peer.is_source]
        others: list[Peer] = [peer for peer in self.scripted if not peer.is_source]
        # The independent one deletes what it is asked to, and takes it no more.
        is_everywhere = event.id not in self.people.deleted
        if replaceable_key(event) is None and self._rng.random() < 0.25 and is_everywhere:
            return [self.independent, *self._rng.sample(sources, self._rng.choice((0, 0, 1)))]
        places = self._rng.sample(sources, self._rng.choice((1, 1, 2, 3)))
        if self._rng.random() < 0.2:
            places.append(self._rng.choice(others))
        if self._rng.random() < 0.1 and is_everywhere:
            places.append(self.independent)
        return places

    def left_behind(self) -> list[SignedEvent]:
        """What no relay has any more: an earlier version of the service has taken it, and not handed it on."""
        while len(self._left_behind) < LEFT_BEHIND:
            event = self.people.event(int(time.time()) - self._rng.randint(60, HISTORY_S))
            # Nobody has registered yet, so that the others are nobody's business.
            if event.kind in GLOBAL_KINDS:
                self._left_behind.append(event)
        return self._left_behind

    def live_with(self, service: EventService) -> None:
        """Let people publish and register from now on."""
        for name, work in (("publisher", self._publish), ("registrar", lambda: self._register(service))):
            thread = threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _guarded(self, work: "object") -> None:
        assert callable(work)
        try:
            work()
        except BaseException as error:
            self._errors.append(error)
            raise

    def _publish(self) -> None:
        owed = 0.0
        last = time.monotonic()
        while not self._stop.wait(_TICK_S):
            now = time.monotonic()
            owed = min(owed + (now - last) * self.rate * self.flood, self.rate * self.flood)
            last = now
            while owed >= 1 and not self._stop.is_set():
                owed -= 1
                self._tell(self.people.event())

    def _tell(self, event: SignedEvent) -> None:
        places = self._places(event)
        if self._rng.random() < _FORGED:
            others = [peer for peer in self.scripted if peer not in places]
            self._rng.choice(others).publish_forged(forge_signature(event))
        for peer in places:
            peer.publish(event)
        self.published += 1

    def _register(self, service: EventService) -> None:
        """One after the other, each until the service says that it has them; then now and then one of them again."""
        for number, user in enumerate(self.people.users):
            while not self._stop.is_set():
                try:
                    accepted, reason = service.register(user)
                except Exception:
                    # Whatever breaks while the server is killed under it: asked again.
                    accepted, reason = False, "no answer"
                if accepted:
                    self.registered.append(user.pubkey)
                    break
                # A service whose clock is behind takes every registration for one of the future.
                is_sound = not reason.startswith("invalid") or "seconds ahead" in reason
                assert reason in ("no answer", "") or is_sound, reason
                self._stop.wait(1.0)
            if number >= FIRST_USERS and self._stop.wait(_REGISTER_EVERY_S):
                return
        while not self._stop.wait(_REGISTER_EVERY_S):
            with contextlib.suppress(Exception):
                service.register(random.choice(self.people.users))

    def register_again(self, service: EventService) -> None:
        """Register everybody who is registered once more, as after a loss of power."""
        known = set(self.registered)
        for user in self.people.users:
            if user.pubkey in known:
                service.register(user)

    def settle(self, timeout_s: float) -> None:
        """Let nothing new happen; returns when all relays have what they were given. Raises what went wrong."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_S)
        if self._errors:
            raise self._errors[0]
        self.independent.flush(timeout_s)
        pause(_TICK_S)

    def oracle(self) -> DeliveryOracle:
        """What must, may and must not have come through."""
        oracle = DeliveryOracle(Horizon(since=self.began - REACH_S, deleted_due=True))
        for peer in self.peers:
            peer.book(oracle, self.began)
        oracle.hold(HOLDER, self._left_behind, available_at=self.began)
        oracle.register(*self.registered)
        return oracle

    def close(self) -> None:
        """End all peers."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_S)
        for peer in self.peers:
            peer.close()
        self.target.stop()
        self.pubsub.kill()
