"""How far one relay's answers are complete, by query; the cursors in memory."""

from collections.abc import Iterable
from dataclasses import replace

from pipeline.crawl.sync.query import FIREHOSE_QUERY, Query, Subject
from pipeline.store.cursors import Cursor
from pipeline.store.sweeps import SweepProgress

# Chunks merge rarely and by one bit at a time; deeper searches for what they were merged from end in a fresh start.
_MAX_MERGE_DEPTH = 8


def up_to_generation(latest: int, cursors: Iterable[Cursor]) -> list[Cursor]:
    """Return what `cursors` say of members wanted by change `latest`, that of the plan that is followed, or before.

    Another host may have followed newer changes. What is asked from here on is not asked for these, so that they are
    looked back for once they are followed here.
    """
    return [replace(each, generation=min(each.generation, latest)) for each in cursors]


class CursorTable:
    """The cursors of one relay. A chunk that was split or merged goes on from the cursors of what it was made from.

    A cursor for everything that a relay has covers every live query: whichever way the relay is asked, all of them go
    on from where both ways have come to.
    """

    __slots__ = ("_cursors", "_found", "_progress", "relay")

    def __init__(self, relay: int, cursors: Iterable[Cursor], sweeps: Iterable[SweepProgress] = ()) -> None:
        self.relay = relay
        self._cursors = {cursor.query: cursor for cursor in cursors}
        # What was found of chunks, by their keys, until a cursor moves that has to do with them.
        self._found: dict[str, Cursor | None] = {}
        self._progress = {progress.sweep: progress for progress in sweeps}

    def cursor_for(self, query: Query) -> Cursor | None:
        """How far `query` is complete; `None` if it never was."""
        own = self._of_chunk(query)
        whole = self._cursors.get(FIREHOSE_QUERY.key) if query.is_live else None
        if own is None or whole is None or query.subject is Subject.FIREHOSE:
            return own or whole
        # Each way begins where the other ended, and looks back for whoever became wanted meanwhile.
        return Cursor(
            self.relay,
            query.key,
            max(own.complete_until, whole.complete_until),
            max(own.generation, whole.generation),
        )

    def start_firehose(self, queries: Iterable[Query]) -> None:
        """Let the cursor for everything stand where all of `queries` are complete, if each of them was once."""
        covered: list[Cursor] = []
        pending: list[int] = []
        newest = 0
        for query in queries:
            cursor = self.cursor_for(query)
            if cursor is None:
                return
            covered.append(cursor)
            newest = max(newest, query.generation)
            if query.generation > cursor.generation:
                pending += query.members.generations_after(cursor.generation)
        if covered:
            until = min(cursor.complete_until for cursor in covered)
            self.advance(FIREHOSE_QUERY.key, until, min(pending, default=newest + 1) - 1)

    def _of_chunk(self, query: Query) -> Cursor | None:
        if query.key not in self._found:
            self._found[query.key] = self._resolve(query)
        return self._found[query.key]

    def _resolve(self, query: Query) -> Cursor | None:
        # From the whole tier on: that a chunk of another tier is complete says nothing of this one.
        key, shortest = query.key, len(query.key) - len(query.bits)
        ends = range(shortest, len(key) + 1)
        found = [cursor for end in ends if (cursor := self._cursors.get(key[:end])) is not None]
        if found:
            return max(found, key=lambda cursor: (cursor.generation, cursor.complete_until))
        merged = self._merge_children(key, _MAX_MERGE_DEPTH)
        return None if merged is None else Cursor(self.relay, key, *merged)

    def get(self, key: str) -> Cursor | None:
        """The cursor of exactly this key."""
        return self._cursors.get(key)

    def rewind(self, latest: int, to: int) -> bool:
        """Set cursors beyond `latest` back `to` a time: the clock was wrong, and nobody can tell what they cover.

        Returns whether there was any.
        """
        wrong = [cursor for cursor in self._cursors.values() if cursor.complete_until > latest]
        self._cursors |= {cursor.query: replace(cursor, complete_until=to) for cursor in wrong}
        self._found.clear()
        return bool(wrong)

    def take_back(self, subject: Subject) -> None:
        """Forget what is complete about `subject`: it was asked for in a form that leaves events out."""
        self._cursors = {key: each for key, each in self._cursors.items() if not key.startswith(f"{subject}/")}
        self._progress = {key: each for key, each in self._progress.items() if f":{subject}/" not in key}
        self._found.clear()

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
        self._forget_found(key)
        return cursor

    def _merge_children(self, key: str, depth: int) -> tuple[int, int] | None:
        """Return up to which time, and change of members, both halves of a chunk are complete; None if one is not."""
        times: list[tuple[int, int]] = []
        for half in (f"{key}0", f"{key}1"):
            cursor = self._cursors.get(half)
            if cursor is not None:
                times.append((cursor.complete_until, cursor.generation))
            elif depth and (merged := self._merge_children(half, depth - 1)) is not None:
                times.append(merged)
            else:
                # At once: looking through both halves of both halves doubles with each step down.
                return None
        (until, generation), (other_until, other_generation) = times
        return min(until, other_until), min(generation, other_generation)

    def _forget_found(self, moved: str) -> None:
        """Look again for the cursors of chunks that the one of key `moved` was cut from, or that were cut from it.

        All others stay found: where there are hundreds of chunks, one of them moves several times a second.
        """
        self._found.pop(moved, None)
        for key in [key for key in self._found if key.startswith(moved) or moved.startswith(key)]:
            del self._found[key]
