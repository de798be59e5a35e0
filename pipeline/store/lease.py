"""The leased queue: one shape of table, one way to take work from it and to give it back.

`ready_at` alone says where a row stands: in the past it may be claimed, in the future it is leased or backing off. A
claim hands out a `Receipt`; every later step names it, and does nothing if the row has been claimed again since. Rows
come out of order by nature: what is leased or backing off lies outside the range that a claim looks at.

Times are integer milliseconds. All functions must be called inside a write transaction and may share it with others.
Rows and receipts are named tuples: there is one of each per event, and a frozen dataclass costs three times as much.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.printable import printable
from pipeline.store.database import Tx

FREED_AT_MOST: Final = 2
"""How often a row is given back at once when its holder dies; after that it has to wait for the end of its lease."""

MAX_LEASE_MS: Final = 600_000
MAX_WAIT_MS: Final = 2 * 3_600_000
"""No lease is as long as the one, no backoff after a failure as the other: a row that is ready later than that was put
off by a clock that was ahead."""


class Receipt(NamedTuple):
    """Proof of one claim of one row; worthless once the row is claimed again."""

    seq: int
    claims: int


class Postponed(NamedTuple):
    """A receipt and when its row is to be ready again."""

    receipt: Receipt
    ready_at: int


class QueueSize(NamedTuple):
    """How many rows there are, and the bytes of their events."""

    events: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Burial:
    """A receipt and why its row is given up."""

    receipt: Receipt
    reason: str


@dataclass(frozen=True, slots=True)
class QueueStatements:
    """The statements of one queue table."""

    ack: str
    nack: str
    forgive: str
    snooze: str
    release: str
    extend: str
    free: str
    bury: str
    revive: str
    forget_dead: str

    @classmethod
    def of(cls, table: str, columns: str) -> "QueueStatements":
        """For `table`, whose own columns beside those of the queue are `columns`, as a comma-separated list."""
        return cls(
            ack=f"DELETE FROM {table} WHERE seq = ? AND claims = ?",  # noqa: S608 (names come from this package)
            nack=f"UPDATE {table} SET ready_at = ?, holder = NULL, failures = failures + 1"  # noqa: S608
            " WHERE seq = ? AND claims = ?",
            forgive=f"UPDATE {table} SET failures = failures - 1 WHERE seq = ? AND claims = ? AND failures > 0",  # noqa: S608
            snooze=f"UPDATE {table} SET ready_at = ?, holder = NULL WHERE seq = ? AND claims = ?",  # noqa: S608
            release=f"UPDATE {table} SET ready_at = ?, holder = NULL, returned = returned + 1"  # noqa: S608
            " WHERE seq = ? AND claims = ?",
            extend=f"UPDATE {table} SET ready_at = ? WHERE seq = ? AND claims = ?",  # noqa: S608
            free=f"UPDATE {table} SET ready_at = min(ready_at, ?), holder = NULL"  # noqa: S608
            " WHERE holder = ? AND claims - failures - returned < ?",
            bury=f"INSERT INTO {table}_dead (seq, {columns}, claims, failures, reason, buried_at)"  # noqa: S608
            f" SELECT seq, {columns}, claims, failures, ?, ? FROM {table} WHERE seq = ? AND claims = ?",
            # Under a new number: no receipt of the first life fits the second, whose claims begin anew.
            revive=f"INSERT INTO {table} ({columns}, ready_at)"  # noqa: S608
            f" SELECT {columns}, ? FROM {table}_dead WHERE seq = ?",
            forget_dead=f"DELETE FROM {table}_dead WHERE seq = ?",  # noqa: S608
        )


class LeaseQueue:
    """The transitions that every queue table shares; claiming is each table's own, since its rows differ."""

    __slots__ = ("_statements",)

    def __init__(self, statements: QueueStatements) -> None:
        self._statements = statements

    def ack(self, tx: Tx, receipts: Iterable[Receipt]) -> int:
        """Remove rows whose work is done; returns how many receipts still held."""
        return _each(tx, self._statements.ack, receipts)

    def nack(self, tx: Tx, rows: Iterable[Postponed]) -> int:
        """Give rows back after a failure of their own; returns how many receipts still held."""
        return _postpone(tx, self._statements.nack, rows)

    def forgive(self, tx: Tx, receipts: Iterable[Receipt]) -> int:
        """Take back one failure of each, which was not its own; returns how many receipts still held."""
        return _each(tx, self._statements.forgive, receipts)

    def snooze(self, tx: Tx, rows: Iterable[Postponed]) -> int:
        """Put rows off without blame."""
        return _postpone(tx, self._statements.snooze, rows)

    def release(self, tx: Tx, rows: Iterable[Postponed]) -> int:
        """Give rows back that nothing was wrong with, as when the stage stops; the claim counts for nothing."""
        return _postpone(tx, self._statements.release, rows)

    def extend(self, tx: Tx, receipts: Iterable[Receipt], until: int) -> int:
        """Hold rows until a later time; returns how many receipts still held."""
        return _postpone(tx, self._statements.extend, (Postponed(receipt, until) for receipt in receipts))

    def free(self, tx: Tx, holder: str, now: int) -> int:
        """Give back at once what a process held that is known to be gone; returns how many rows that were.

        What was lost in this way `FREED_AT_MOST` times already keeps its lease: somebody may be dying of it, and the
        others should come first. Walks over the whole queue, so it is for a stage that starts.
        """
        before = tx.total_changes()
        tx.execute(self._statements.free, (now, holder, FREED_AT_MOST + 1))
        return tx.total_changes() - before

    def bury(self, tx: Tx, burials: Sequence[Burial], now: int) -> int:
        """Move rows to the dead table with their reason; returns how many receipts still held."""
        # Mostly a sink's own words.
        reasons = {burial.receipt: printable(burial.reason) for burial in reversed(burials)}
        copied = _each(
            tx,
            self._statements.bury,
            ((reason, now, receipt.seq, receipt.claims) for receipt, reason in reasons.items()),
        )
        self.ack(tx, reasons)
        return copied

    def revive(self, tx: Tx, seqs: Sequence[int], now: int) -> int:
        """Put dead rows back as if they were new, under new numbers; returns how many there were."""
        revived = _each(tx, self._statements.revive, ((now, seq) for seq in set(seqs)))
        self.forget_dead(tx, seqs)
        return revived

    def forget_dead(self, tx: Tx, seqs: Iterable[int]) -> int:
        """Drop dead rows for good; returns how many there were."""
        return _each(tx, self._statements.forget_dead, ((seq,) for seq in seqs))


def _postpone(tx: Tx, statement: str, rows: Iterable[Postponed]) -> int:
    return _each(tx, statement, ((row.ready_at, row.receipt.seq, row.receipt.claims) for row in rows))


def _each(tx: Tx, statement: str, bindings: Iterable[tuple[int | str, ...]]) -> int:
    before = tx.total_changes()
    tx.executemany(statement, bindings)
    return tx.total_changes() - before
