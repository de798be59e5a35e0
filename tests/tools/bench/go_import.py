"""`import`: `event-service import-go` from each version of the Go service's schema, beside somebody else who writes.

Half of the events were handed on, half were not; and contact lists whose events are gone. Also by itself:
`python -m tests.tools.bench.go_import [EVENTS [SCHEMA…]]`.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from time import monotonic

from pipeline.process.clock import SystemClock
from pipeline.store import inbox
from pipeline.store.inbox import Arrival
from pipeline.store.schema import open_database
from tests.factories.events import from_raw
from tests.fakes.go_database import GoDatabase, GoSchema
from tests.fakes.service import settings
from tests.tools.bench import events
from tests.tools.bench.report import Figure, PartReport, table

EVENTS, QUICK_EVENTS = 100_000, 10_000
FOLLOWERS, FOLLOWS_EACH = 1000, 200
_WRITE_EVERY_S = 0.02
_TIMEOUT_S = 600.0


class _CompetingWriter(threading.Thread):
    """Appends to the inbox as a crawler does, and notes how long each transaction took."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._ended = threading.Event()
        self.took: list[float] = []

    def run(self) -> None:
        with open_database(self._path, SystemClock()) as database:
            number = 0
            while not self._ended.wait(_WRITE_EVERY_S):
                number += 1
                began = monotonic()
                with database.write() as tx:
                    inbox.append(tx, [Arrival(number.to_bytes(32), b"{}", 1, 1, 1)])
                self.took.append(monotonic() - began)

    def end(self) -> list[float]:
        self._ended.set()
        self.join()
        return sorted(self.took)


def build(path: Path, schema: GoSchema, count: int) -> None:
    """A database with `count` signed events and some 200,000 follows."""
    with GoDatabase(path, schema) as database, database.connection:
        for number, line in enumerate(events.lines(events.blocks(count), count)):
            event = from_raw(line)
            (database.save if number % 2 else database.done)(event)
        for user in events.people()[:50]:
            database.register(user, event.created_at, event.created_at)
        keys = [database.key(hashlib.sha256(str(number).encode()).hexdigest()) for number in range(20_000)]
        follows = ((f, keys[(f * 7919 + n * 31) % len(keys)]) for f in keys[:FOLLOWERS] for n in range(FOLLOWS_EACH))
        database.connection.executemany("INSERT OR IGNORE INTO contacts_followees VALUES (?, ?)", follows)


def _import(directory: Path, schema: GoSchema, count: int) -> tuple[float, list[float], str]:
    source, target = directory / "go.db", directory / "events.db"
    build(source, schema, count)
    open_database(target, SystemClock()).close()
    neighbour = _CompetingWriter(target)
    neighbour.start()
    began = monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "import-go", str(source)],
            env=os.environ | settings(EVENTS_DATABASE_PATH=str(target)),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        return monotonic() - began, neighbour.end(), done.stdout
    finally:
        neighbour.end()


def measure(count: int, schemas: Iterable[GoSchema] = GoSchema) -> PartReport:
    """The part `import`, with so many events in a database of each of `schemas`."""
    figures: list[Figure] = []
    notes = [f"{count:,} events and {FOLLOWERS * FOLLOWS_EACH:,} follows, copying and starting included"]
    for schema in schemas:
        with tempfile.TemporaryDirectory(prefix="event-service-bench-") as directory:
            took, waits, said = _import(Path(directory), schema, count)
        figures += (
            Figure(f"{schema.value}: import", took, "s", note=f"{count / took:,.0f} events a second"),
            Figure(f"{schema.value}: longest write of a neighbour", waits[-1] * 1000, "ms"),
            Figure(f"{schema.value}: 99 of 100 took at most", waits[len(waits) * 99 // 100] * 1000, "ms"),
        )
        notes += [f"{schema.value}: {line.strip()}" for line in said.splitlines() if " 0 taken" not in line]
    return PartReport("import", tuple(figures), tuple(notes))


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `import`; there is no limit to hold it against."""
    return measure(QUICK_EVENTS if quick else EVENTS)


if __name__ == "__main__":
    events_each = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    print(table(measure(events_each, [GoSchema(name) for name in sys.argv[2:]] or GoSchema)))
