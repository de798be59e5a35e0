"""A replay from its first step to the last: what is kept is queued, what is not is fetched and queued.

| the replay has | then |
|---|---|
| `FETCH_EVENTS` to fetch, or has looked at everything and has any | it asks relays for them |
| not looked at everything | it looks at the next rows of `seen`: what is kept it queues, the rest is to be fetched |
| done both | it is over |

No more than `rate` events a second are queued, and none while `MAX_PENDING` are pending: the forwarder takes them when
it has nothing newer, and payloads are put back into the database no faster than it does.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.audit.client import Interrupted
from pipeline.nostr.event import Event
from pipeline.process.clock import Clock
from pipeline.process.rate import OverdraftBucket, Rate
from pipeline.process.stop import Stop
from pipeline.replay.fetcher import Fetcher
from pipeline.replay.selection import LOOK_ROWS, ReplaySelection
from pipeline.store import replay_queue, replays, retractions
from pipeline.store.database import Database
from pipeline.store.replays import Fetch, Fetched, GivenEvent, Replay

MAX_PENDING: Final = 1_000
FETCH_EVENTS: Final = 2_000
_WAIT_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Watcher:
    """Callbacks of a replay: `on_progress` how far it is, `on_queued` after each commit, `on_full` while it waits."""

    on_progress: Callable[[Replay], None]
    on_queued: Callable[[], None]
    on_full: Callable[[int], None]


class ReplayRun:
    """Work of one replay, which may have begun before. For one thread."""

    def __init__(
        self, database: Database, replay: Replay, fetcher: Fetcher, rate: float, clock: Clock, stop: Stop,
        watcher: Watcher,
    ) -> None:  # fmt: skip
        """`rate`: events a second."""
        self.replay = replay
        self._database = database
        self._selection = ReplaySelection(database, replay.scope)
        self._fetcher = fetcher
        self._clock = clock
        self._stop = stop
        self._watcher = watcher
        self._bucket = OverdraftBucket(Rate(max(1, round(rate * _WAIT_S * 2)), rate * 60), clock.monotonic())

    def run(self) -> None:
        """Queue everything. Raises `Interrupted`, or `NoRelayAnswered`; another run goes on from there."""
        while True:
            self._check_stop()
            with self._database.read() as tx:
                to_fetch = replays.count_fetches(tx, self.replay.job)
            if to_fetch >= FETCH_EVENTS or (to_fetch and self.replay.is_walked):
                self._fetch()
            elif not self.replay.is_walked:
                self._walk()
            else:
                break
        with self._database.write() as tx:
            replays.end(tx, self.replay.job, self._clock.now_ms())

    def _walk(self) -> None:
        with self._database.read() as tx:
            # The sink's outbox may have another name since.
            self._refresh(replays.latest(tx))
            step = replays.look(tx, self.replay.scope, self.replay.place, LOOK_ROWS)
        given = [each for each in step.found if self._selection.may_select(each)]
        first = 0
        while first < len(given):
            part = self._part(given[first:])
            first += len(part)
            self._queue_up(part, (part[-1].created_at, part[-1].event_id), is_last=False)
        self._queue_up([], step.place, is_last=step.is_last)

    def _part(self, given: Sequence[GivenEvent]) -> Sequence[GivenEvent]:
        """Return the first of `given` that may be queued now."""
        room = self._room() if any(each.is_kept for each in given) else 0
        for index, each in enumerate(given):
            if each.is_kept and (room := room - 1) < 0:
                return given[:index]
        return given

    def _queue_up(self, given: Sequence[GivenEvent], place: tuple[int, bytes], *, is_last: bool) -> None:
        with self._database.write() as tx:
            replays.queue_up(tx, self.replay, given, place, self._clock.now_ms(), is_last=is_last)
            self._refresh(replays.latest(tx))
        self._on_queued(sum(each.is_kept for each in given))

    def _fetch(self) -> None:
        with self._database.write() as tx:
            part = replays.fetches(tx, self.replay.job, FETCH_EVENTS)
            gone = retractions.retracted(tx, map(replays.identity, part))
            replays.drop_retracted(tx, self.replay, [each for each in part if each.event_id in gone])
            self._refresh(replays.latest(tx))
        wanted = {each.event_id: each for each in part if each.event_id not in gone}
        for events in self._fetcher.fetch(list(wanted)) if wanted else ():
            self._take(events, wanted)
        with self._database.write() as tx:
            replays.mark_missing(tx, self.replay, list(wanted.values()))
            self._refresh(replays.latest(tx))
        self._watcher.on_progress(self.replay)

    def _take(self, events: Sequence[Event], wanted: dict[bytes, Fetch]) -> None:
        """Queue what a relay has returned, and take it from `wanted`."""
        first = 0
        while first < len(events):
            part = events[first : first + self._room()]
            first += len(part)
            found, other = self._matched(part, wanted)
            with self._database.write() as tx:
                replays.queue_fetched(tx, self.replay, found, self._clock.now_ms())
                replays.drop_other_rule(tx, self.replay, other)
                self._refresh(replays.latest(tx))
            for event in part:
                del wanted[event.id]
            self._on_queued(len(found))

    def _matched(self, events: Iterable[Event], wanted: dict[bytes, Fetch]) -> tuple[list[Fetched], list[Fetch]]:
        """Return what the replay is about, with today's rules, and the rest."""
        found: list[Fetched] = []
        other: list[Fetch] = []
        with self._database.read() as tx:
            for event in events:
                fetch = wanted[event.id]
                match = self._selection.match(tx, event, fetch.author)
                if self._selection.selects(match):
                    mentions = bytes.fromhex("".join(match.mentions)) or None
                    found.append(Fetched(fetch, event.to_json(), " ".join(match.rules), mentions))
                else:
                    other.append(fetch)
        return found, other

    def _room(self) -> int:
        """Return how many events may be queued now, one at least; waits until that is so. Raises `Interrupted`."""
        while True:
            self._check_stop()
            with self._database.read() as tx:
                pending = replay_queue.pending(tx, self.replay.job)
            if pending >= MAX_PENDING:
                self._watcher.on_full(pending)
            room = min(MAX_PENDING - pending, int(self._bucket.left(self._clock.monotonic())))
            if room >= 1:
                return room
            self._stop.wait(_WAIT_S)

    def _on_queued(self, count: int) -> None:
        if count:
            self._bucket.spend(count, self._clock.monotonic())
            self._watcher.on_queued()
        self._watcher.on_progress(self.replay)

    def _refresh(self, replay: Replay | None) -> None:
        assert replay is not None, "it has begun"
        self.replay = replay

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Interrupted
