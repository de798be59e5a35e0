"""Checked forms of filters, by relay: how each answers them, so that a restart asks for no control again.

A form that turned out to leave events out takes back, in the same transaction, the cursors that it moved.
"""

from dataclasses import dataclass

from pipeline.store.database import Tx
from pipeline.store.relay_status import put_limits

PUT = """
INSERT INTO relay_forms (relay, form, verdict, checked_at, requests) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (relay, form) DO UPDATE SET
  verdict = excluded.verdict, checked_at = excluded.checked_at, requests = excluded.requests
"""
OF_RELAY = "SELECT form, verdict, checked_at, requests FROM relay_forms WHERE relay = ? ORDER BY form"
TAKE_BACK_CURSORS = "DELETE FROM cursors WHERE relay = ?1 AND query >= ?2 || '/' AND query < ?2 || '0'"
TAKE_BACK_SWEEPS = "DELETE FROM sweeps WHERE relay = ?1 AND instr(sweep, ':' || ?2 || '/')"


@dataclass(frozen=True, slots=True)
class FormCheck:
    """One check: what it showed, when it ended (Unix seconds) and how many requests it took."""

    form: str
    verdict: str
    checked_at: int
    requests: int


@dataclass(frozen=True, slots=True)
class FormChanges:
    """Checks that ended, and the subjects of queries whose answers turned out to leave events out.

    `limits`: what a relay allows as of these checks, as JSON; empty where nothing is owed.
    """

    checks: tuple[FormCheck, ...] = ()
    owed: tuple[str, ...] = ()
    limits: str = ""

    def __bool__(self) -> bool:
        return bool(self.checks)


def put(tx: Tx, relay: int, changes: FormChanges) -> None:
    """Store the checks of a relay in place of those before, and take back what they show to be incomplete."""
    tx.executemany(PUT, ((relay, each.form, each.verdict, each.checked_at, each.requests) for each in changes.checks))
    for subject in changes.owed:
        tx.execute(TAKE_BACK_CURSORS, (relay, subject))
        tx.execute(TAKE_BACK_SWEEPS, (relay, subject))
    if changes.limits:
        put_limits(tx, relay, changes.limits)


def of_relay(tx: Tx, relay: int) -> list[FormCheck]:
    """Return every check of a relay, in order of their names."""
    return [FormCheck(*row) for row in tx.execute(OF_RELAY, (relay,))]
