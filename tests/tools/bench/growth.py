"""`growth`: what a large database costs: saver and forwarder beside one that has just begun, and the counts of a key.

The large ones hold 10,000,000 seen ids of 30 days, those of the events that are saved in their midst, or 5,000,000
follows by 10,000 registered users, or 1,000,000 events queued for a target relay; they are made by the store's own
functions. Each run saves the same events with a saver of its own. A forwarder hands on as many of 1,000,000 rows.
Also by itself: `python -m tests.tools.bench.growth [SHARE]`, with a share of those sizes.
"""

import hashlib
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

from pipeline.process.clock import SystemClock
from pipeline.store import authors, contacts, events, outbox, users
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.database import Database, Tx
from pipeline.store.events import Accepted
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName
from tests.fakes.procs import peak_resident_bytes
from tests.fakes.service import EventService, settings
from tests.support.run_folder import copy_run
from tests.support.stored import store_with_payloads
from tests.tools.bench.events import FIRST_CREATED_AT, blocks, lines
from tests.tools.bench.report import Figure, Limit, PartReport, table
from tests.tools.bench.single_stage import Run, forward, save
from tests.tools.bench.verification import baseline_rate

SEEN, USERS, FOLLOWS_EACH, QUEUED = 10_000_000, 10_000, 500, 1_000_000
PEOPLE = 1_000_000
"""Among whom the users choose: all but a few are chosen by somebody."""
ROWS, ROUNDS, QUICK_SHARE = 60_000, 4, 0.05
# Apart from the numbers that events get from the inbox.
_FIRST_QUEUED = 1 << 40
_LOOKUPS = 200
_HALF_S = 15 * 86_400
_IDS_A_TIME = 100_000
# Enough for all of a database while it is made, so that pages are written once.
_BUILDING_CACHE_KIB = 4 << 20


@dataclass(slots=True)
class _Runs:
    """The runs over databases of one kind, and what the stage's process took of memory at most."""

    runs: list[Run] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def per_second(self) -> float:
        return max(run.per_second for run in self.runs)

    def cpu_s(self, stage: str) -> float:
        return min(run.cpu_s(stage) for run in self.runs)


@contextmanager
def _building(path: Path) -> Iterator[Database]:
    """A database to be filled, without a thought for crashes."""
    with open_database(path, SystemClock()) as database:
        database.pragma("journal_mode", "off")
        database.pragma("synchronous", "off")
        database.pragma("cache_size", -_BUILDING_CACHE_KIB)
        yield database
        database.pragma("journal_mode", "wal")


def see(path: Path, ids: int) -> None:
    """Make so many ids seen, in any order, whose events are of the 30 days around those that will be saved."""
    rng = random.Random(1)
    now = round(time() * 1000)
    with _building(path) as database:
        for first in range(0, ids, _IDS_A_TIME):
            count = min(_IDS_A_TIME, ids - first)
            block = rng.randbytes(32 * count)
            rows = (
                (block[at : at + 32], 0, now, FIRST_CREATED_AT + rng.randrange(-_HALF_S, _HALF_S), 1, 1 + at % PEOPLE)
                for at in range(0, 32 * count, 32)
            )
            with database.write() as tx:
                _insert(tx, events.ACCEPT, rows, count)


def _insert(tx: Tx, statement: str, rows: Iterable[tuple[int | bytes, ...]], count: int) -> None:
    before = tx.total_changes()
    tx.executemany(statement, rows).fetchall()
    assert tx.total_changes() - before == count


def follow(path: Path, count: int, people: int) -> None:
    """Let users register, each of whom follows `FOLLOWS_EACH` of so many people."""
    rng = random.Random(2)
    now = round(time() * 1000)
    with _building(path) as database, database.write() as tx:
        _insert(tx, authors.ADD, ((key(number),) for number in range(people)), people)
        numbers = Authors()
        for user in range(count):
            follower = numbers.intern(tx, key(user))
            followees = frozenset(rng.sample(range(1, people + 1), FOLLOWS_EACH))
            contacts.replace(tx, ContactList(follower, bytes(32), now // 1000, followees), now)
            users.register(tx, key(user), now)


def queue(path: Path, rows: int, sink: SinkName) -> None:
    """Let so many accepted events wait for `sink`."""
    rng = random.Random(5)
    now = round(time() * 1000)
    (payload,) = lines(blocks(1), 1)
    with _building(path) as database:
        for first in range(0, rows, _IDS_A_TIME):
            numbers = range(_FIRST_QUEUED + first, _FIRST_QUEUED + min(first + _IDS_A_TIME, rows))
            with database.write() as tx:
                store_with_payloads(
                    tx, (Accepted(each, rng.randbytes(32), 0, 1, 1, payload, 1, now, 1) for each in numbers)
                )
                outbox.append(tx, sink, numbers, now)


def key(number: int) -> bytes:
    """A public key, as far as the store can tell."""
    return hashlib.sha256(f"person {number}".encode()).digest()


def measure(share: float, rows: int, rounds: int, limit: float) -> PartReport:
    """The part `growth` with databases of a share of the full size, and so many rows saved in each of some runs."""
    ids, users = round(SEEN * share), round(USERS * share)
    people, queued = round(PEOPLE * share), round(QUEUED * share)
    builders: dict[str, Callable[[Path], None]] = {
        "an empty database": lambda path: open_database(path, SystemClock()).close(),
        f"{ids:,} seen ids": lambda path: see(path, ids),
        f"{users * FOLLOWS_EACH:,} follows": lambda path: follow(path, users, people),
        f"{queued:,} rows queued": lambda path: queue(path, queued, SinkName.RELAY),
    }
    saved = {name: _Runs() for name in builders}
    notes = [f"{rows:,} rows a run, the best of {rounds}; {users:,} users follow {FOLLOWS_EACH} of {people:,} each"]
    with tempfile.TemporaryDirectory(prefix="event-service-bench-") as name:
        directory = Path(name)
        for number, build in enumerate(builders.values()):
            (directory / f"{number}").mkdir()
            build(directory / f"{number}" / "events.db")
        lookups = [*_lookups(directory / "2" / "events.db", people), *_requests(directory / "2", people)]
        for _ in range(rounds):
            for number, (what, found) in enumerate(saved.items()):
                here = directory / "run"
                copy_run(directory / f"{number}", here)
                found.runs.append(save(here, rows, lambda pid, found=found: _note_peak(found, pid)))  # type: ignore[misc]
                notes.append(f"{what}: {found.runs[-1].usage.note()}")
                shutil.rmtree(here)
        forwarded = list(_forwarded(directory, rows, max(rows, queued), rounds, limit))
    return PartReport("growth", (*_figures(saved, limit), *forwarded, *lookups), tuple(notes))


def _forwarded(directory: Path, rows: int, queued: int, rounds: int, limit: float) -> Iterator[Figure]:
    """Handing on so many rows, where no more are queued and where many are."""
    found = {waiting: _Runs() for waiting in (rows, queued)}
    for waiting in found:
        (directory / f"queued {waiting}").mkdir()
        queue(directory / f"queued {waiting}" / "events.db", waiting, SinkName.PUBSUB)
    here = directory / "run"
    for _ in range(rounds):
        for waiting, runs in found.items():
            copy_run(directory / f"queued {waiting}", here)
            runs.runs.append(forward(here, rows, 0.0))
            shutil.rmtree(here)
    alone = Limit("few", found[rows].per_second)
    for waiting, runs in found.items():
        yield Figure(f"rows handed on, of {waiting:,} queued", runs.per_second, "/s", alone)
        yield Figure("  CPU per row", runs.cpu_s("forwarder") * 1e6, "us CPU", Limit("1/V", 1e6 / limit, -1))


def _note_peak(found: _Runs, pid: int) -> None:
    found.peak_bytes = max(found.peak_bytes, peak_resident_bytes(pid))


def _figures(saved: dict[str, _Runs], limit: float) -> Iterator[Figure]:
    (_, first), *_ = saved.items()
    for name, found in saved.items():
        yield Figure(f"rows saved, {name}", found.per_second, "/s", Limit("empty", first.per_second))
        yield Figure("  CPU per row", found.cpu_s("saver") * 1e6, "us CPU", Limit("1/V", 1e6 / limit, -1))
        yield Figure("  memory of the saver at most", found.peak_bytes / 1e6, "MB")


def _lookups(path: Path, people: int) -> list[Figure]:
    """How long the counts of a public key take, one after another, as the web server reads them."""
    took = []
    rng = random.Random(3)
    with open_database(path, SystemClock()) as database:
        for _ in range(_LOOKUPS):
            began = monotonic()
            with database.read() as tx:
                contacts.counts(tx, key(rng.randrange(people)))
            took.append(monotonic() - began)
    return _percentiles("counts of a key, read from the database", took)


def _requests(directory: Path, people: int) -> list[Figure]:
    """The same asked of the web server, each over a connection of its own."""
    took = []
    rng = random.Random(4)
    service = EventService.stage("server", directory, settings(EVENTS_STAGE_LISTEN_ADDRESS=""))
    service.start()
    try:
        for _ in range(_LOOKUPS):
            path = f"/public-keys/{key(rng.randrange(people)).hex()}"
            began = monotonic()
            status, _ = service.get(path)
            took.append(monotonic() - began)
            assert status == 200
    finally:
        service.close()
    return _percentiles("GET /public-keys/{hex}", took)


def _percentiles(what: str, took: list[float]) -> list[Figure]:
    took.sort()
    return [
        Figure(f"{what}, half within", took[len(took) // 2] * 1e6, "us"),
        Figure("  99 of 100 within", took[len(took) * 99 // 100] * 1e6, "us"),
    ]


def run(limit: float, *, quick: bool) -> PartReport:
    """The part `growth`."""
    return measure(QUICK_SHARE, ROWS // 3, 2, limit) if quick else measure(1.0, ROWS, ROUNDS, limit)


if __name__ == "__main__":
    print(table(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0, ROWS, ROUNDS, baseline_rate())))
