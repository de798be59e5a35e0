"""A crawling host's side of the state: says how it stands, and takes home's backfill jobs for the relays that it holds.

The end of a job for a relay must not overtake the events that it brought. It is said once what was in the inbox then is
in parcels, together with the number of the last of these, which home awaits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline.hub import host_state
from pipeline.hub.connection import HubConnection
from pipeline.hub.host_state import StatePart
from pipeline.process import exposition
from pipeline.process.clock import Clock
from pipeline.process.host_metrics import COUNTERS, GAUGES
from pipeline.process.metrics import LEFT
from pipeline.process.slots import metrics_directory
from pipeline.store import inbox, ordered_backfills, parcels, state_report
from pipeline.store.database import Database, Tx
from pipeline.store.ordered_backfills import OrderedJob
from pipeline.store.state_report import BackfillRow

FUNCTIONS: Final = ("report_state_v1", "my_backfills_v1", "backfills_v1")
"""What the hub must have for this."""
_REPORT_S: Final = 5.0
# Adding up the metrics of all processes takes a tenth of a second with a thousand relays.
_METRICS_S: Final = 15.0
_JOBS_S: Final = 2.0
_MAX_SERIES: Final = 20_000
# Beside the metrics' files, with which it goes.
_ERA_FILE: Final = "era"


@dataclass(slots=True)
class StateReport:
    """For one thread. `bell` lets crawlers look for jobs."""

    clock: Clock
    runtime_directory: Path
    bell: Callable[[], object]
    _connection: HubConnection | None = None
    _said: dict[StatePart, bytes] = field(default_factory=dict)
    """By part, what the hub has."""
    _series: bytes = b""
    """The part of that name, as it was read last."""
    _ends: dict[tuple[int, int, str], list[int]] = field(default_factory=dict)
    """Of ended jobs, by job and relay: the newest row of the inbox then, and the last parcel once it was packed."""
    _report_at: float = -math.inf
    _metrics_at: float = -math.inf
    _jobs_at: float = -math.inf

    def turn(self, connection: HubConnection, database: Database, *, is_last: bool = False) -> None:
        """Do what is due, all of it if this is the last turn. Raises `HubUnavailable` or `HubRefused`."""
        now = self.clock.monotonic()
        if connection is not self._connection:
            self._said.clear()
            self._connection, self._report_at, self._jobs_at = connection, -math.inf, -math.inf
        if now >= self._jobs_at and not is_last:
            self._follow_jobs(connection, database)
            self._jobs_at = now + _JOBS_S
        if now >= self._metrics_at or is_last:
            self._series = host_state.encode(self._read_series())
            self._metrics_at = now + _METRICS_S
        if now >= self._report_at or is_last:
            self._report(connection, database)
            self._report_at = now + _REPORT_S

    def _report(self, connection: HubConnection, database: Database) -> None:
        with database.write() as tx:
            origin = state_report.origin(tx)
        with database.read() as tx:
            found: dict[StatePart, dict[str, Any]] = {
                StatePart.COUNTS: {"origin": origin, "tallies": state_report.counts(tx)},
                StatePart.RELAYS: state_report.relays(tx),
                StatePart.DROPS: {"origin": origin, "rows": state_report.drops(tx)},
                StatePart.BACKFILLS: self._progress(tx),
            }
        bodies = {part: host_state.encode(value) for part, value in found.items()}
        bodies[StatePart.SERIES] = self._series
        changed = [part for part, body in bodies.items() if self._said.get(part) != body]
        if changed:
            connection.call("report_state_v1", [part.value for part in changed], [bodies[part] for part in changed])
            self._said |= {part: bodies[part] for part in changed}

    def _progress(self, tx: Tx) -> dict[str, Any]:
        rows = state_report.progress(tx)
        stream = parcels.stream(tx)
        ended = {(row.job, row.created_at, row.address) for row in rows if row.is_over}
        self._ends = {key: value for key, value in self._ends.items() if key in ended}
        for key in ended:
            end = self._ends.setdefault(key, [inbox.newest_ever(tx)])
            if len(end) == 1 and state_report.is_packed(tx, end[0]):
                end.append(state_report.last_parcel(tx))
        last = max((end[1] for end in self._ends.values() if len(end) > 1), default=0)
        return {
            "stream": "" if stream is None else stream.name,
            "after": 0 if stream is None else max(0, stream.in_stream(last)),
            "rows": [list(row._replace(is_over=int(self._may_say_end(row)))) for row in rows],
        }

    def _may_say_end(self, row: BackfillRow) -> bool:
        return len(self._ends.get((row.job, row.created_at, row.address), ())) > 1

    def _follow_jobs(self, connection: HubConnection, database: Database) -> None:
        wanted = {(job, at): tuple(relays) for job, at, relays in connection.call("my_backfills_v1")}
        with database.read() as tx:
            held = ordered_backfills.held(tx)
        if {key: set(relays) for key, relays in wanted.items()} == held:
            return
        unknown = [job for job, at in wanted.keys() - held.keys()]
        found = [OrderedJob(*row) for row in connection.call("backfills_v1", unknown)] if unknown else []
        # One that was ordered again since is taken at the next look.
        new = [each for each in found if (each.job, each.created_at) in wanted]
        known = held.keys() | {(each.job, each.created_at) for each in new}
        with database.write() as tx:
            ordered_backfills.follow(tx, {key: wanted[key] for key in wanted if key in known}, new)
        self.bell()

    def _read_series(self) -> dict[str, Any]:
        """Return the series that home shows for this host, and the era in which their counters began at 0."""
        found = {each.name: each for each in exposition.process_metrics(self.runtime_directory, clock=self.clock)}
        return {
            "era": _era(self.runtime_directory),
            **{
                key: [
                    (name, list(sample.labels.items()), sample.value)
                    for name in names
                    if name in found
                    for sample in found[name].samples
                    if math.isfinite(sample.value) and sample.value != LEFT
                ][:_MAX_SERIES]
                for key, names in (("counters", COUNTERS), ("gauges", GAUGES))
            },
        }


def _era(runtime_directory: Path) -> str:
    """Return the name of the time since when the metrics' files count, which is written with the first of them."""
    path = metrics_directory(runtime_directory) / _ERA_FILE
    try:
        return path.read_text()
    except FileNotFoundError:
        path.write_text(state_report.new_name())
        return path.read_text()
