"""The relays of a run, and what each of them offers to a patient client."""

import contextlib
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.factories.events import SignedEvent
from tests.factories.workload import newest_versions, replaceable_key
from tests.fakes.behaviour import PRESETS, Behaviour
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.relay import ScriptedRelay
from tests.oracle.delivery import DeliveryOracle

# Presets whose relays hand out everything to whoever asks patiently.
SOURCES = ("honest", "strfry", "nostr-relay", "node-relay", "nostream")
# These refuse broad filters or all but a few requests: they hold copies only, so that nothing hangs on them.
MIRRORS = ("nostr-rs", "khatru")
INDEPENDENT = "independent"
_PUBLISH_TIMEOUT_S = 30.0
# So few that they are answered in time on any machine.
_BATCH = 100
_RETRY_S = 0.5
JOIN_S = 30.0


class Peer(Protocol):
    """One relay of the environment."""

    name: str

    @property
    def url(self) -> str: ...

    def hold(self, events: Sequence[SignedEvent]) -> None:
        """Keep events from before the run."""
        ...

    def publish(self, event: SignedEvent) -> None:
        """Take an event now, and hand it to whoever is subscribed."""
        ...

    def book(self, oracle: DeliveryOracle, began: float) -> None:
        """Note what it offers, from `began` (Unix seconds) on where it was there before."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class ScriptedPeer:
    """A scripted relay, which keeps every version; a forged copy does not count for the oracle."""

    name: str
    relay: ScriptedRelay
    is_source: bool
    held: list[SignedEvent] = field(default_factory=list)
    live: list[tuple[float, SignedEvent]] = field(default_factory=list)
    is_up: bool = True
    _changing: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def start(cls, preset: str, seed: int, address: str | None = None) -> "ScriptedPeer":
        """One that behaves like `preset`, at an address of loopback unless told otherwise."""
        relay = ScriptedRelay(PRESETS[preset], seed=seed, address=address)
        relay.start()
        return cls(preset, relay, preset in SOURCES)

    @property
    def url(self) -> str:
        """See `Peer`."""
        return self.relay.url

    @property
    def preset(self) -> Behaviour:
        """How it behaves while nothing is wrong."""
        return PRESETS[self.name]

    def hold(self, events: Sequence[SignedEvent]) -> None:
        """See `Peer`."""
        self.held += events
        self.relay.hold(events)

    def publish(self, event: SignedEvent) -> None:
        """See `Peer`; a relay that is down takes it as from a neighbour and has it when it is up again."""
        with self._changing:
            self.live.append((time.time(), event))
            self.relay.publish(event)

    def publish_forged(self, event: SignedEvent) -> None:
        """Take an event that is not authentic: it is offered, but nobody may hand it on."""
        with self._changing:
            self.relay.publish(event)

    def down(self) -> None:
        """Let it be gone; whatever is published meanwhile it will have when it is back."""
        with self._changing:
            self.is_up = False
            self.relay.stop()

    def up(self) -> None:
        """Let it be back."""
        with self._changing:
            self.relay.start()
            self.is_up = True

    def drop(self) -> None:
        """Reset all connections, if it is up."""
        with self._changing:
            if self.is_up:
                self.relay.drop()

    def behave(self, behaviour: Behaviour) -> None:
        """Behave otherwise from now on."""
        with self._changing:
            self.relay.behave(behaviour)

    def shout(self, *frames: str) -> None:
        """Send frames to every client, if it is up."""
        with self._changing:
            if self.is_up:
                self.relay.shout(*frames)

    def book(self, oracle: DeliveryOracle, began: float) -> None:
        """See `Peer`."""
        if self.is_source:
            oracle.hold(self.name, self.held, available_at=began)
            for at, event in self.live:
                oracle.hold(self.name, [event], available_at=at, live=True)

    def close(self) -> None:
        """See `Peer`."""
        self.relay.stop()


class IndependentPeer:
    """The relay that we did not write. It is published to as by any client, from a thread of its own.

    It keeps the newest version of a replaceable event only, so whoever gives it one must give it to another, too.
    """

    name = INDEPENDENT

    def __init__(self, directory: Path, address: str | None = None) -> None:
        self.relay = IndependentRelay(lmdb=directory, address=address)
        self.relay.start()
        self.taken: list[tuple[float, SignedEvent]] = []
        self.held: list[SignedEvent] = []
        self._pending: list[SignedEvent] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="independent", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """See `Peer`."""
        return self.relay.url

    def hold(self, events: Sequence[SignedEvent]) -> None:
        """See `Peer`."""
        self.held += events
        self.relay.load(events)

    def publish(self, event: SignedEvent) -> None:
        """See `Peer`; returns at once."""
        with self._changed:
            self._pending.append(event)
            self._changed.notify()

    def _run(self) -> None:
        while not self._closing:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                batch = self._pending[:_BATCH]
            began = time.time()
            try:
                answers = self.relay.publish(batch, timeout_s=_PUBLISH_TIMEOUT_S)
            except Exception:
                # Down, or broken in the middle: whatever it has taken it calls a duplicate the next time.
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, _RETRY_S)
                continue
            self.taken += [(began, event) for event in batch if event.id in answers.accepted]
            with self._changed:
                del self._pending[: len(batch)]

    def flush(self, timeout_s: float) -> None:
        """Wait until everything published is answered; raises `TimeoutError`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._pending and time.monotonic() < deadline:
                self._changed.wait(_RETRY_S)
            if self._pending:
                raise TimeoutError(f"the independent relay has not answered {len(self._pending)} events")

    def book(self, oracle: DeliveryOracle, began: float) -> None:
        """See `Peer`."""
        left = {event.id for event in newest_versions([*self.held, *(event for _, event in self.taken)])}
        oracle.hold(self.name, [event for event in self.held if event.id in left], available_at=began)
        for at, event in self.taken:
            if replaceable_key(event) is None:
                oracle.hold(self.name, [event], available_at=at, live=True)

    def freeze(self) -> None:
        """Let it stand still."""
        self.relay.child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.relay.child.signal(signal.SIGCONT)

    def close(self) -> None:
        """See `Peer`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        with contextlib.suppress(Exception):
            self.relay.kill()
        self._thread.join(JOIN_S)
