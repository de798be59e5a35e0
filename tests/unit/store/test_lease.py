"""The leased queue against a model: random claims, acks, nacks, snoozes, burials, revivals, expiries and crashes."""

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from pipeline.process.clock import ManualClock
from pipeline.store import inbox, outbox
from pipeline.store.database import Database, Row, Tx
from pipeline.store.inbox import Arrival
from pipeline.store.lease import DeadLetter, LeaseQueue, Postponed, Receipt
from pipeline.store.sinks import SinkName
from stages.saver import MAX_CLAIMS
from tests.support.seeds import seeds

START = 1_700_000_000_000


@dataclass
class ModelRow:
    """What the table should say of one row; `group` is the sink of an outbox row."""

    item: bytes
    group: str
    ready_at: int
    claims: int = 0
    failures: int = 0


@dataclass
class Model:
    """The queue as a dict, and every number and item that was ever committed."""

    rows: dict[int, ModelRow] = field(default_factory=dict)
    dead: dict[int, ModelRow] = field(default_factory=dict)
    done: set[bytes] = field(default_factory=set)
    numbers: set[int] = field(default_factory=set)

    def held(self, receipt: Receipt) -> bool:
        row = self.rows.get(receipt.seq)
        return row is not None and row.claims == receipt.claims

    def claim(self, group: str, now: int, lease: int, limit: int) -> list[Receipt]:
        ready = sorted(
            (row.ready_at, seq) for seq, row in self.rows.items() if row.group == group and row.ready_at <= now
        )
        for _, seq in ready[:limit]:
            self.rows[seq].ready_at = now + lease
            self.rows[seq].claims += 1
        return [Receipt(seq, self.rows[seq].claims) for seq in sorted(seq for _, seq in ready[:limit])]

    def postpone(self, receipts: Sequence[Receipt], ready_at: int, *, failed: bool) -> int:
        held = [receipt for receipt in receipts if self.held(receipt)]
        for receipt in held:
            self.rows[receipt.seq].ready_at = ready_at
            self.rows[receipt.seq].failures += failed
        return len(held)

    def ack(self, receipts: Sequence[Receipt]) -> int:
        held = [receipt for receipt in receipts if self.held(receipt)]
        self.done |= {self.rows.pop(receipt.seq).item for receipt in held}
        return len(held)

    def bury(self, receipts: Sequence[Receipt]) -> int:
        held = [receipt for receipt in receipts if self.held(receipt)]
        self.dead |= {receipt.seq: self.rows.pop(receipt.seq) for receipt in held}
        return len(held)

    def revive(self, seqs: Sequence[int], numbers: Mapping[bytes, int], now: int) -> int:
        known = [self.dead.pop(seq) for seq in seqs if seq in self.dead]
        for row in known:
            self.take(row.item, row.group, numbers, now)
        return len(known)

    def take(self, item: bytes, group: str, numbers: Mapping[bytes, int], now: int) -> None:
        """Note a row that the table has under one of `numbers`; each must be a number that never was before."""
        assert numbers[item] not in self.numbers, "a number came back"
        self.numbers.add(numbers[item])
        self.rows[numbers[item]] = ModelRow(item, group, now)

    def forget(self, seqs: Sequence[int]) -> int:
        known = [seq for seq in seqs if seq in self.dead]
        self.done |= {self.dead.pop(seq).item for seq in known}
        return len(known)


class Table(ABC):
    """One of the two queue tables, driven the same way."""

    name: str
    queue: LeaseQueue
    groups: Sequence[str]

    @abstractmethod
    def append(self, tx: Tx, items: Sequence[bytes], group: str, now: int) -> set[bytes]: ...

    @abstractmethod
    def claim(self, tx: Tx, group: str, now: int, lease: int, limit: int) -> list[Receipt]: ...

    @abstractmethod
    def rows(self, tx: Tx, table: str, more: str) -> list[Row]: ...


class Inbox(Table):
    name = "inbox"
    queue = inbox.queue
    groups = ("",)

    def append(self, tx: Tx, items: Sequence[bytes], group: str, now: int) -> set[bytes]:
        return inbox.append(tx, [Arrival(item, b"raw " + item, 1, now, 1) for item in items])

    def claim(self, tx: Tx, group: str, now: int, lease: int, limit: int) -> list[Receipt]:
        rows = inbox.claim(tx, now=now, lease=lease, limit=limit)
        assert all(row.raw == b"raw " + row.event_id and row.relay == 1 for row in rows)
        return [row.receipt for row in rows]

    def rows(self, tx: Tx, table: str, more: str) -> list[Row]:
        return tx.execute(f"SELECT seq, event_id, '', claims, failures{more} FROM {table}").fetchall()


class Outbox(Table):
    name = "outbox"
    queue = outbox.queue
    groups = (SinkName.PUBSUB, SinkName.RELAY)

    def append(self, tx: Tx, items: Sequence[bytes], group: str, now: int) -> set[bytes]:
        fresh = [item for item in items if not self._known(tx, item)]
        outbox.append(tx, SinkName(group), [int.from_bytes(item) for item in fresh], now)
        return set(fresh)

    def claim(self, tx: Tx, group: str, now: int, lease: int, limit: int) -> list[Receipt]:
        rows = outbox.claim(tx, SinkName(group), now=now, lease=lease, limit=limit)
        return [row.receipt for row in rows]

    def rows(self, tx: Tx, table: str, more: str) -> list[Row]:
        rows: list[Row] = tx.execute(f"SELECT seq, event, sink, claims, failures{more} FROM {table}").fetchall()
        return [(seq, event.to_bytes(32), *rest) for seq, event, *rest in rows]

    @staticmethod
    def _known(tx: Tx, item: bytes) -> bool:
        event = int.from_bytes(item)
        tables = ("outbox", "outbox_dead")
        return any(tx.execute(f"SELECT 1 FROM {table} WHERE event = ?", (event,)).fetchone() for table in tables)


class Crash(Exception):
    """Thrown inside a transaction, in the place of a process that dies there."""


class Machine:
    """Does the same random steps to the table and to the model, and compares them after each transaction."""

    def __init__(self, db: Database, table: Table, clock: ManualClock, rng: random.Random) -> None:
        self.db, self.table, self.clock, self.rng = db, table, clock, rng
        self.model = Model()
        self.receipts: list[Receipt] = []
        self.leased_until: dict[int, int] = {}
        self.items = [rng.randrange(1, 2**60).to_bytes(32) for _ in range(60)]
        self.counts = {"stale": 0, "held": 0, "crashed": 0}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            if self.rng.random() < 0.3:
                self.clock.advance(self.rng.choice((0.001, 0.5, 5, 40)))
            before = copy.deepcopy((self.model, self.leased_until))
            receipts = list(self.receipts)
            try:
                with self.db.write() as tx:
                    for _ in range(self.rng.randrange(1, 4)):
                        self.rng.choice(self.STEPS)(self, tx)
                    if self.rng.random() < 0.2:
                        raise Crash
            except Crash:
                self.counts["crashed"] += 1
                self.model, self.leased_until = before
                # What a crashed worker held in hand is worthless, but it may still try.
                self.receipts = receipts + [each for each in self.receipts[len(receipts) :] if self.rng.random() < 0.5]
            self.compare()

    def compare(self) -> None:
        with self.db.read() as tx:
            rows = self.table.rows(tx, self.table.name, ", ready_at")
            dead = self.table.rows(tx, f"{self.table.name}_dead", "")
        model = self.model
        assert sorted(rows) == [
            (seq, row.item, row.group, row.claims, row.failures, row.ready_at)
            for seq, row in sorted(model.rows.items())
        ]
        assert sorted(dead) == [
            (seq, row.item, row.group, row.claims, row.failures) for seq, row in sorted(model.dead.items())
        ]

    def some_receipts(self) -> list[Receipt]:
        """Distinct receipts, many of them stale or made up."""
        known = self.rng.sample(self.receipts[-80:], min(len(self.receipts), self.rng.randrange(0, 12)))
        made_up = [
            Receipt(seq, row.claims + self.rng.choice((-1, 1)))
            for seq, row in self.model.rows.items()
            if self.rng.random() < 0.1
        ]
        chosen = list(dict.fromkeys([*known, *made_up]))
        for receipt in chosen:
            self.counts["held" if self.model.held(receipt) else "stale"] += 1
        return chosen

    def numbers(self, tx: Tx) -> dict[bytes, int]:
        return {item: seq for seq, item, *_ in self.table.rows(tx, self.table.name, "")}

    def release(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            if self.model.held(receipt):
                self.leased_until.pop(receipt.seq, None)

    def step_append(self, tx: Tx) -> None:
        group = self.rng.choice(self.table.groups)
        items = self.rng.sample(self.items, self.rng.randrange(1, 8))
        now = self.clock.now_ms()
        present = {row.item for row in (*self.model.rows.values(), *self.model.dead.values())}
        new = self.table.append(tx, items, group, now)
        assert new == set(items) - present
        for item in new:
            self.model.take(item, group, self.numbers(tx), now)
        self.model.done -= new

    def step_claim(self, tx: Tx) -> None:
        group, now = self.rng.choice(self.table.groups), self.clock.now_ms()
        lease, limit = self.rng.choice((1_000, 30_000)), self.rng.randrange(1, 12)
        claimed = self.table.claim(tx, group, now, lease, limit)
        assert claimed == self.model.claim(group, now, lease, limit)
        for receipt in claimed:
            assert self.leased_until.get(receipt.seq, now) <= now, "claimed while leased to somebody else"
            self.leased_until[receipt.seq] = now + lease
        self.receipts += claimed

    def step_ack(self, tx: Tx) -> None:
        receipts = self.some_receipts()
        self.release(receipts)
        assert self.table.queue.ack(tx, receipts) == self.model.ack(receipts)

    def step_nack(self, tx: Tx) -> None:
        receipts, ready_at = self.some_receipts(), self.clock.now_ms() + self.rng.choice((0, 2_000, 60_000))
        self.release(receipts)
        rows = [Postponed(receipt, ready_at) for receipt in receipts]
        assert self.table.queue.nack(tx, rows) == self.model.postpone(receipts, ready_at, failed=True)

    def step_snooze(self, tx: Tx) -> None:
        receipts, ready_at = self.some_receipts(), self.clock.now_ms() + self.rng.choice((0, 2_000))
        self.release(receipts)
        rows = [Postponed(receipt, ready_at) for receipt in receipts]
        assert self.table.queue.postpone(tx, rows) == self.model.postpone(receipts, ready_at, failed=False)

    def step_release(self, tx: Tx) -> None:
        receipts, ready_at = self.some_receipts(), self.clock.now_ms()
        self.release(receipts)
        rows = [Postponed(receipt, ready_at) for receipt in receipts]
        assert self.table.queue.release(tx, rows) == self.model.postpone(receipts, ready_at, failed=False)

    def step_extend(self, tx: Tx) -> None:
        receipts, until = self.some_receipts(), self.clock.now_ms() + 20_000
        for receipt in receipts:
            if self.model.held(receipt):
                self.leased_until[receipt.seq] = until
        assert self.table.queue.renew(tx, receipts, until) == self.model.postpone(receipts, until, failed=False)

    def step_bury(self, tx: Tx) -> None:
        receipts, now = self.some_receipts()[:3], self.clock.now_ms()
        self.release(receipts)
        burials = [DeadLetter(receipt, "why") for receipt in receipts]
        assert self.table.queue.dead_letter(tx, burials, now) == self.model.bury(receipts)

    def step_revive(self, tx: Tx) -> None:
        seqs = [seq for seq in (*self.model.dead, 10**9) if self.rng.random() < 0.5]
        now = self.clock.now_ms()
        revived = self.table.queue.requeue(tx, seqs, now)
        assert revived == self.model.revive(seqs, self.numbers(tx), now)

    def step_forget(self, tx: Tx) -> None:
        seqs = [seq for seq in self.model.dead if self.rng.random() < 0.2]
        assert self.table.queue.purge(tx, seqs) == self.model.forget(seqs)

    STEPS = (
        step_append, step_append, step_claim, step_claim, step_claim, step_ack, step_nack, step_snooze, step_release,
        step_extend, step_bury, step_revive, step_forget,
    )  # fmt: skip


@pytest.mark.parametrize("seed", seeds(4))
@pytest.mark.parametrize("table", [Inbox(), Outbox()], ids=["inbox", "outbox"])
def test_the_queue_does_what_the_model_does(db: Database, clock: ManualClock, table: Table, seed: int) -> None:
    """Claims are disjoint while leased, stale receipts change nothing, nothing is lost, no number comes back."""
    print(f"seed {seed}")
    machine = Machine(db, table, clock, random.Random(seed))
    machine.run(400)
    assert min(machine.counts.values()) > 10, machine.counts


def one_row(db: Database, item: bytes = b"i" * 32) -> Receipt:
    with db.write() as tx:
        inbox.append(tx, [Arrival(item, b"{}", 1, START, 1)])
        return inbox.claim(tx, now=START, lease=1_000, limit=1)[0].receipt


def test_expired_lease_goes_to_the_next_and_its_old_holder_changes_nothing(db: Database) -> None:
    first = one_row(db)
    with db.write() as tx:
        assert inbox.claim(tx, now=START + 999, lease=1_000, limit=9) == []
        second = inbox.claim(tx, now=START + 1_000, lease=1_000, limit=9)[0].receipt
        assert second == Receipt(first.seq, first.claims + 1)
        assert inbox.queue.ack(tx, [first]) == 0
        assert inbox.queue.nack(tx, [Postponed(first, 0)]) == 0
        assert inbox.queue.postpone(tx, [Postponed(first, 0)]) == 0
        assert inbox.queue.renew(tx, [first], 2**40) == 0
        assert inbox.queue.dead_letter(tx, [DeadLetter(first, "stale")], START) == 0
        assert inbox.claim(tx, now=START + 1_999, lease=1, limit=9) == []
        assert inbox.queue.ack(tx, [second]) == 1
        assert inbox.waiting(tx) == inbox.dead(tx) == 0


def test_what_a_process_died_with_is_given_back_to_the_next_in_its_slot(db: Database) -> None:
    """Not what others hold, nor what was put off; and not for ever what its holders keep dying with."""
    with db.write() as tx:
        inbox.append(tx, [Arrival(bytes([number]) * 32, b"{}", 1, START, 1) for number in range(5)])

        def claim(limit: int, holder: str, now: int = START) -> list[Receipt]:
            return [row.receipt for row in inbox.claim(tx, now=now, lease=1_000, limit=limit, holder=holder)]

        mine, failed, late, extended = claim(4, "saver-0")
        (theirs,) = claim(1, "saver-1")
        inbox.queue.nack(tx, [Postponed(failed, START + 500)])
        inbox.queue.postpone(tx, [Postponed(late, START + 600)])
        inbox.queue.renew(tx, [extended], START + 9_000)
        assert inbox.queue.release_all(tx, "saver-0", START) == 2
        assert [receipt.seq for receipt in claim(9, "saver-0")] == [mine.seq, extended.seq]
        assert inbox.queue.ack(tx, [mine]) == 0, "the dead one's receipts are worth nothing"
        assert inbox.queue.release_all(tx, "saver-0", START) == 2
        assert len(claim(9, "saver-0")) == 2
        assert inbox.queue.release_all(tx, "saver-0", START) == 0, "the third time"
        assert claim(9, "saver-0") == []
        assert inbox.queue.release_all(tx, "saver-1", START) == 1
        assert [receipt.seq for receipt in claim(9, "saver-1", START + 999)] == [failed.seq, late.seq, theirs.seq]


def test_a_row_that_is_ready_already_is_not_put_off_by_being_given_back(db: Database) -> None:
    """An expired lease stays as old as it is, so that its row keeps its place."""
    with db.write() as tx:
        inbox.append(tx, [Arrival(bytes(32), b"{}", 1, START, 1)])
        inbox.claim(tx, now=START, lease=10, limit=1, holder="saver-0")
        assert inbox.queue.release_all(tx, "saver-0", START + 50) == 1
        assert inbox.next_ready_at(tx) == START + 10


def test_a_number_does_not_come_back_after_the_queue_has_run_empty(db: Database) -> None:
    """A plain rowid would be given again, and the stale receipt would delete the new row."""
    first = one_row(db)
    with db.write() as tx:
        assert inbox.queue.ack(tx, [first]) == 1
    second = one_row(db, b"j" * 32)
    assert second.seq > first.seq
    with db.write() as tx:
        assert inbox.queue.ack(tx, [first]) == 0
        assert inbox.waiting(tx) == 1


def test_receipts_of_the_first_life_do_not_fit_a_revived_row(db: Database) -> None:
    receipt = one_row(db)
    with db.write() as tx:
        assert inbox.queue.dead_letter(tx, [DeadLetter(receipt, "broken")], START) == 1
        assert inbox.queue.ack(tx, [receipt]) == 0
        assert inbox.queue.requeue(tx, [receipt.seq], START) == 1
        revived = inbox.claim(tx, now=START, lease=1, limit=1)[0]
        assert revived.receipt.seq > receipt.seq
        assert (revived.event_id, revived.failures) == (b"i" * 32, 0)
        assert inbox.queue.ack(tx, [receipt]) == 0


def test_the_dead_row_keeps_everything_and_its_reason(db: Database) -> None:
    receipt = one_row(db)
    with db.write() as tx:
        inbox.queue.nack(tx, [Postponed(receipt, START)])
        again = inbox.claim(tx, now=START, lease=1, limit=1)[0].receipt
        inbox.queue.dead_letter(tx, [DeadLetter(again, "too many failures")], START + 7)
        row = tx.execute(
            "SELECT seq, event, event_id, relay, received_at, claims, failures, reason, buried_at FROM inbox_dead"
        ).fetchall()
    assert row == [(receipt.seq, receipt.seq, b"i" * 32, 1, START, 2, 1, "too many failures", START + 7)]


def test_the_same_receipt_or_number_twice_counts_once(db: Database) -> None:
    """A caller who repeats himself must not bring the whole transaction down."""
    receipt = one_row(db)
    with db.write() as tx:
        assert inbox.queue.dead_letter(tx, [DeadLetter(receipt, "once"), DeadLetter(receipt, "twice")], START) == 1
        assert inbox.queue.requeue(tx, [receipt.seq, receipt.seq], START) == 1
        assert (inbox.waiting(tx), inbox.dead(tx)) == (1, 0)


def test_transitions_join_the_transaction_of_their_caller(db: Database) -> None:
    """Handing over, as the saver does it, is all or nothing."""
    receipt = one_row(db)
    with pytest.raises(Crash), db.write() as tx:  # noqa: PT012  (the crash must come after both steps)
        outbox.append(tx, SinkName.PUBSUB, [receipt.seq], START)
        assert inbox.queue.ack(tx, [receipt]) == 1
        raise Crash
    with db.write() as tx:
        assert (inbox.waiting(tx), outbox.waiting(tx, SinkName.PUBSUB)) == (1, 0)
        assert inbox.queue.ack(tx, [receipt]) == 1


def test_a_revived_row_may_be_claimed_as_often_as_a_new_one(db: Database) -> None:
    receipt = one_row(db)
    with db.write() as tx:
        for _ in range(MAX_CLAIMS):
            receipt = inbox.claim(tx, now=START + 10**6, lease=0, limit=1)[0].receipt
        assert receipt.claims > MAX_CLAIMS
        inbox.queue.dead_letter(tx, [DeadLetter(receipt, "too many claims")], START)
        inbox.queue.requeue(tx, [receipt.seq], START)
        assert inbox.claim(tx, now=START, lease=0, limit=1)[0].receipt.claims == 1
