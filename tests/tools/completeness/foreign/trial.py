"""One trial: the service on foreign relays through backfill, live, a cut line, the relays' death and its own."""

import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

from pipeline.crawl.reconnect import HEALTHY_S
from tests.factories.events import SignedEvent
from tests.factories.workload import newest_versions
from tests.fakes.net import pause
from tests.fakes.procs import kill_session
from tests.fakes.proxy import Traffic
from tests.fakes.service import EventService, settings
from tests.tools.completeness.foreign.away import Lateness, be_away
from tests.tools.completeness.foreign.result import Cost, Missing, Phase, Result
from tests.tools.completeness.foreign.shape import Shape, late, streamed, streamed_anyhow
from tests.tools.completeness.foreign.subject import Subject
from tests.tools.completeness.run import AUTH_KEY, register
from tests.tools.completeness.world import World

_LOOK_EVERY_S = 0.5
_HAVE = "SELECT lower(hex(event_id)) FROM inbox UNION SELECT lower(hex(event_id)) FROM seen"
_GAPS = "SELECT relays.address, reason, since, until FROM gaps JOIN relays ON relays.id = gaps.relay"
_OWED = "SELECT address FROM relays WHERE owed_since > 0"
_AWAY_S = 2.0
_CUT_S = 8.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take: events a second and seconds of a stream, and the longest wait for what is missing.

    A wait ends early when nothing new has come for `patience_s`. Late arrivals are looked for every `resweep_s`.
    """

    rate: float = 30.0
    stream_s: float = 10.0
    timeout_s: float = 240.0
    patience_s: float = 60.0
    resweep_s: int = 30
    absences_s: Sequence[float] = ()
    """For so long relays are away, one time after another."""
    quiet_s: float = 0.0
    """For so long no event comes, and then one a second."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A span that the service says it did not get whole; Unix seconds, both included."""

    reason: str
    since: int
    until: int


PHASES = ("backfill", "live", "line cut", "relay killed", "service killed")


class Trial:
    """The service on some relays; `run` plays the phases and adds what came of each to the result of each relay."""

    def __init__(
        self, directory: Path, world: World, shape: Shape, pace: Pace, subjects: Sequence[Subject],
        extra_settings: dict[str, str],
    ) -> None:  # fmt: skip
        self._notes: list[str] = []
        self._returned_at: float | None = None
        self._lateness: Lateness | None = None
        self._world = world
        self._pace = pace
        self._subjects = subjects
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "key").write_text(AUTH_KEY)
        reach = f"{shape.reach_s}s"
        self._service = EventService(
            directory,
            settings(
                relays=[subject.url for subject in subjects],
                EVENTS_BACKFILL=reach,
                EVENTS_NEW_AUTHOR_LOOKBACK=reach,
                EVENTS_RESWEEP_WINDOW=reach,
                EVENTS_RESWEEP_EVERY=f"{pace.resweep_s}s",
                EVENTS_CRAWLERS="1",
                EVENTS_LOG_LEVEL="DEBUG",
                EVENTS_SECRET_KEY_PATH=str(directory / "key"),
            )
            | extra_settings,
        )

    def run(self, phases: Sequence[str], results: Sequence[Result]) -> None:
        """Play `phases` in their order; backfill is always the first."""
        register(self._service.database, self._world)
        steps: dict[str, Callable[[], None]] = {
            "live": self._stream, "line cut": self._cut_lines, "relay killed": self._kill_relays,
            "service killed": self._kill_service,
        }  # fmt: skip
        try:
            with self._measured("backfill", results):
                self._service.start()
            began = monotonic()
            for name in PHASES[1:]:
                if name not in phases:
                    continue
                if name == "line cut":
                    # A connection that is lost sooner counts as one that failed.
                    pause(began + HEALTHY_S - monotonic())
                with self._measured(name, results):
                    steps[name]()
            for seconds in self._pace.absences_s:
                pause(HEALTHY_S)
                with self._measured(f"away {seconds:g} s", results):
                    self._be_away(seconds)
            if self._pace.quiet_s:
                with self._measured("quiet", results):
                    self._be_quiet()
            self._sum_up(results)
        finally:
            self._service.close()

    @contextmanager
    def _measured(self, phase: str, results: Sequence[Result]) -> Iterator[None]:
        """Play the block, wait until everything due has come, and add a row to each result."""
        known = [set() if phase == "backfill" else set(subject.accepted) for subject in self._subjects]
        traffic = [subject.proxy.traffic for subject in self._subjects]
        cpu = self._cpu()
        began = monotonic()
        yield
        for subject in self._subjects:
            subject.revive()
        due = [
            self._due(subject, subject.accepted.keys() - before)
            for subject, before in zip(self._subjects, known, strict=True)
        ]
        done_at, have = self._wait(due)
        self._annotate(due, done_at)
        costs = [self._cost(earlier, subject, cpu) for earlier, subject in zip(traffic, self._subjects, strict=True)]
        self._add(phase, results, due, have, done_at - began, costs)
        self._notes, self._returned_at, self._lateness = [], None, None

    def _annotate(self, due: Sequence[set[str]], done_at: float) -> None:
        if self._returned_at is not None:
            last = max(0.0, done_at - self._returned_at)
            self._notes = [f"{note}, the last event {last:.1f} s after the return" for note in self._notes]
        if self._lateness is not None:
            self._notes = [self._lateness.text(ids) for ids in due]

    def _sum_up(self, results: Sequence[Result]) -> None:
        """Add what there is in the end of all that the relays give then."""
        due = [self._due(subject, subject.accepted.keys()) for subject in self._subjects]
        self._add("in the end", results, due, self._have(), 0.0, [Cost(0, 0, {}, 0.0, 0.0)] * len(due))
        for subject, ids, result in zip(self._subjects, due, results, strict=True):
            held = [event for event in newest_versions(subject.accepted.values()) if self._world.is_wanted(event)]
            result.hidden = len({event.id for event in held} - ids)
            result.crashes = subject.crashes
            result.refused = dict(Counter(subject.refused.values()))

    def _due(self, subject: Subject, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that the relay gives and the service wants."""
        return {event_id for event_id in subject.book(ids) if self._world.is_wanted(subject.accepted[event_id])}

    def _add(
        self, phase: str, results: Sequence[Result], due: Sequence[set[str]], have: set[str],
        seconds: float, costs: Sequence[Cost],
    ) -> None:  # fmt: skip
        gaps = self._open_gaps()
        notes = self._notes or [""] * len(due)
        for subject, ids, cost, result, note in zip(self._subjects, due, costs, results, notes, strict=True):
            told = gaps.get(subject.url, [])
            missing = [self._missing(subject.accepted[each], told, result) for each in sorted(ids - have)]
            reasons = dict(Counter(gap.reason for gap in told))
            result.phases.append(Phase(phase, len(ids), missing, reasons, seconds, cost, note))

    def _missing(self, event: SignedEvent, told: Sequence[Gap], result: Result) -> Missing:
        why = "by a wanted author" if self._world.is_by_wanted_author(event) else "a mention"
        if not self._world.is_by_wanted(event):
            why = "of its kind"
        is_told = event.id not in result.had_by_others and any(
            gap.since <= event.created_at <= gap.until for gap in told
        )
        return Missing(event.id, event.kind, event.created_at, why, is_told)

    def _wait(self, due: Sequence[set[str]]) -> tuple[float, set[str]]:
        """Until all is there, nothing new comes for a while, or the time is up; when the last that came was seen."""
        wanted: set[str] = set().union(*due)
        began = last = monotonic()
        count = -1
        while True:
            have = self._have() & wanted
            now = monotonic()
            if len(have) != count:
                count, last = len(have), now
            if count == len(wanted) or now > last + self._pace.patience_s or now > began + self._pace.timeout_s:
                return last, have
            if self._lateness is not None:
                self._lateness.look()
            pause(_LOOK_EVERY_S)

    def _have(self) -> set[str]:
        with closing(sqlite3.connect(f"file:{self._service.database}?mode=ro", uri=True)) as database:
            return {event_id for (event_id,) in database.execute(_HAVE)}

    def _open_gaps(self) -> dict[str, list[Gap]]:
        """What the service reports as missing, by relay."""
        gaps: dict[str, list[Gap]] = {}
        with closing(sqlite3.connect(f"file:{self._service.database}?mode=ro", uri=True)) as database:
            for address, reason, since, until in database.execute(_GAPS):
                gaps.setdefault(address, []).append(Gap(reason, since, until))
            for (address,) in database.execute(_OWED):
                gaps.setdefault(address, []).append(Gap("owed since an absence", 0, int(time())))
        return gaps

    def _cpu(self) -> tuple[float, float]:
        """CPU seconds of the crawler and of all processes of the service."""
        if not self._service.running:
            return 0.0, 0.0
        crawlers = {stage.pid for stage in self._service.stages("crawler")}
        processes = self._service.processes()
        return sum(p.cpu_s for p in processes if p.pid in crawlers), sum(p.cpu_s for p in processes)

    def _cost(self, earlier: Traffic, subject: Subject, cpu: tuple[float, float]) -> Cost:
        spent = subject.proxy.traffic.since(earlier)
        crawler, everything = self._cpu()
        return Cost(
            sent=spent.sent, received=spent.received, messages=dict(spent.messages),
            crawler_cpu_s=_spent(crawler, cpu[0]), cpu_s=_spent(everything, cpu[1]),
        )  # fmt: skip

    def _stream(
        self, meanwhile: Callable[[], None] | None = None, *, made: Callable[[World], SignedEvent] = streamed,
        more_s: float = 0.0,
    ) -> None:  # fmt: skip
        """Publish events of now to every relay at the rate; `meanwhile`, which takes `more_s`, is done in between."""
        count = int(self._pace.rate * (self._pace.stream_s + more_s))
        streams = [[made(self._world) for _ in range(count)] for _ in self._subjects]
        threads = [
            threading.Thread(target=self._publish, args=(subject, events), daemon=True)
            for subject, events in zip(self._subjects, streams, strict=True)
        ]
        for thread in threads:
            thread.start()
        if meanwhile is not None:
            pause(self._pace.stream_s / 2)
            meanwhile()
        for thread in threads:
            thread.join()

    def _publish(self, subject: Subject, events: Sequence[SignedEvent]) -> None:
        began = monotonic()
        subject.stream(events, lambda number: pause(began + number / self._pace.rate - monotonic()))

    def _be_away(self, seconds: float) -> None:
        def away() -> None:
            self._returned_at, back = be_away(self._subjects, seconds)
            self._notes = [f"back after {each:.1f} s" for each in back]

        self._stream(away, made=streamed_anyhow, more_s=seconds)

    def _be_quiet(self) -> None:
        """Publish nothing for a while, then one event a second, and see how late they are."""
        pause(self._pace.quiet_s)
        lateness = self._lateness = Lateness(self._have)
        for _ in range(int(self._pace.stream_s)):
            for subject in self._subjects:
                event = self._world.event(int(time()))
                lateness.on_given(event.id)
                subject.load([event])
            for _ in range(10):
                lateness.look()
                pause(0.1)

    def _cut_lines(self) -> None:
        """No relay can be reached for a while; events arrive as ever, some of them dated up to two days back."""

        def cut() -> None:
            with ExitStack() as stack:
                for subject in self._subjects:
                    stack.enter_context(subject.proxy.cut())
                self._load_late()
                pause(_CUT_S)

        self._stream(cut)

    def _load_late(self) -> None:
        for subject in self._subjects:
            subject.revive()
            subject.load([late(self._world) for _ in range(int(self._pace.rate * _AWAY_S))])

    def _kill_relays(self) -> None:
        self._stream(self._restart_relays)

    def _restart_relays(self) -> None:
        for subject in self._subjects:
            subject.revive()
            subject.restart()

    def _kill_service(self) -> None:
        """All processes of the service at once; while it is away, events arrive that are dated up to two days back."""

        def kill() -> None:
            self._service.child.signal(signal.SIGKILL)
            kill_session(self._service.child.pid)
            self._load_late()
            self._service.start()

        self._stream(kill)


def _spent(now: float, before: float) -> float:
    """Processes that were started anew have nothing behind them."""
    return now - before if now >= before else now
