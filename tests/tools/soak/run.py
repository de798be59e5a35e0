"""One run: a living environment, a service that is ended again and again, and sums that must hold throughout."""

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.net import pause
from tests.fakes.relay_journal import Published
from tests.fakes.scrape import Scrape
from tests.fakes.service import EventService, settings
from tests.oracle.delivery import DeliveryReport
from tests.support.run_folder import copy_run
from tests.tools.chaos.environment import REACH_S, Environment
from tests.tools.chaos.queues import Queues
from tests.tools.soak.restarts import ANEW, STOP_LIMIT_S, Restarts
from tests.tools.soak.sums import STAGES, Sums

START_LIMIT_S = 180.0
SETTLE_LIMIT_S = 300.0
# Published by the people of the environment, a second, beside the past that they begin with.
RATE = 25.0
LOOK_EVERY_S = 2.0
_POLL_S = 0.5
_REST_LOOKS = 6


@dataclass(slots=True)
class Report:
    """What a run has shown; `faults` is empty when all is well."""

    seed: int
    faults: list[str] = field(default_factory=list)
    looks: int = 0
    done: dict[str, int] = field(default_factory=dict)
    sums: Sums | None = None
    delivery: DeliveryReport | None = None
    published: int = 0
    exits: float = 0.0
    repeats: int = 0

    def text(self) -> str:
        """A page for a reader."""
        lines = [f"seed {self.seed}: {self.published} events published, {self.looks} looks at the sums"]
        lines.append(", ".join(f"{count} x {kind}" for kind, count in sorted(self.done.items())))
        lines.append(f"unasked ends that /metrics counted: {self.exits:.0f}; messages beyond the first: {self.repeats}")
        if self.sums is not None:
            lines += [f"{name}: {one.text()}" for name, one in self.sums.stages.items()]
        if self.delivery is not None:
            lines.append(self.delivery.text())
        return "\n".join([*lines, *(f"FAULT {fault}" for fault in self.faults), "ok" if not self.faults else "NOT OK"])


def run(
    seed: int, minutes: float, say: Callable[[str], None], *, rate: float = RATE, keep: Path | None = None
) -> Report:
    """Let the environment live for so many minutes while the service is ended and comes back, then close all accounts.

    The files of a run that shows a fault are copied to `keep`.
    """
    with tempfile.TemporaryDirectory(prefix="event-service-soak-") as folder:
        directory = Path(folder)
        environment = Environment.start(seed, directory, rate=rate, late_s=REACH_S // 2)
        try:
            env = settings(
                relays=environment.urls,
                target=environment.target.url,
                pubsub=environment.pubsub.address,
                EVENTS_CRAWLERS="2",
                EVENTS_BACKFILL=f"{REACH_S}s",
                EVENTS_NEW_AUTHOR_LOOKBACK=f"{REACH_S}s",
                EVENTS_RESWEEP_WINDOW=f"{REACH_S}s",
                EVENTS_RESWEEP_EVERY="30s",
            )
            service = EventService(directory / "service", env)
            soak = _Soak(Report(seed), environment, service, say)
            try:
                soak.live(minutes * 60, random.Random(f"soak {seed}"))
                soak.settle()
                soak.close()
                return soak.report
            except BaseException as error:
                soak.report.faults.append(f"{type(error).__name__}: {error}")
                raise
            finally:
                service.close()
                if keep is not None and soak.report.faults:
                    copy_run(directory / "service", keep)
        finally:
            environment.close()


@dataclass(slots=True)
class _Soak:
    report: Report
    environment: Environment
    service: EventService
    say: Callable[[str], None]
    counters: dict[str, float] = field(default_factory=dict)
    """As last seen, by name and labels."""

    def live(self, seconds: float, rng: random.Random) -> None:
        self.service.start(timeout_s=START_LIMIT_S)
        self.environment.live_with(self.service)
        restarts = Restarts(self.service, rng)
        began = time.monotonic()
        while (at := time.monotonic() - began) < seconds:
            until = time.monotonic() + rng.uniform(2.0, 12.0)
            while time.monotonic() < until:
                self.look()
                pause(LOOK_EVERY_S)
            what = restarts.next()
            self.say(f"{at:6.1f} s  {what}")
            if what in ANEW:
                # What is not counted in the database begins anew with the service, as Prometheus has it.
                self.counters = {key: count for key, count in self.counters.items() if _goes_on(key)}
        self.report.done = dict(restarts.done)

    def look(self) -> None:
        """Whatever has just been ended: the sums hold, and no counter has gone down."""
        self.report.looks += 1
        self._blame(Sums.of(self.service.database).faults())
        try:
            scrape = self.service.scrape()
        except (OSError, AssertionError):
            return  # the server is being restarted
        self._compare(scrape)

    def _blame(self, faults: list[str]) -> None:
        for fault in faults:
            self.say(f"FAULT {fault}")
        self.report.faults += faults

    def _compare(self, scrape: Scrape) -> None:
        counting = {name for name, kind in scrape.types().items() if kind == "counter"}
        for sample in scrape.samples():
            if sample.name in counting and not sample.name.startswith("process_"):
                key = f"{sample.name} {dict(sample.labels)}"
                if sample.value < (before := self.counters.get(key, 0.0)):
                    self._blame([f"{key} went from {before} down to {sample.value}"])
                self.counters[key] = sample.value

    def settle(self) -> None:
        """Wait until all that is due has come, and nothing moves any more."""
        self.service.wait_healthy(START_LIMIT_S)
        self.environment.settle(SETTLE_LIMIT_S)
        due = self.environment.oracle().required()
        deadline = time.monotonic() + SETTLE_LIMIT_S
        at_rest, last = 0, -1
        while at_rest < _REST_LOOKS:
            missing = due - self._arrived()
            sums = Sums.of(self.service.database)
            moved = sum(one.taken for one in sums.stages.values())
            # Relays are swept again and again, so that the crawlers' duplicates never come to rest by themselves.
            handed_on = sum(one.handed_on for one in sums.stages.values())
            at_rest = at_rest + 1 if not missing and not sums.waiting and handed_on == last else 0
            last = handed_on
            if time.monotonic() > deadline:
                fates = Queues(self.service.database)
                self.report.faults += [f"lost {one}: {fates.fate(one)}" for one in sorted(missing)[:5]]
                self.report.faults.append(f"not at rest: {len(missing)} missing, {sums.waiting} waiting, {moved} taken")
                return
            pause(_POLL_S)

    def _arrived(self) -> set[str]:
        return {each.attributes["event_id"] for batch in self.environment.pubsub.batches() for each in batch.messages()}

    def close(self) -> None:
        """Silence the relays, compare `/metrics` with the database, and both with what came to the sinks."""
        for peer in self.environment.peers:
            peer.close()
        differences = ["not compared"]
        deadline = time.monotonic() + SETTLE_LIMIT_S
        while differences and time.monotonic() < deadline:
            sums = Sums.of(self.service.database)
            differences = sums.differences(self.service.scrape())
            if Sums.of(self.service.database) != sums:
                differences = ["still moving"]
            pause(_POLL_S)
        self.report.faults += [*differences, *sums.faults()]
        self.report.exits = self.service.scrape().value("event_service_stage_exits_total")
        if (code := self.service.stop(STOP_LIMIT_S)) != 0:
            self.report.faults.append(f"told to end, the service ended with {code}")
        self._compare_sinks(sums)

    def _compare_sinks(self, sums: Sums) -> None:
        delivered = [each for batch in self.environment.pubsub.batches() for each in batch.deliveries()]
        delivery = self.environment.oracle().judge(delivered)
        taken = {
            entry.event_id for entry in self.environment.target.journal.of(Published) if entry.accepted is not False
        }
        for sink, came in (("forwarder", delivery.distinct), ("sender", len(taken))):
            if (out := sums.stages[sink].handed_on) != came:
                self.report.faults.append(f"{sink} counted {out} events, {came} came")
        if not delivery.clean:
            self.report.faults.append("deliveries to Pub/Sub are not clean")
        self.report.sums, self.report.delivery = sums, delivery
        self.report.published = self.environment.published
        self.report.repeats = delivery.messages - delivery.distinct


def _goes_on(key: str) -> bool:
    name, _, labels = key.partition(" ")
    flows = ("event_service_stage_in_total", "event_service_stage_out_total", "event_service_stage_discarded_total")
    return name in flows and any(f"'{stage}'" in labels for stage in STAGES)
