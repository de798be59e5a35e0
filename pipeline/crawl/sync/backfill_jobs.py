"""What one relay is asked for by backfills that an operator ordered: part after part, behind all else. No I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.crawl.sync.cursors import CursorTable
from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.members import Member, Members
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.planner import MAX_MEMBERS
from pipeline.crawl.sync.query import Query, Subject
from pipeline.crawl.sync.relay_lists import NOBODY, Named
from pipeline.crawl.sync.sweep import Purpose, Sweep
from pipeline.crawl.sync.sweep_starter import SweepStarter
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.relay.refusals import RelayRefusal
from pipeline.store.backfills import Backfill, BackfillProgress
from pipeline.store.cursors import Cursor

# Between two pages of a backfill, seconds: whoever serves years of events has others to serve.
PAUSE_S: Final = 1.0
# A part that failed so often in a row is left as incomplete.
MAX_FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class JobPart:
    """One query of a job; `key` is the name that its sweep and its cursor have."""

    job: Backfill
    query: Query
    key: str


@dataclass(slots=True)
class _Job:
    parts: dict[str, JobPart]
    progress: BackfillProgress


@dataclass(slots=True)
class BackfillJobs:
    """The jobs of one relay. `ordered` may be replaced by another thread; all else belongs to whoever serves it."""

    relay: int
    ordered: tuple[Backfill, ...] = ()
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _untold: list[BackfillProgress] = field(default_factory=list)

    def begin_next(
        self, plan: Plan, known: RelayKnowledge, sweeps: SweepSet, starter: SweepStarter, mono: float, wall: int
    ) -> None:
        """Begin the next part of what the operator ordered; one at a time, behind everything else."""
        part = self.next_part(plan, known.cursors, starter.named)
        if part is None or known.times.not_before(part.key) > mono:
            return
        if not any(sweep.purpose is Purpose.BACKFILL for sweep in sweeps.in_order()):
            starter.begin_part(part.key, part.query, part.job.since, part.job.until, wall)

    def complete(self, sweep: Sweep, sweeps: SweepSet, known: RelayKnowledge) -> Cursor:
        """Take note that the sweep of a part came to its end; returns the cursor that says so."""
        is_complete = not sweep.is_unproven and not sweep.window.gaps
        self.on_part_done(sweep.key, sweep.events, is_complete=is_complete)
        sweeps.forget_progress(sweep)
        known.times.on_complete(sweep.key)
        if sweep.query.is_planned and not sweep.is_unproven:
            known.gaps.settle(sweep)
        return known.cursors.advance(sweep.key, sweep.started, sweep.query.generation)

    def abandon_if_exhausted(
        self, sweep: Sweep, refusal: RelayRefusal, sweeps: SweepSet, known: RelayKnowledge
    ) -> bool:
        """Leave a part as incomplete that failed once too often or was refused for good; returns whether it was."""
        if sweep.purpose is not Purpose.BACKFILL:
            return False
        if sweep.failures + 1 < MAX_FAILURES and not refusal.is_lasting:
            return False
        sweeps.end(sweep)
        sweep.is_unproven = True
        self.complete(sweep, sweeps, known)
        return True

    def next_part(self, plan: Plan, cursors: CursorTable, named: Named = NOBODY) -> JobPart | None:
        """The part to be fetched now, of what `plan` wants; `None` while there is none.

        First come those about the most people who are `named` at the relay.
        """
        ordered = self.ordered
        for number in self._jobs.keys() - {each.job for each in ordered}:
            del self._jobs[number]
        for each in ordered:
            job = self._jobs.get(each.job) or self._begin(each, plan, cursors, named)
            if job.parts:
                return next(iter(job.parts.values()))
        return None

    def is_wanted(self, key: str) -> bool:
        """Whether the part `key` is still to be fetched."""
        jobs = {each.job for each in self.ordered}
        return any(key in job.parts for number, job in self._jobs.items() if number in jobs)

    def on_part_done(self, key: str, events: int, *, is_complete: bool) -> None:
        """Note the end of a part."""
        for job in self._jobs.values():
            if job.parts.pop(key, None) is not None:
                before = job.progress
                job.progress = replace(
                    before,
                    done=before.done + 1,
                    incomplete=before.incomplete + (not is_complete),
                    events=before.events + events,
                    is_over=not job.parts,
                )
                self._untold.append(job.progress)

    def take_unreported(self) -> tuple[BackfillProgress, ...]:
        """How far jobs are, to be committed with or after the events before it."""
        taken = tuple(self._untold)
        self._untold.clear()
        return taken

    def _begin(self, job: Backfill, plan: Plan, cursors: CursorTable, named: Named) -> _Job:
        """Begin a job, or go on where a former process was."""
        queries = sorted(_queries(job, plan), key=lambda query: -len(named.keys_among(query)))
        parts = [JobPart(job, query, f"backfill:{job.job}:{query.key}") for query in queries]
        left = {part.key: part for part in parts if cursors.get(part.key) is None}
        progress = BackfillProgress(job.job, self.relay, len(parts), len(parts) - len(left), is_over=not left)
        self._untold.append(progress)
        begun = self._jobs[job.job] = _Job(left, progress)
        return begun


def _queries(job: Backfill, plan: Plan) -> Iterator[Query]:
    if not job.authors:
        yield from plan.live
        return
    members = Members.of(Member(key, 0, 0) for key in sorted(job.authors))
    for first in range(0, len(members), MAX_MEMBERS):
        # No chunk has an asterisk in its name.
        yield Query(Subject.AUTHORS, f"*{first // MAX_MEMBERS}", members[first : first + MAX_MEMBERS])
