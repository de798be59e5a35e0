"""Item sets of what is stored, to compare relays with (NIP-77): built once and shared over all relays.

The newest accepted events of wanted authors and of global kinds are read from the store once in a while, by a thread of
its own, and each query's set is made of them when it is first asked for. What was accepted after that reading only
seems to be missing, and is fetched once more.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

from pipeline.crawl.sync.item_sets import ItemSetWindow, Unavailable
from pipeline.crawl.sync.query import Query, Subject
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.nostr.negentropy import ItemSet, item_key
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimitedLogger
from pipeline.store import authors, events, wanted_authors
from pipeline.store.database import Database

# Some 80 bytes each in memory; of more, the newest.
MAX_ITEMS: Final = 400_000
# A reading is used for this long (seconds), and then let go.
MAX_AGE_S: Final = 900
# What is dated later may still be on its way through the inbox.
LAG_S: Final = 900
_ROWS_AT_ONCE: Final = 20_000
_TURN_S: Final = 30.0
_KEY_AFTER_ALL: Final = b"\xff" * 33


@dataclass(slots=True)
class _Reading:
    """What was read of the store: keys of items by author number, and those of global kinds."""

    since: int
    until: int
    asked_since: int
    read_at: float
    by_author: dict[int, list[bytes]]
    of_global_kinds: list[bytes]
    sets: dict[tuple[str, int], ItemSetWindow] = field(default_factory=dict)


class StoredItemSets:
    """Holdings from the database; `run` belongs in a thread."""

    def __init__(
        self,
        open_database: Callable[[], Database],
        clock: Clock,
        log: RateLimitedLogger,
        *,
        max_items: int = MAX_ITEMS,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_turn` is called by the thread in `run` about every second."""
        self._log = log
        self._open_database = open_database
        self._on_turn = on_turn
        self._clock = clock
        self._max_items = max_items
        self._queue: SimpleQueue[tuple[Query, int] | None] = SimpleQueue()
        self._asked: set[tuple[str, int]] = set()
        self._reading: _Reading | None = None

    def item_set_for(self, query: Query, since: int) -> ItemSetWindow | Unavailable:
        """See `ItemSetProvider`."""
        if query.subject not in (Subject.GLOBAL, Subject.AUTHORS):
            # No tags are stored, by which mentions would be told.
            return Unavailable.UNKNOWN
        reading, name = self._reading, (query.key, query.generation)
        if reading is not None and self._serves(reading, since) and name in reading.sets:
            return reading.sets[name]
        if name not in self._asked:
            self._asked.add(name)
            self._queue.put((query, since))
        return Unavailable.LOADING

    def finish(self) -> None:
        """Let `run` return."""
        self._queue.put(None)

    def run(self) -> None:
        """Build what is asked for, until `finish`."""
        with self._open_database() as database:
            while True:
                self._on_turn()
                try:
                    item = self._queue.get(timeout=_TURN_S)
                except Empty:
                    if self._reading is not None and self._is_old(self._reading):
                        self._reading = None
                    continue
                if item is None:
                    return
                query, since = item
                try:
                    self._build(database, query, since)
                except Exception as error:
                    # Whoever waits for it goes on page by page.
                    self._log.exception(type(error).__name__, "no holdings to compare", query=query.key)
                self._asked.discard((query.key, query.generation))

    def _serves(self, reading: _Reading, since: int) -> bool:
        return reading.asked_since <= since + MAX_AGE_S and not self._is_old(reading)

    def _is_old(self, reading: _Reading) -> bool:
        return self._clock.monotonic() - reading.read_at > MAX_AGE_S

    def _build(self, database: Database, query: Query, since: int) -> None:
        reading = self._reading
        if reading is None or not self._serves(reading, since):
            reading = self._read(database, since)
        if query.subject is Subject.GLOBAL:
            keys = reading.of_global_kinds
        else:
            with database.read() as tx:
                numbers = [authors.find(tx, key) for key in query.members.keys]
            keys = [key for number in numbers if number is not None for key in reading.by_author.get(number, ())]
        reading.sets[query.key, query.generation] = ItemSetWindow(ItemSet.of_keys(keys), reading.since, reading.until)
        self._reading = reading

    def _read(self, database: Database, since: int) -> _Reading:
        """The newest that there is room for, in short transactions, so that checkpoints get by."""
        until = self._clock.now_ms() // 1000 - LAG_S
        by_author: dict[int, list[bytes]] = defaultdict(list)
        of_global_kinds: list[bytes] = []
        read_at = self._clock.monotonic()
        with database.read() as tx:
            whose = wanted_authors.numbers(tx)
        before, kept = (until, _KEY_AFTER_ALL), 0
        reached = since
        while True:
            self._on_turn()
            with database.read() as tx:
                rows = events.seen_before(tx, since=since, before=before, limit=_ROWS_AT_ONCE)
            for row in rows:
                is_global, is_wanted = row.kind in GLOBAL_KINDS, row.author in whose
                if is_global or is_wanted:
                    key = item_key(row.created_at, row.event_id)
                    kept += 1
                    if is_global:
                        of_global_kinds.append(key)
                    if is_wanted:
                        by_author[row.author].append(key)
            if len(rows) < _ROWS_AT_ONCE:
                break
            before = (rows[-1].created_at, rows[-1].event_id)
            if kept >= self._max_items:
                # The rest of this second was not read.
                reached = rows[-1].created_at + 1
                break
        return _Reading(reached, until, since, read_at, dict(by_author), of_global_kinds)
