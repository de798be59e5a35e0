"""The leased queue: one shape of table, and the transitions of its rows.

`ready_at` alone is the state of a row: in the past it may be claimed, in the future it is leased or backing off. A
claim gives a `Receipt`. Every later step names it, and changes nothing if the row has been claimed again since.

    step          the row                        counted
    claim         is leased until `ready_at`     a claim
    renew         is leased for longer
    ack           is removed
    nack          is ready later                 a failure
    undo_failure  stays leased                   a failure less
    postpone      is ready later                 nothing
    release       is ready at `ready_at`, now    a return: the claim does not count as lost
    release_all   is ready now                   nothing: the claim counts as lost
    dead_letter   moves to the table of dead letters
    requeue       comes back from it under a new number
    purge         is removed from it

Rows are delivered out of order: a claim does not see those that are leased or backing off.

Times are integer milliseconds. All functions must be called inside a write transaction and may share it with others.
Rows and receipts are named tuples: there is one of each per event, and a frozen dataclass costs three times as much.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.printable import printable
from pipeline.store.database import Tx

MAX_RECLAIMS: Final = 2
"""How often a row is ready at once after its worker crashed; after that it waits for the end of its lease."""

MAX_LEASE_MS: Final = 600_000
MAX_WAIT_MS: Final = 2 * 3_600_000
"""Longer than any lease, and than any backoff: a row that is ready later was scheduled by a clock that was ahead."""


class Receipt(NamedTuple):
    """Proof of one claim of one row; worthless once the row is claimed again."""

    seq: int
    claims: int


class Postponed(NamedTuple):
    """A receipt, and the time when its row is ready again."""

    receipt: Receipt
    ready_at: int


class QueueSize(NamedTuple):
    """Number of rows, and bytes of their events."""

    events: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A receipt, and the reason why its row is not tried again."""

    receipt: Receipt
    reason: str


@dataclass(frozen=True, slots=True)
class QueueStatements:
    """The statements of one queue table."""

    ack: str
    nack: str
    undo_failure: str
    postpone: str
    release: str
    renew: str
    release_all: str
    dead_letter: str
    requeue: str
    purge: str

    @classmethod
    def of(cls, table: str, columns: str) -> "QueueStatements":
        """For `table`, whose own columns beside those of the queue are `columns`, as a comma-separated list."""
        return cls(
            ack=f"DELETE FROM {table} WHERE seq = ? AND claims = ?",  # noqa: S608 (names come from this package)
            nack=f"UPDATE {table} SET ready_at = ?, holder = NULL, failures = failures + 1"  # noqa: S608
            " WHERE seq = ? AND claims = ?",
            undo_failure=f"UPDATE {table} SET failures = failures - 1 WHERE seq = ? AND claims = ? AND failures > 0",  # noqa: S608
            postpone=f"UPDATE {table} SET ready_at = ?, holder = NULL WHERE seq = ? AND claims = ?",  # noqa: S608
            release=f"UPDATE {table} SET ready_at = ?, holder = NULL, returned = returned + 1"  # noqa: S608
            " WHERE seq = ? AND claims = ?",
            renew=f"UPDATE {table} SET ready_at = ? WHERE seq = ? AND claims = ?",  # noqa: S608
            release_all=f"UPDATE {table} SET ready_at = min(ready_at, ?), holder = NULL"  # noqa: S608
            " WHERE holder = ? AND claims - failures - returned < ?",
            dead_letter=f"INSERT INTO {table}_dead (seq, {columns}, claims, failures, reason, buried_at)"  # noqa: S608
            f" SELECT seq, {columns}, claims, failures, ?, ? FROM {table} WHERE seq = ? AND claims = ?",
            # Under a new number, since its claims are counted from 0 again: no old receipt is valid for it.
            requeue=f"INSERT INTO {table} ({columns}, ready_at)"  # noqa: S608
            f" SELECT {columns}, ? FROM {table}_dead WHERE seq = ?",
            purge=f"DELETE FROM {table}_dead WHERE seq = ?",  # noqa: S608
        )


class LeaseQueue:
    """Transitions that all queue tables share; each has a claim of its own, since its rows differ."""

    __slots__ = ("_statements",)

    def __init__(self, statements: QueueStatements) -> None:
        self._statements = statements

    def ack(self, tx: Tx, receipts: Iterable[Receipt]) -> int:
        """Remove rows whose work is done; return how many receipts were valid."""
        return _each(tx, self._statements.ack, receipts)

    def nack(self, tx: Tx, rows: Iterable[Postponed]) -> int:
        """Give rows back after a failure of their own; return how many receipts were valid."""
        return _postpone(tx, self._statements.nack, rows)

    def undo_failure(self, tx: Tx, receipts: Iterable[Receipt]) -> int:
        """Subtract one failure from each, which was not its own; return how many receipts were valid."""
        return _each(tx, self._statements.undo_failure, receipts)

    def postpone(self, tx: Tx, rows: Iterable[Postponed]) -> int:
        """Give rows back for later, with no failure counted."""
        return _postpone(tx, self._statements.postpone, rows)

    def release(self, tx: Tx, rows: Iterable[Postponed]) -> int:
        """Give rows back untried, as when the stage stops; the claim does not count as lost."""
        return _postpone(tx, self._statements.release, rows)

    def renew(self, tx: Tx, receipts: Iterable[Receipt], until: int) -> int:
        """Prolong leases until a later time; return how many receipts were valid."""
        return _postpone(tx, self._statements.renew, (Postponed(receipt, until) for receipt in receipts))

    def release_all(self, tx: Tx, holder: str, now: int) -> int:
        """Release the leases of a process that is known to be gone; return the number of rows.

        A row that was lost in this way `MAX_RECLAIMS` times already keeps its lease, since it may have caused the
        crashes, and the others should come first. Scans the whole queue, so it is for a stage that starts.
        """
        before = tx.total_changes()
        tx.execute(self._statements.release_all, (now, holder, MAX_RECLAIMS + 1))
        return tx.total_changes() - before

    def dead_letter(self, tx: Tx, letters: Sequence[DeadLetter], now: int) -> int:
        """Make rows dead letters, with their reasons; return how many receipts were valid."""
        # Mostly a sink's own words.
        reasons = {letter.receipt: printable(letter.reason) for letter in reversed(letters)}
        copied = _each(
            tx,
            self._statements.dead_letter,
            ((reason, now, receipt.seq, receipt.claims) for receipt, reason in reasons.items()),
        )
        self.ack(tx, reasons)
        return copied

    def requeue(self, tx: Tx, seqs: Sequence[int], now: int) -> int:
        """Queue dead letters as new rows, under new numbers; return how many there were."""
        requeued = _each(tx, self._statements.requeue, ((now, seq) for seq in set(seqs)))
        self.purge(tx, seqs)
        return requeued

    def purge(self, tx: Tx, seqs: Iterable[int]) -> int:
        """Remove dead letters for good; return how many there were."""
        return _each(tx, self._statements.purge, ((seq,) for seq in seqs))


def _postpone(tx: Tx, statement: str, rows: Iterable[Postponed]) -> int:
    return _each(tx, statement, ((row.ready_at, row.receipt.seq, row.receipt.claims) for row in rows))


def _each(tx: Tx, statement: str, bindings: Iterable[tuple[int | str, ...]]) -> int:
    before = tx.total_changes()
    tx.executemany(statement, bindings)
    return tx.total_changes() - before
