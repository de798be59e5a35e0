"""The end-to-end scenario: one capped relay with an hour of events, three registered users."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Protocol, Self

from tests.factories.events import Author
from tests.factories.workload import Workload, newest_versions
from tests.fakes.emulator import PubSubEmulator
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.pubsub_process import PubSubProcess
from tests.fakes.service import EventService, settings
from tests.oracle.delivery import Delivered, DeliveryOracle, DeliveryReport
from tests.oracle.relevance import Horizon
from tests.support.seeds import told_seed

REACH_S = 2 * 3600
RELAY_CAP = 500
ARRIVAL_TIMEOUT_S = 240.0


class Consumer(Protocol):
    """Where the service publishes to, real or not, and what came there."""

    @property
    def address(self) -> str: ...

    def collect(self, messages: int, timeout_s: float) -> list[Delivered]:
        """Everything that has come once it is so many messages, or the time is up."""
        ...


class FakeConsumer:
    """The in-process implementation of the Publisher service, in a process of its own."""

    def __init__(self) -> None:
        self._server = PubSubProcess()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()

    @property
    def address(self) -> str:
        return self._server.address

    def collect(self, messages: int, timeout_s: float) -> list[Delivered]:
        self._server.wait_count(messages, timeout_s)
        return self._server.deliveries()


class EmulatorConsumer:
    """Google's emulator, read by pulling."""

    def __init__(self) -> None:
        self._emulator = PubSubEmulator()
        self._taken: list[Delivered] = []

    def __enter__(self) -> Self:
        self._emulator.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._emulator.kill()

    @property
    def address(self) -> str:
        return self._emulator.address

    def collect(self, messages: int, timeout_s: float) -> list[Delivered]:
        self._taken += self._emulator.drain_count(messages - len(self._taken), timeout_s)
        return self._taken


@dataclass(frozen=True, slots=True)
class Scenario:
    """A relay with its events, a service on it, and the oracle."""

    relay: IndependentRelay
    service: EventService
    oracle: DeliveryOracle
    users: list[Author]
    consumer: FakeConsumer | EmulatorConsumer

    def register(self) -> None:
        """Register all users over the websocket."""
        for user in self.users:
            accepted, reason = self.service.register(user)
            assert accepted, reason

    def finish(self) -> DeliveryReport:
        """Wait for everything that is due, end the service, and judge what came."""
        due = len(self.oracle.required())
        self.consumer.collect(due, ARRIVAL_TIMEOUT_S)
        assert self.service.stop() == 0
        return self.oracle.judge(self.consumer.collect(due, ARRIVAL_TIMEOUT_S))


@contextmanager
def scenario(directory: Path, consumer: FakeConsumer | EmulatorConsumer, *, events: int) -> Iterator[Scenario]:
    """A relay that holds `events` events of 500 authors over the last hour, and a service that is not started yet."""
    now = int(time())
    workload = Workload(seed=told_seed(), events=events, authors=500, since=now - 3000, until=now - 60, registered=3)
    made = list(workload.generate())
    with IndependentRelay(lmdb=directory / "lmdb", max_limit=RELAY_CAP) as relay:
        relay.load(made)
        oracle = DeliveryOracle(Horizon(since=now - REACH_S))
        oracle.hold(relay.url, newest_versions(made))
        users = workload.registered_users()
        oracle.register(*(user.pubkey for user in users))
        env = settings(
            relays=[relay.url],
            pubsub=consumer.address,
            EVENTS_BACKFILL="2h",
            EVENTS_NEW_AUTHOR_LOOKBACK="2h",
            EVENTS_CRAWLERS="2",
        )
        service = EventService(directory / "service", env)
        try:
            yield Scenario(relay, service, oracle, users, consumer)
        finally:
            service.close()
