"""Home's side of the state: what it writes in one transaction, and what it does with too much of a host."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from pipeline.hub import host_state, state_taking
from pipeline.hub.connection import HubConnection
from pipeline.hub.state_taking import LOOK_S, StateTaking
from pipeline.process.clock import ManualClock
from pipeline.process.logs import RateLimitedLogger, get_logger
from pipeline.store import host_counts
from pipeline.store.database import Database, Tx

HOST = "fra1"
RELAYS = [f"wss://r{number}.example.com" for number in range(2_500)]


class _Hub:
    """A hub in which one host holds all relays and says one part."""

    def __init__(self, clock: ManualClock, database: Database) -> None:
        self._clock, self._database = clock, database
        self._taking = StateTaking(clock, RateLimitedLogger(get_logger("test"), clock), lambda: pytest.fail("invalid"))
        self._part: tuple[str, dict[str, Any]] = ("", {})
        self._number = 0

    def take(self, part: str, **content: Any) -> None:
        """Let home take it."""
        self._part, self._number = (part, content), self._number + 1
        self._clock.advance(LOOK_S)
        self._taking.turn(cast("HubConnection", self), self._database)

    def call(self, name: str, *_: object) -> list[tuple[Any, ...]]:
        match name:
            case "hosts_v1":
                return [(HOST, False, "1.0.0", 0, 0, 0, 0, 0)]
            case "shares_v1":
                return [(each.removeprefix("wss://"), HOST, HOST) for each in RELAYS]
            case "states_v1":
                part, content = self._part
                return [(HOST, part, 0, str(self._number), host_state.encode(content))]
            case _:
                return []


@pytest.fixture
def hub(clock: ManualClock, db: Database) -> _Hub:
    with db.write() as tx:
        tx.executemany(
            "INSERT INTO relays (address, source, first_seen, last_seen) VALUES (?, 'x', 0, 0)",
            [(each,) for each in RELAYS],
        )
    return _Hub(clock, db)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that each transaction changed."""
    found: list[int] = []
    write = Database.write

    @contextmanager
    def watched(self: Database, *, durable: bool = False) -> Iterator[Tx]:
        with write(self, durable=durable) as tx:
            before = tx.execute("SELECT total_changes()").get
            yield tx
            found.append(tx.execute("SELECT total_changes()").get - before)

    monkeypatch.setattr(Database, "write", watched)
    return found


def test_relays_of_a_host_are_written_in_slices_and_only_what_differs(hub: _Hub, written: list[int]) -> None:
    def take(brought: int) -> int:
        written.clear()
        hub.take(
            "relays", crawled=RELAYS, gaps=[[each, "ids", "cap", 1, 2, 3] for each in RELAYS],
            sweeps=[[each, "tail:authors/", 1, 2, 3, 4] for each in RELAYS],
            brought=[[each, 5.5, 1] for each in RELAYS[:brought]],
        )  # fmt: skip
        return sum(written)

    # Of the first look, who holds what.
    hub.take("relays", crawled=[], gaps=[], sweeps=[], brought=[])
    assert take(0) > 2 * len(RELAYS)
    assert max(written) <= 1_000, "the lock is free in between"
    assert take(3) < 10
    assert take(3) < 10


def test_known_counters_go_on_when_a_host_has_too_many(
    hub: _Hub, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_taking, "_MAX_COUNTERS", 1_000)

    def take(relays: list[str], value: int) -> dict[str, float]:
        rows = [["received_events_counter", [["address", each]], value] for each in relays]
        hub.take("series", era="e", counters=rows, gauges=[])
        with db.read() as tx:
            return {dict(each.labels)["address"]: each.value for each in host_counts.counters(tx)}

    few, others = RELAYS[:900], RELAYS[900:1_500]
    assert take(few, 1) == dict.fromkeys(few, 1)
    assert take(few + others, 2) == dict.fromkeys(few, 2)
