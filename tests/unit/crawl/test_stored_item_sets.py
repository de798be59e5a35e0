"""What the store says that we have of a query, read in a thread of its own."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from pipeline.crawl import stored_item_sets as module
from pipeline.crawl.stored_item_sets import LAG_S, MAX_AGE_S, StoredItemSets
from pipeline.crawl.sync.item_sets import ItemSetWindow, Unavailable
from pipeline.crawl.sync.query import GLOBAL_QUERY, Query, Subject
from pipeline.nostr.negentropy import ItemSet
from pipeline.process.clock import ManualClock
from pipeline.process.logs import Logger, RateLimitedLogger
from pipeline.store import events, wanted_authors
from pipeline.store.authors import Authors
from pipeline.store.database import Database
from pipeline.store.events import Accepted
from pipeline.store.schema import open_database
from tests.fakes.net import pause
from tests.support.plans import key, query

NOW = 1_700_000_000
PATIENCE_S = 60.0
SINCE = NOW - 72 * 3600
ALICE, BOB, STRANGER = key(1), key(2), key(3)


class Store:
    """A database with accepted events, and holdings of it."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock(NOW * 1000)
        self.path = path
        self.database = open_database(path, self.clock)
        self.authors = Authors()
        self.number = 0

    def want(self, *keys: bytes) -> None:
        with self.database.write() as tx:
            wanted_authors.acquire(tx, self.authors.intern_all(tx, keys), NOW * 1000)

    def accept(self, author: bytes, *created_at: int, kind: int = 1) -> set[tuple[int, bytes]]:
        """Returns the items that were added."""
        rows = []
        with self.database.write() as tx:
            for each in created_at:
                self.number += 1
                number = self.authors.intern(tx, author)
                rows.append(Accepted(self.number, self.number.to_bytes(32), each, kind, number, b"", 1, 0, 0))
            events.accept(tx, rows, 0)
        return {(row.created_at, row.event_id) for row in rows}

    def open(self) -> Database:
        return open_database(self.path, self.clock)

    @contextmanager
    def holdings(self, **options: int) -> Iterator[StoredItemSets]:
        log = RateLimitedLogger(Logger(logging.getLogger("t")), self.clock)
        made = StoredItemSets(self.open, self.clock, log, **options)  # type: ignore[arg-type]
        thread = threading.Thread(target=made.run)
        thread.start()
        try:
            yield made
        finally:
            made.finish()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "events.db")
    yield made
    made.database.close()


def held(holdings: StoredItemSets, asked: Query, since: int = SINCE) -> ItemSetWindow:
    until = monotonic() + PATIENCE_S
    while not isinstance(found := holdings.item_set_for(asked, since), ItemSetWindow):
        assert found is Unavailable.LOADING
        assert monotonic() < until
        pause(0.01)
    return found


def items(found: ItemSetWindow) -> set[bytes]:
    return {found.items.key(index) for index in range(len(found.items))}


def keys(expected: set[tuple[int, bytes]]) -> set[bytes]:
    return items(ItemSetWindow(ItemSet(expected), 0, 0))


def test_the_items_of_a_query_are_those_that_match_it(store: Store) -> None:
    store.want(ALICE, BOB)
    alice = store.accept(ALICE, NOW - 5000, NOW - 6000)
    bob = store.accept(BOB, NOW - 5500)
    profile = store.accept(ALICE, NOW - 7000, kind=0)
    strange = store.accept(STRANGER, NOW - 7000, kind=10_002)
    store.accept(STRANGER, NOW - 7000)
    store.accept(ALICE, SINCE - 1, NOW - LAG_S + 1)
    with store.holdings() as holdings:
        found = held(holdings, query(Subject.AUTHORS, [ALICE]))
        assert (found.since, found.until) == (SINCE, NOW - LAG_S)
        assert items(found) == keys(alice | profile)
        assert items(held(holdings, query(Subject.AUTHORS, [ALICE, BOB], "0"))) == keys(alice | bob | profile)
        assert items(held(holdings, GLOBAL_QUERY)) == keys(profile | strange)
        assert items(held(holdings, query(Subject.AUTHORS, [key(9)], "1"))) == set()


@pytest.mark.parametrize("subject", [Subject.MENTIONS, Subject.PROFILES, Subject.FIREHOSE])
def test_what_the_store_cannot_tell_is_not_held(store: Store, subject: Subject) -> None:
    with store.holdings() as holdings:
        assert holdings.item_set_for(query(subject, [ALICE]), SINCE) is Unavailable.UNKNOWN


def test_of_too_many_the_newest_are_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is told how far back they reach, with every event of the oldest second."""
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 5)
    store.want(ALICE)
    all_of_them = store.accept(ALICE, *(NOW - 2000 - n // 3 for n in range(40)))
    with store.holdings(max_items=12) as holdings:
        found = held(holdings, query(Subject.AUTHORS, [ALICE]))
        assert SINCE < found.since <= NOW - 2000
        reached = {item for item in all_of_them if item[0] >= found.since}
        assert len(reached) >= 12
        assert keys(reached) == items(found) & keys(reached)


def test_one_reading_is_shared_until_it_is_old(store: Store) -> None:
    store.want(ALICE)
    before = store.accept(ALICE, NOW - 5000)
    with store.holdings() as holdings:
        asked = query(Subject.AUTHORS, [ALICE])
        assert items(held(holdings, asked)) == keys(before)
        later = store.accept(ALICE, NOW - 6000)
        assert items(held(holdings, asked)) == keys(before)
        assert items(held(holdings, asked, NOW - 10_000)) == keys(before)
        # Further back than was read; and once it is old.
        assert items(held(holdings, asked, SINCE - 2 * MAX_AGE_S)) == keys(before | later)
        even_later = store.accept(ALICE, NOW - 7000)
        store.clock.advance(MAX_AGE_S + 1)
        assert items(held(holdings, asked)) == keys(before | later | even_later)


def test_a_query_with_new_members_is_read_anew(store: Store) -> None:
    store.want(ALICE)
    alice = store.accept(ALICE, NOW - 5000)
    with store.holdings() as holdings:
        assert items(held(holdings, query(Subject.AUTHORS, [ALICE]))) == keys(alice)
        assert items(held(holdings, query(Subject.AUTHORS, [ALICE, BOB], generation=2))) == keys(alice)


def test_a_store_that_fails_holds_nothing_and_ends_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.want(ALICE)
    alice = store.accept(ALICE, NOW - 5000)
    failures = []

    def fail(*_: object, **__: object) -> None:
        failures.append(1)
        raise OSError("disk")

    with store.holdings() as holdings:
        with monkeypatch.context() as patch:
            patch.setattr(events, "seen_before", fail)
            asked = query(Subject.AUTHORS, [ALICE])
            assert holdings.item_set_for(asked, SINCE) is Unavailable.LOADING
            until = monotonic() + PATIENCE_S
            while not failures:
                assert monotonic() < until
                pause(0.01)
        assert items(held(holdings, asked)) == keys(alice)
