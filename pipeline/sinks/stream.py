"""From outbox rows to a sink that answers one by one: many are under way, and no answer is waited for by the others.

Rows are sent as there is room, each is settled by its own answer whenever that comes, and what takes its time takes it
alone. While the sink is down the rows are held and sent again, blamed for nothing; but those that were under way when
it broke go one by one afterwards, and who is under way alone when it breaks again is put off; the second time it is
refused, where only its size can be the cause.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.process.metrics import Observations
from pipeline.sinks.base import Delivered, Refused, Retry, SinkDown, StreamSink, Verdict
from pipeline.sinks.breakers import Breakers
from pipeline.sinks.ledger import CLAIM_STEP, LEASE_MS, message_of
from pipeline.sinks.loop import SinkLoop
from pipeline.sinks.suspects import TOGETHER, most_together
from pipeline.store.database import Database
from pipeline.store.outbox import OutboxRow
from pipeline.store.waiting import POLL_S, CommitWatch

# Leases are renewed this often, long before their end.
RENEW_EVERY_S: Final = LEASE_MS / 4000
# A suspect that has had no answer for so long and broke nothing stands in nobody's way any more.
PROBATION_S: Final = 2.0
# How long rows are sent before there is a look at answers, leases and the stop.
_SENDING_S: Final = 1.0
# How long a process that is to end waits for answers; what is unanswered is sent again by the next.
LAST_ANSWERS_S: Final = 3.0
# How long put-off rows that are due may wait for somebody to look.
_IDLE_POLLS: Final = round(1.0 / POLL_S)


_TOO_LARGE: Final = Refused("too-large")


class _Sent(NamedTuple):
    row: OutboxRow
    at: float


class _Settled(NamedTuple):
    row: OutboxRow
    verdict: Verdict


@dataclass(slots=True)
class Stream(SinkLoop):
    """One thread's loop for one sink that answers message by message."""

    sink: StreamSink
    _ready: deque[OutboxRow] = field(default_factory=deque)
    """Claimed and to be sent, in this order."""
    _under_way: dict[bytes, _Sent] = field(default_factory=dict)
    _settled: list[_Settled] = field(default_factory=list)
    """Answered, and to be written down."""
    _suspects: set[bytes] = field(default_factory=set)
    """What was under way when the sink broke, until it is answered."""
    _breakers: Breakers = field(default_factory=Breakers)
    _restricted: set[bytes] = field(default_factory=set)
    """What is under way and may be together with few others only."""
    _is_quiet: bool = True
    """There are no answers to come, or the last wait for them brought none."""
    _looked_at: float | None = None
    """When there was nothing more to claim; None if there may be more."""
    _renewed_at: float = 0.0
    _heard_at: float = -math.inf

    def run(self, database: Database) -> None:
        """Send until stopped; then wait a moment for answers, and give back at once what has none."""
        watch = CommitWatch(database)
        self._renewed_at = self.now()
        while not self.stop.is_set():
            self.beat()
            try:
                self._send()
                self._collect(POLL_S if self._under_way else 0.0)
            except SinkDown as down:
                self._go_down(database, down)
                continue
            if self._is_quiet or len(self._settled) >= CLAIM_STEP:
                self._settle(database)
            self._renew(database)
            self._claim(database, watch)
            if not self._under_way:
                self._idle(watch)
        self._finish(database)

    def _claim(self, database: Database, watch: CommitWatch) -> None:
        """Take what there is room for; while answers come quickly, not for a few rows only."""
        room = self.sink.room() - len(self._ready)
        if room <= 0 or (room < CLAIM_STEP and not self._is_quiet):
            return
        is_due = self._looked_at is None or self.now() - self._looked_at >= _IDLE_POLLS * POLL_S
        if not watch.changed() and not is_due:
            return
        rows = self.ledger.claim(database, room)
        self._ready.extend(rows)
        self._looked_at = None if rows else self.now()

    def _idle(self, watch: CommitWatch) -> None:
        """With nothing to wait for from the sink: wait for a commit, or for the time that the sink takes more."""
        if self._ready:
            self.outage.heard(self.now())
            self.stop.wait(0.0 if self.sink.room() else POLL_S)
            return
        self.outage.over()
        if (self._looked_at is not None or not self.sink.room()) and watch.wait(self.stop, _IDLE_POLLS):
            self._looked_at = None

    def _send(self) -> None:
        """Put under way what may be; raises `SinkDown`."""
        sent, until = 0, self.now() + _SENDING_S
        try:
            while self._ready and self.sink.room() > 0 and self._may_go(self._ready[0]) and self.now() < until:
                if not self._under_way:
                    self.outage.called(self.now())
                self.sink.open()
                row = self._ready.popleft()
                if self._breakers.is_too_large(len(row.payload), self.now()):
                    self._settled.append(_Settled(row, _TOO_LARGE))
                    continue
                self._begin(row)
                try:
                    self.sink.send(message_of(row))
                except SinkDown:
                    raise
                except Exception as error:
                    self._end(row.event_id, self.ledger.note_failure(row, error))
                else:
                    sent += 1
        finally:
            if sent:
                self.ledger.metrics.sink_batch.labels(self.ledger.name).observe(sent)
                self._show_under_way()

    def _begin(self, row: OutboxRow) -> None:
        self._under_way[row.event_id] = _Sent(row, self.now())
        if self._most_together(row) < TOGETHER[0]:
            self._restricted.add(row.event_id)

    def _end(self, event_id: bytes, verdict: Verdict | None) -> None:
        row = self._under_way.pop(event_id).row
        self._restricted.discard(event_id)
        if verdict is None:
            self._ready.appendleft(row)
        else:
            self._suspects.discard(event_id)
            self._settled.append(_Settled(row, verdict))

    def _may_go(self, row: OutboxRow) -> bool:
        """Whether `row` may be under way together with those that are, as far as they may still break something."""
        most = self._most_together(row)
        if most == TOGETHER[0] and not self._restricted:
            return True
        since = self.now() - PROBATION_S
        beside = [sent.row for sent in self._under_way.values() if sent.at > since]
        return len(beside) < min([most, *map(self._most_together, beside)])

    def _most_together(self, row: OutboxRow) -> int:
        return 1 if row.event_id in self._suspects or row.event_id in self._breakers else most_together(row)

    def _collect(self, timeout_s: float) -> None:
        """Wait for answers, and take those that come right after as well; raises `SinkDown`."""
        until = self.now() + POLL_S
        taken = self._take(timeout_s)
        more = taken
        while more and self._under_way and taken < CLAIM_STEP and (left := until - self.now()) > 0:
            more = self._take(left)
            taken += more
        self._is_quiet = not more or not self._under_way
        if taken:
            self._show_under_way()
        if self._under_way and (heard_at := self.sink.heard_at()) > self._heard_at:
            self._heard_at = heard_at
            self.outage.heard(heard_at)

    def _take(self, timeout_s: float) -> int:
        """Take the answers of one wait; returns how many there were."""
        answers = self.sink.collect(timeout_s)
        if answers:
            now = self.now()
            took_s = [now - self._under_way[event_id].at for event_id, _ in answers]
            Observations(self.ledger.metrics.sink_call.labels(self.ledger.name)).record(took_s)
            if any(isinstance(verdict, Delivered | Refused) for _, verdict in answers):
                self.outage.worked(now)
        for event_id, verdict in answers:
            if isinstance(verdict, Delivered):
                self._breakers.on_delivered(event_id, len(self._under_way[event_id].row.payload))
        # Backwards, so that what is to be sent again keeps its order.
        for event_id, verdict in reversed(answers):
            self._end(event_id, verdict)
        return len(answers)

    def _settle(self, database: Database) -> None:
        if not self._settled:
            return
        settled, self._settled = self._settled, []
        reasons = Counter(each.verdict.reason for each in settled if isinstance(each.verdict, Retry))
        self.ledger.note_retries(reasons)
        self.ledger.settle(database, settled, 0.0)

    def _renew(self, database: Database) -> None:
        """Keep what is held; what is not sent yet and may be somebody else's is let go."""
        if self.now() - self._renewed_at < RENEW_EVERY_S:
            return
        self._renewed_at = self.now()
        held = [*(sent.row for sent in self._under_way.values()), *self._ready]
        if held and not self.ledger.hold(database, held, 0.0):
            self._let_go(database, self._take_ready())

    def _go_down(self, database: Database, down: SinkDown) -> None:
        """Hold the rows until the sink is worth another try."""
        alone = {event_id for event_id in self._under_way if event_id in self._suspects or event_id in self._breakers}
        again = [event_id for event_id in self._under_way if event_id not in alone]
        for event_id in reversed(list(self._under_way)):
            self._end(event_id, self._verdict_on_breaker(event_id) if event_id in alone else None)
        self._suspects.update(again)
        self._show_under_way()
        self.ledger.note_retries(Counter({down.reason: len(self._ready)}))
        self._settle(database)
        self.outage.failed(down, self.now())
        wait_s = self.note_down(down, len(self._ready))
        self._renewed_at = self.now() + wait_s
        if self.ledger.hold(database, self._ready, wait_s):
            self.leave_alone(wait_s)
        else:
            self._let_go(database, self._take_ready())

    def _verdict_on_breaker(self, event_id: bytes) -> Verdict:
        payload = self._under_way[event_id].row.payload
        is_too_large = self._breakers.on_broken(event_id, len(payload), self.now())
        return _TOO_LARGE if is_too_large else Retry("disconnected")

    def _finish(self, database: Database) -> None:
        until = self.now() + LAST_ANSWERS_S
        while self._under_way and (left := until - self.now()) > 0:
            self.beat()
            try:
                self._collect(min(left, POLL_S))
            except SinkDown:
                break
        self._settle(database)
        unanswered = [sent.row for sent in self._under_way.values()]
        self._under_way.clear()
        self._show_under_way()
        self._let_go(database, [*unanswered, *self._take_ready()])

    def _take_ready(self) -> list[OutboxRow]:
        rows = list(self._ready)
        self._ready.clear()
        return rows

    def _let_go(self, database: Database, rows: Iterable[OutboxRow]) -> None:
        rows = list(rows)
        self._suspects.difference_update(row.event_id for row in rows)
        if rows:
            self.ledger.give_back(database, rows)

    def _show_under_way(self) -> None:
        self.ledger.metrics.sink_in_flight.labels(self.ledger.name).set(len(self._under_way))
