"""Delivery of outbox rows to a sink that answers message by message; no message waits for the answer to another.

Rows are sent while there is room. Each is settled by its own answer, in the transaction of the next claim. While the
sink is down the leases are renewed and the rows sent again, and no row has failed. Those in flight when the connection
broke are suspects and go one by one afterwards. A suspect that is in flight alone when the connection breaks again is
retried later; the second time it is refused, if only its size can be the cause.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.delivery.connection_breakers import Breakers
from pipeline.delivery.outbox_client import CLAIM_STEP, RENEW_STREAM_EVERY_S
from pipeline.delivery.poison import MAX_BATCH_BY_LOST_CLAIMS, max_batch_with
from pipeline.delivery.sink_health import SinkWorker
from pipeline.process.doorbell import Doorbell
from pipeline.process.metrics import Observations
from pipeline.process.stage_times import WaitReason
from pipeline.sinks.base import Delivered, Refused, Retry, SinkDown, StreamSink, Verdict
from pipeline.store.commit_watch import POLL_S, CommitWatch
from pipeline.store.database import Database
from pipeline.store.outbox import OutboxRow

# After this time without an answer and without a break, a suspect no longer keeps others from being sent.
PROBATION_S: Final = 2.0
# How long rows are sent before the next look at answers, leases and the stop.
_SENDING_S: Final = 1.0
# How long a process that stops waits for answers; the next one sends unanswered rows again.
LAST_ANSWERS_S: Final = 3.0
# How long rows whose retry is due may wait for the next poll.
_IDLE_S: Final = 1.0


_TOO_LARGE: Final = Refused("too-large")


class _InFlight(NamedTuple):
    row: OutboxRow
    at: float


class _Settled(NamedTuple):
    row: OutboxRow
    verdict: Verdict


@dataclass(slots=True)
class StreamWorker(SinkWorker):
    """Loop of one thread for one sink that answers message by message."""

    sink: StreamSink
    doorbell: Doorbell | None = None
    """Rung for new rows."""
    _pending: deque[OutboxRow] = field(default_factory=deque)
    """Claimed, to be sent in this order."""
    _in_flight: dict[bytes, _InFlight] = field(default_factory=dict)
    _settled: list[_Settled] = field(default_factory=list)
    """Answered, not committed yet."""
    _suspects: set[bytes] = field(default_factory=set)
    """Ids in flight when the connection broke, until they are answered."""
    _breakers: Breakers = field(default_factory=Breakers)
    _restricted: set[bytes] = field(default_factory=set)
    """Ids in flight beside which only few others may be."""
    _is_quiet: bool = True
    """True if no answers are due, or the last wait brought none."""
    _looked_at: float | None = None
    """When a claim last found nothing; None if there may be more."""
    _renewed_at: float = 0.0
    _heard_at: float = -math.inf

    def run(self, database: Database) -> None:
        """Send until stopped; then wait a moment for answers and release the rows that have none."""
        watch = CommitWatch(database, self.doorbell)
        self._renewed_at = self.now()
        while not self.stop.is_set():
            self.beat()
            try:
                self._send()
                self._collect(POLL_S if self._in_flight else 0.0)
            except SinkDown as down:
                self._on_sink_down(database, down)
                continue
            if self._is_quiet or len(self._settled) >= CLAIM_STEP:
                self._defer()
            self._renew(database)
            self._claim(database, watch)
            if not self.client.settle_due_in_s():
                self.client.settle(database)
            if not self._in_flight:
                self._idle(watch)
        self._shut_down(database)

    def _claim(self, database: Database, watch: CommitWatch) -> None:
        """Claim rows for the room there is; while answers come quickly, not for a few rows only."""
        room = self.sink.room() - len(self._pending)
        if room <= 0 or (room < CLAIM_STEP and not self._is_quiet):
            return
        is_due = self._looked_at is None or self.now() - self._looked_at >= _IDLE_S
        if not watch.changed() and not is_due:
            return
        rows = self.client.claim(database, room)
        self._pending.extend(rows)
        self._looked_at = None if rows else self.now()

    def _idle(self, watch: CommitWatch) -> None:
        """With nothing in flight, wait for a commit, or until the sink has room again."""
        if self._pending:
            self.health.on_activity(self.now())
            self.stop.wait(0.0 if self.sink.room() else POLL_S)
            return
        self.health.reset()
        if self._looked_at is not None or not self.sink.room():
            with self.client.times.waiting(WaitReason.WORK):
                has_changed = watch.wait(self.stop, min(_IDLE_S, self.client.settle_due_in_s()))
            if has_changed:
                self._looked_at = None

    def _send(self) -> None:
        """Send the rows that may be sent. Raises `SinkDown`."""
        sent, until = 0, self.now() + _SENDING_S
        try:
            while self._pending and self.sink.room() > 0 and self._can_send(self._pending[0]) and self.now() < until:
                if not self._in_flight:
                    self.health.on_call(self.now())
                self.sink.open()
                row = self._pending.popleft()
                if self._breakers.is_too_large(len(row.payload), self.now()):
                    self._settled.append(_Settled(row, _TOO_LARGE))
                    continue
                self._start(row)
                try:
                    self.sink.send(self.client.message(row))
                except SinkDown:
                    raise
                except Exception as error:
                    self._finish(row.event_id, self.client.note_failure(row, error))
                else:
                    sent += 1
        finally:
            if sent:
                self.client.metrics.sink_batch.labels(self.client.name).observe(sent)
                self._show_in_flight()

    def _start(self, row: OutboxRow) -> None:
        self._in_flight[row.event_id] = _InFlight(row, self.now())
        if self._max_batch_with(row) < MAX_BATCH_BY_LOST_CLAIMS[0]:
            self._restricted.add(row.event_id)

    def _finish(self, event_id: bytes, verdict: Verdict | None) -> None:
        row = self._in_flight.pop(event_id).row
        self._restricted.discard(event_id)
        if verdict is None:
            self._pending.appendleft(row)
        else:
            self._suspects.discard(event_id)
            self._settled.append(_Settled(row, verdict))

    def _can_send(self, row: OutboxRow) -> bool:
        """Return True if `row` may be in flight beside the rows that may still break the connection."""
        most = self._max_batch_with(row)
        if most == MAX_BATCH_BY_LOST_CLAIMS[0] and not self._restricted:
            return True
        since = self.now() - PROBATION_S
        beside = [sent.row for sent in self._in_flight.values() if sent.at > since]
        return len(beside) < min([most, *map(self._max_batch_with, beside)])

    def _max_batch_with(self, row: OutboxRow) -> int:
        return 1 if row.event_id in self._suspects or row.event_id in self._breakers else max_batch_with(row)

    def _collect(self, timeout_s: float) -> None:
        """Wait for answers, and take those that follow at once. Raises `SinkDown`."""
        until = self.now() + POLL_S
        taken = self._take(timeout_s)
        more = taken
        while more and self._in_flight and taken < CLAIM_STEP and (left := until - self.now()) > 0:
            more = self._take(left)
            taken += more
        self._is_quiet = not more or not self._in_flight
        if taken:
            self._show_in_flight()
        if self._in_flight and (heard_at := self.sink.heard_at()) > self._heard_at:
            self._heard_at = heard_at
            self.health.on_activity(heard_at)

    def _take(self, timeout_s: float) -> int:
        """Take the answers of one wait; return their number."""
        with self.client.times.waiting(WaitReason.NETWORK):
            answers = self.sink.collect(timeout_s)
        if answers:
            now = self.now()
            took_s = [now - self._in_flight[event_id].at for event_id, _ in answers]
            Observations(self.client.metrics.sink_call.labels(self.client.name)).record(took_s)
            if any(isinstance(verdict, Delivered | Refused) for _, verdict in answers):
                self.health.on_success(now)
        for event_id, verdict in answers:
            if isinstance(verdict, Delivered):
                self._breakers.on_delivered(event_id, len(self._in_flight[event_id].row.payload))
        # Backwards, so that rows to be sent again keep their order.
        for event_id, verdict in reversed(answers):
            self._finish(event_id, verdict)
        return len(answers)

    def _defer(self) -> None:
        """Leave the answers so far to the transaction of the next claim."""
        settled, self._settled = self._settled, []
        reasons = Counter(each.verdict.reason for each in settled if isinstance(each.verdict, Retry))
        self.client.note_retries(reasons)
        self.client.defer(settled, 0.0)

    def _settle(self, database: Database) -> None:
        self._defer()
        self.client.settle(database)

    def _renew(self, database: Database) -> None:
        """Renew the leases when due; if some were lost, release the rows that are not sent yet."""
        if self.now() - self._renewed_at < RENEW_STREAM_EVERY_S:
            return
        self._renewed_at = self.now()
        held = [*(sent.row for sent in self._in_flight.values()), *self._pending]
        if held and not self.client.renew(database, held, 0.0):
            self._release(database, self._drain_pending())

    def _on_sink_down(self, database: Database, down: SinkDown) -> None:
        """Take back what was in flight and renew the leases until the next try."""
        alone = {event_id for event_id in self._in_flight if event_id in self._suspects or event_id in self._breakers}
        again = [event_id for event_id in self._in_flight if event_id not in alone]
        for event_id in reversed(list(self._in_flight)):
            self._finish(event_id, self._verdict_on_breaker(event_id) if event_id in alone else None)
        self._suspects.update(again)
        self._show_in_flight()
        self.client.note_retries(Counter({down.reason: len(self._pending)}))
        self._settle(database)
        self.health.on_failure(down, self.now())
        wait_s = self.report_down(down, len(self._pending))
        self._renewed_at = self.now() + wait_s
        if self.client.renew(database, self._pending, wait_s):
            self.pause(wait_s)
        else:
            self._release(database, self._drain_pending())

    def _verdict_on_breaker(self, event_id: bytes) -> Verdict:
        payload = self._in_flight[event_id].row.payload
        is_too_large = self._breakers.on_broken(event_id, len(payload), self.now())
        return _TOO_LARGE if is_too_large else Retry("disconnected")

    def _shut_down(self, database: Database) -> None:
        until = self.now() + LAST_ANSWERS_S
        while self._in_flight and (left := until - self.now()) > 0:
            self.beat()
            try:
                self._collect(min(left, POLL_S))
            except SinkDown:
                break
        self._settle(database)
        unanswered = [sent.row for sent in self._in_flight.values()]
        self._in_flight.clear()
        self._show_in_flight()
        self._release(database, [*unanswered, *self._drain_pending()])

    def _drain_pending(self) -> list[OutboxRow]:
        rows = list(self._pending)
        self._pending.clear()
        return rows

    def _release(self, database: Database, rows: Iterable[OutboxRow]) -> None:
        rows = list(rows)
        self._suspects.difference_update(row.event_id for row in rows)
        if rows:
            self.client.release(database, rows)

    def _show_in_flight(self) -> None:
        self.client.metrics.sink_in_flight.labels(self.client.name).set(len(self._in_flight))
