"""What an attack costs: memory, disk, processor time, and which honest relays are connected."""

import sqlite3
import threading
from collections.abc import Set
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.fakes.service import EventService
from tests.tools.bench.machine import Moment, Usage

_EVERY_S = 0.5
_CONNECTED = "SELECT address FROM relays WHERE state IN ('connected', 'backpressured')"
_PROVEN = "SELECT address FROM relays WHERE productive_at > 0"
_WANTED = "SELECT count(*) FROM wanted WHERE refs > 0"


def number(service: EventService, query: str) -> int:
    """Return the one number that a query of the service's database gives; 0 for none."""
    rows = _rows(service.database, query)
    return int(rows[0][0]) if rows and isinstance(rows[0][0], int) else 0


def connected(service: EventService) -> frozenset[str]:
    """Return the addresses of the relays that the service says are connected."""
    return _addresses(service, _CONNECTED)


def _addresses(service: EventService, query: str) -> frozenset[str]:
    return frozenset(str(address) for (address,) in _rows(service.database, query))


def _rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


@dataclass(frozen=True, slots=True)
class Costs:
    """What was seen between two moments. `crawler_bytes`: the most that one crawler had in memory."""

    fewest_relays: int
    crawler_bytes: int
    wanted_authors: int
    disk_bytes: int
    cpu_s: float
    seconds: float
    restarts: int


class Watch:
    """Looks at the service while an attack goes on, in a thread of its own; a context manager."""

    def __init__(self, service: EventService, relays: Set[str]) -> None:
        self._service = service
        self._relays = relays
        self._fewest = len(relays)
        self._most_crawler = 0
        self._most_disk = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._first_disk = disk_bytes(service)
        self._pids = self._stages()
        self._first = Moment.of(self._pids)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            # A stage may end, or the database be busy, while it is looked at.
            with suppress(OSError, sqlite3.Error, AssertionError):
                self._look()

    def _look(self) -> None:
        crawlers = [one.process.resident_bytes for one in self._service.stages("crawler")]
        self._most_crawler = max(self._most_crawler, *crawlers, 0)
        self._most_disk = max(self._most_disk, disk_bytes(self._service))
        self._fewest = min(self._fewest, len(self._relays & connected(self._service)))

    def _stages(self) -> dict[str, int]:
        return {"supervisor": self._service.child.pid} | {
            f"{one.name}-{one.slot or 0}": one.pid for one in self._service.stages()
        }

    def costs(self) -> Costs:
        """Return what was seen until now."""
        self._look()
        usage = Usage.between(self._first, Moment.of(self._pids))
        return Costs(
            fewest_relays=self._fewest,
            crawler_bytes=self._most_crawler,
            wanted_authors=number(self._service, _WANTED),
            disk_bytes=max(0, self._most_disk - self._first_disk),
            cpu_s=sum(usage.cpu_s.values()),
            seconds=usage.elapsed_s,
            restarts=sum(self._stages().get(name) != pid for name, pid in self._pids.items()),
        )


def disk_bytes(service: EventService) -> int:
    """Return how many bytes the database has on the disk, its log included."""
    total = 0
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            total += Path(f"{service.database}{suffix}").stat().st_size
    return total


def wait_connected(service: EventService, relays: Set[str], timeout_s: float) -> frozenset[str]:
    """Return the addresses of `relays` that are still not connected when all are or the time is up."""
    return _wait_for(service, _CONNECTED, relays, timeout_s)


def wait_proven(service: EventService, relays: Set[str], timeout_s: float) -> frozenset[str]:
    """Return the addresses of `relays` that have been first with nothing yet, when none is or the time is up."""
    return _wait_for(service, _PROVEN, relays, timeout_s)


def _wait_for(service: EventService, query: str, relays: Set[str], timeout_s: float) -> frozenset[str]:
    deadline = monotonic() + timeout_s
    pause = threading.Event()
    while True:
        missing = frozenset(relays) - _addresses(service, query)
        if not missing or monotonic() > deadline:
            return missing
        pause.wait(_EVERY_S)
