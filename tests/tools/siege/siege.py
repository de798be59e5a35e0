"""The service and the honest world around it, attacked; what came of one attack."""

import itertools
import os
import statistics
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import monotonic, time

from tests.factories.events import Author, SignedEvent
from tests.fakes.net import pause
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.pubsub_record import RecordReader
from tests.fakes.relay_process import RelayProcess
from tests.fakes.service import EventService, settings
from tests.tools.siege.attacks import Attack
from tests.tools.siege.clients import PROXY, register
from tests.tools.siege.hostile import HostileRelays
from tests.tools.siege.names import HOOKS, loopback
from tests.tools.siege.watch import Costs, Watch, wait_connected, wait_proven
from tests.tools.siege.world import World

START_S = 90.0
DIAL_S = 90.0
PROOF_S = 120.0
DRAIN_S = 90.0
BACK_S = 90.0
"""For honest relays whose connection ended to be connected again, the machine may be busy."""
_REGISTER_EVERY_S = 2.0
_HEARD_AFTER_S = 3.0
_POLL_S = 0.25
_PRECEDENCE = -12
_strangers = itertools.count(1_000)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What honest users had of one attack. Delays are seconds, `inf` for what never came."""

    name: str
    events: int
    missing: int
    median_s: float
    p99_s: float
    relays: int
    relays_connected: int
    disconnections: int
    registrations: int
    accepted: int
    costs: Costs
    disk_mib: int
    broken: tuple[str, ...]
    notes: Mapping[str, str]


@dataclass(slots=True)
class Registrar:
    """Honest people who register one after another, each from an address of their own, and then write something."""

    siege: "Siege"
    refusals: list[str] = field(default_factory=list)
    registered: list[tuple[float, Author]] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Register until told to stop."""
        while not self._stop.is_set():
            author = self.siege.stranger()
            event = author.registration(int(time()), [self.siege.world.relays[0].url])
            accepted, reason = self.siege.register(event, visitor=self.siege.visitor())
            if accepted:
                self.registered.append((monotonic(), author))
            else:
                self.refusals.append(reason)
            self._write()
            self._stop.wait(_REGISTER_EVERY_S)

    def _write(self) -> None:
        """Let those write who registered a moment ago."""
        now = monotonic()
        for at, author in self.registered[len(self.heard) :]:
            if now - at < _HEARD_AFTER_S:
                return
            self.heard.append(self.siege.world.write(author))

    def stop(self) -> None:
        """Register nobody any more."""
        self._stop.set()


class Siege:
    """The running service under one attack after another; made by `started`."""

    def __init__(self, directory: Path, world: World, service: EventService, sink: PubSubProcess) -> None:
        self.directory = directory
        self.world = world
        self.service = service
        self.sink = sink
        self.arrived: dict[str, float] = {}
        self._record = RecordReader(sink.record)
        self.seconds = 0.0
        self.is_short = False
        self.broken: list[str] = []
        self.notes: dict[str, str] = {}
        self._deadline = 0.0
        self._measured_from = 0.0
        self._visitors = itertools.count(1)
        self._networks = itertools.count(100)

    @classmethod
    @contextmanager
    def started(cls, seed: int, relays: int, directory: Path, extra: Mapping[str, str]) -> Iterator["Siege"]:
        """Start everything and return once all honest relays are connected; raises `TimeoutError`."""
        with World(seed, relays, directory) as world, PubSubProcess(record=directory / "pubsub.record") as sink:
            env = settings(
                relays=world.bootstrap,
                pubsub=sink.address,
                EVENTS_DISCOVER_RELAYS="true",
                EVENTS_TRUSTED_PROXIES=PROXY,
                PYTHONPATH=str(HOOKS),
                **extra,
            )
            with EventService(directory / "service", env) as service:
                siege = cls(directory, world, service, sink)
                siege.let_users_in()
                yield siege

    def let_users_in(self) -> None:
        """Register the honest users and wait for the relays that they and others name."""
        for user in self.world.users:
            event = user.registration(int(time()), self.world.named_by_users)
            accepted, reason = self.register(event, visitor=self.visitor())
            assert accepted, reason
        if missing := wait_connected(self.service, self.relays, START_S):
            raise TimeoutError(f"not connected after {START_S} s: {', '.join(sorted(missing))}")

    def take_precedence(self) -> None:
        """Let what is measured go before other work on this machine, where the kernel and our rights allow it.

        Linux may share processors among sessions, whatever the priority of a process in each.
        """
        others = [relay.foreign.child.pid for relay in self.world.relays if relay.foreign is not None]
        for pid in (os.getpid(), self.service.child.pid, self.sink.child.pid, *others):
            with suppress(OSError):
                Path(f"/proc/{pid}/autogroup").write_text(str(_PRECEDENCE))

    @property
    def relays(self) -> frozenset[str]:
        """The honest relays, as the service calls them."""
        return frozenset(relay.key for relay in self.world.relays)

    @property
    def is_on(self) -> bool:
        """Whether the attack shall go on."""
        return monotonic() < self._deadline and self.service.running

    def size(self, short: int, full: int) -> int:
        """How much of something, in a short run or in full."""
        return short if self.is_short else full

    def wait(self, seconds: float = inf) -> None:
        """Let the attack go on for so long, at most to its end."""
        pause(min(seconds, self._deadline - monotonic()))

    def begin(self) -> None:
        """Let the time of the attack begin now: what it needs stands ready."""
        self._measured_from = time()
        self._deadline = monotonic() + self.seconds

    def let_relays_prove_themselves(self) -> None:
        """Wait until every honest relay was the first to bring something, as after a minute of honest traffic.

        Raises `TimeoutError`.
        """
        if missing := wait_proven(self.service, self.relays, PROOF_S):
            raise TimeoutError(f"first with nothing after {PROOF_S} s: {', '.join(sorted(missing))}")

    def require(self, holds: bool, promise: str) -> None:
        """Note a promise that was broken unless it holds."""
        if not holds:
            self.broken.append(promise)

    def stranger(self) -> Author:
        """Return a key that nobody has met."""
        return Author.from_seed(self.world.seed, next(_strangers))

    def visitor(self) -> str:
        """Return the address of a client that the proxy has not spoken for yet."""
        number = next(self._visitors)
        return f"11.{number // 62_500 % 250}.{number // 250 % 250}.{number % 250 + 1}"

    def register(self, event: SignedEvent, visitor: str = "", claims: str = "") -> tuple[bool, str]:
        """Send a registration; whether it was accepted, and the reason."""
        return register(self.service.host, self.service.port, event, visitor, claims)

    def network(self) -> int:
        """Return the second number of loopback addresses that nobody uses yet."""
        return next(self._networks)

    @contextmanager
    def hostile(self, play: str, *, names: int = 1, **options: float) -> Iterator[HostileRelays]:
        """Run relays of strangers on `names` addresses, named by a registered stranger; see `hostile.py`."""
        first = self.network()
        with HostileRelays(play, [loopback(first, number) for number in range(names)], **options) as relays:
            yield relays

    @contextmanager
    def strangers_relay(self) -> Iterator[RelayProcess]:
        """Run a relay that does what it should and is full of what strangers leave there, once the service dialled it.

        It is a process of its own, since what is large to search must not slow honest relays down.
        """
        with RelayProcess("strfry") as relay:
            self.name_by_user(relay.url)
            relay.wait_stats("opened", 1, DIAL_S)
            yield relay

    def name_by_user(self, *urls: str) -> Author:
        """Have a stranger register and name these relays, which the service then dials; return the stranger."""
        author = self.stranger()
        accepted, reason = self.register(author.registration(int(time()), urls), visitor=self.visitor())
        self.require(accepted, f"a registration that names relays is accepted: {reason}")
        return author

    def play(self, attack: Attack, seconds: float) -> Outcome:
        """Let strangers attack for some seconds and return what honest users had of it."""
        self.seconds, self.broken, self.notes = seconds, [], {}
        registrar = Registrar(self)
        thread = threading.Thread(target=registrar.run, name="registrar", daemon=True)
        gone = sum(relay.disconnections for relay in self.world.relays)
        known = frozenset(self.world.sent)
        with Watch(self.service, self.relays) as watch:
            thread.start()
            self.begin()
            try:
                attack.play(self)
            except Exception as error:
                # What strangers run broke; the other attacks are played all the same.
                self.require(False, f"the attack is played to its end: {error!r}")
            until = time()
            registrar.stop()
            thread.join()
            costs = watch.costs()
        missing = wait_connected(self.service, self.relays, BACK_S)
        self.require(self.service.running, "the service runs")
        self.require(costs.restarts == 0, f"no process dies: {costs.restarts} were started again")
        due = {event_id: at for event_id, at in dict(self.world.sent).items() if event_id not in known and at <= until}
        # Who registered may have written after what is measured.
        self._drain(due.keys() | registrar.heard)
        unheard = sum(event_id not in self.arrived for event_id in registrar.heard)
        self.require(not unheard, f"whoever registered is heard: {unheard} of {len(registrar.heard)} are not")
        newcomers = frozenset(registrar.heard)
        delays = sorted(
            self.arrived.get(event_id, inf) - at
            for event_id, at in due.items()
            if at >= self._measured_from and event_id not in newcomers
        )
        return Outcome(
            name=attack.name,
            events=len(delays),
            missing=delays.count(inf),
            median_s=statistics.median(delays) if delays else inf,
            p99_s=delays[-1 - len(delays) // 100] if delays else inf,
            relays=len(self.relays),
            relays_connected=len(self.relays) - len(missing),
            disconnections=sum(relay.disconnections for relay in self.world.relays) - gone,
            registrations=len(registrar.registered) + len(registrar.refusals),
            accepted=len(registrar.registered),
            costs=costs,
            disk_mib=attack.disk_mib,
            broken=tuple(self.broken),
            notes=self.notes | _refusals(registrar.refusals),
        )

    def _drain(self, due: Set[str]) -> None:
        """Return once all are at the sink or the time is up."""
        deadline = monotonic() + DRAIN_S
        while not due <= self._read_sink().keys() and monotonic() < deadline:
            pause(_POLL_S)

    def _read_sink(self) -> dict[str, float]:
        """When each event arrived first, so far."""
        for batch in self._record.batches():
            for message in batch.messages():
                self.arrived.setdefault(message.attributes["event_id"], batch.arrived_at)
        return self.arrived


def _refusals(reasons: list[str]) -> dict[str, str]:
    told = (f"{reason} ({count} times)" for reason, count in Counter(reasons).items())
    return {"refused": ", ".join(told)} if reasons else {}
