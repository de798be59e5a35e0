"""How far one relay's answers are complete, by query; the cursors in memory."""

from collections.abc import Iterable

from pipeline.crawl.plan import Query
from pipeline.store.cursors import Cursor
from pipeline.store.sweeps import SweepProgress

# Chunks merge rarely and by one bit at a time; deeper searches for what they were merged from end in a fresh start.
_MAX_MERGE_DEPTH = 8


class Coverage:
    """The cursors of one relay. A chunk that was split or merged goes on from the cursors of what it was made from."""

    __slots__ = ("_cursors", "_progress", "relay")

    def __init__(self, relay: int, cursors: Iterable[Cursor], sweeps: Iterable[SweepProgress] = ()) -> None:
        self.relay = relay
        self._cursors = {cursor.query: cursor for cursor in cursors}
        self._progress = {progress.sweep: progress for progress in sweeps}

    def of(self, query: Query) -> Cursor | None:
        """How far `query` is complete; `None` if it never was."""
        lengths = range(len(query.prefix) + 1)
        keys = (f"{query.subject}/{query.prefix[:length]}" for length in lengths)
        found = [self._cursors[key] for key in keys if key in self._cursors]
        if found:
            return max(found, key=lambda cursor: (cursor.generation, cursor.complete_until))
        return self._merged(query, _MAX_MERGE_DEPTH)

    def named(self, key: str) -> Cursor | None:
        """The cursor of exactly this key."""
        return self._cursors.get(key)

    def progress(self, sweep: str) -> SweepProgress | None:
        """How far a former process came with a sweep; told once."""
        return self._progress.pop(sweep, None)

    def advance(self, key: str, complete_until: int, generation: int) -> Cursor:
        """Note progress and return the cursor to be committed with the events that it covers."""
        before = self._cursors.get(key)
        if before is not None:
            complete_until = max(complete_until, before.complete_until)
            generation = max(generation, before.generation)
        cursor = self._cursors[key] = Cursor(self.relay, key, complete_until, generation)
        return cursor

    def _merged(self, query: Query, depth: int) -> Cursor | None:
        """What both halves of a chunk have in common, if both are covered."""
        covered: list[Cursor] = []
        for bit in "01":
            half = self._half(query, bit, depth)
            if half is None:
                # At once: looking through both halves of both halves doubles with each step down.
                return None
            covered.append(half)
        return Cursor(
            self.relay,
            query.key,
            min(cursor.complete_until for cursor in covered),
            min(cursor.generation for cursor in covered),
        )

    def _half(self, query: Query, bit: str, depth: int) -> Cursor | None:
        half = Query(query.subject, query.prefix + bit)
        exact = self._cursors.get(half.key)
        return exact if exact is not None or depth == 0 else self._merged(half, depth - 1)
