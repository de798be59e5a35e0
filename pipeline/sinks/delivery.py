"""From outbox rows to a sink and back, batch by batch; `stream.py` does it for a sink that answers one by one.

A batch is claimed, delivered and settled. Each row's fate is its own: delivered, refused for good (and said so in
`deliveries`, or buried where that is not in the order of things), put off after a failure of its own, or buried after
too many. While a sink is down the rows are held on to and offered again, so that an outage, however long, counts
against none of them.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.sinks.base import Delivered, Refused, Retry, Sink, SinkDown, Verdict, Verdicts
from pipeline.sinks.ledger import message_of
from pipeline.sinks.loop import SinkLoop
from pipeline.sinks.suspects import next_batch
from pipeline.store.database import Database
from pipeline.store.outbox import OutboxRow
from pipeline.store.waiting import POLL_S, CommitWatch

# A lease this old is renewed before the next of several batches.
RENEW_AFTER_S: Final = 5.0
# How long the loop waits for a commit before it looks whether put-off rows are due.
_IDLE_POLLS: Final = round(1.0 / POLL_S)


@dataclass(slots=True)
class Delivery(SinkLoop):
    """One thread's loop for one sink that answers batches."""

    sink: Sink
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held while claiming or waiting for something to claim: of loops that share it, one looks and wakes for all."""

    def run(self, database: Database) -> None:
        """Deliver until stopped; what is claimed but not delivered by then is given back at once."""
        watch = CommitWatch(database)
        while not self.stop.is_set():
            self.beat()
            rows = self._next(database, watch)
            if rows:
                self._deliver(database, rows)

    def _next(self, database: Database, watch: CommitWatch) -> list[OutboxRow]:
        """What is ready to be delivered; [] after about a second without, or after something was committed."""
        if not self.turn.acquire(timeout=_IDLE_POLLS * POLL_S):
            return []
        try:
            rows = self.ledger.claim(database, self.sink.max_messages)
            if not rows:
                self.sink.keep_alive()
                watch.wait(self.stop, _IDLE_POLLS)
            return rows
        finally:
            self.turn.release()

    def _deliver(self, database: Database, rows: list[OutboxRow]) -> None:
        """See every one of `rows` settled, however long the sink is down; or give back what is left when stopped."""
        leased_at = self.now()
        while rows and not self.stop.is_set():
            self.beat()
            if self.now() - leased_at > RENEW_AFTER_S:
                if not self.ledger.hold(database, rows, 0.0):
                    break
                leased_at = self.now()
            batch = next_batch(rows)
            began = self.now()
            self.outage.called(began)
            verdicts, down = self._offer(batch)
            self._note_outcome(verdicts, down)
            self._note_retries(verdicts, down)
            judged, left = _judged(batch, verdicts)
            self.ledger.settle(database, judged, self.now() - began)
            rows = left + rows[len(batch) :]
            if down is None:
                continue
            wait_s = self.note_down(down, len(rows))
            leased_at = self.now() + wait_s
            if not self.ledger.hold(database, rows, wait_s):
                break
            self.leave_alone(wait_s)
        self.outage.over()
        if rows:
            self.ledger.give_back(database, rows)

    def _offer(self, rows: Sequence[OutboxRow]) -> tuple[Verdicts, SinkDown | None]:
        """What the sink says of `rows`, and whether it is down; an unforeseen error is traced to the row at fault."""
        try:
            return self._call(rows), None
        except SinkDown as down:
            return [*down.verdicts, *[None] * (len(rows) - len(down.verdicts))], down
        except Exception as error:
            failure = error
        if len(rows) == 1:
            return [self.ledger.note_failure(rows[0], failure)], None
        middle = len(rows) // 2
        first, is_down = self._offer(rows[:middle])
        if is_down is not None:
            return [*first, *[None] * (len(rows) - middle)], is_down
        second, is_down = self._offer(rows[middle:])
        return [*first, *second], is_down

    def _call(self, rows: Sequence[OutboxRow]) -> Verdicts:
        metrics, name = self.ledger.metrics, self.ledger.name
        in_flight = metrics.sink_in_flight.labels(name)
        metrics.sink_batch.labels(name).observe(len(rows))
        in_flight.inc(len(rows))
        try:
            with metrics.sink_call.labels(name).time():
                return self.sink.deliver([message_of(row) for row in rows])
        finally:
            in_flight.dec(len(rows))

    def _note_outcome(self, verdicts: Verdicts, down: SinkDown | None) -> None:
        if down is not None:
            self.outage.failed(down, self.now())
        elif any(isinstance(verdict, Delivered | Refused) for verdict in verdicts):
            self.outage.worked(self.now())
        else:
            # Events that are to be offered again may not have been answered at all, or be at fault themselves.
            self.outage.over()

    def _note_retries(self, verdicts: Verdicts, down: SinkDown | None) -> None:
        reasons = Counter(verdict.reason for verdict in verdicts if isinstance(verdict, Retry))
        if down is not None:
            reasons[down.reason] += sum(verdict is None for verdict in verdicts)
        self.ledger.note_retries(reasons)


def _judged(rows: Sequence[OutboxRow], verdicts: Verdicts) -> tuple[list[tuple[OutboxRow, Verdict]], list[OutboxRow]]:
    """The rows with a verdict, and those without."""
    pairs = list(zip(rows, verdicts, strict=True))
    judged = [(row, verdict) for row, verdict in pairs if verdict is not None]
    return judged, [row for row, verdict in pairs if verdict is None]
