"""What the hub lost of this crawling host, so that it is fetched from relays again.

A hub that went back by more than sent parcels are kept has lost events that this host knows as seen, and its cursors
vouch for. It goes by the hub's cursors again, which went back with the events, and forgets the ids. Crawlers
remember both in memory, so that each ends when it sees another loss, and its successor notes that it knows of it.

| state | event | next state |
|---|---|---|
| settled | the hub turns out to lack parcels that are not kept | open: no relay is held |
| open | every crawler that runs was started since | being settled: cursors and ids are dropped, in slices |
| being settled | all are dropped | settled: relays are held again, from the hub's cursors on |
"""

from typing import NamedTuple

from pipeline.store import runs
from pipeline.store.database import Row, Tx

LOSS = "SELECT number, after_event, until_event, is_settled FROM hub_losses"
PUT_LOSS = """
INSERT INTO hub_losses (only_row, number, after_event, until_event, is_settled) VALUES (1, 1, ?1, ?2, 0)
ON CONFLICT (only_row) DO UPDATE SET number = number + 1, is_settled = 0,
  after_event = iif(is_settled, excluded.after_event, min(after_event, excluded.after_event)),
  until_event = iif(is_settled, excluded.until_event, max(until_event, excluded.until_event))
"""
SETTLE = "UPDATE hub_losses SET is_settled = 1"
FOLLOW = """
INSERT INTO loss_followers (slot, number) VALUES (?1, ?2) ON CONFLICT (slot) DO UPDATE SET number = excluded.number
"""
FOLLOWED = "SELECT slot, number FROM loss_followers"
DROP_CURSORS = "DELETE FROM cursors WHERE (relay, query) IN (SELECT relay, query FROM cursors LIMIT ?)"
DROP_SWEEPS = "DELETE FROM sweeps WHERE (relay, sweep) IN (SELECT relay, sweep FROM sweeps LIMIT ?)"
NEXT_SEEN = """
SELECT created_at, event_id, event FROM seen WHERE (created_at, event_id) > (?, ?) ORDER BY created_at, event_id LIMIT ?
"""
FORGET_SEEN = "DELETE FROM seen WHERE created_at = ? AND event_id = ?"
DROP_HOSTS = "DELETE FROM held_hosts"
NEW_RIGHT = "UPDATE asking_right SET version = version + 1"


class Loss(NamedTuple):
    """The newest loss: of events numbered beyond `after_event`, up to `until_event`."""

    number: int = 0
    after_event: int = 0
    until_event: int = 0
    is_settled: int = 1


def newest(tx: Tx) -> Loss:
    """Return the newest loss."""
    row = tx.execute(LOSS).fetchone()
    return Loss() if row is None else Loss(*row)


def begin(tx: Tx, after_event: int, until_event: int, since: int, now: int) -> None:
    """Note a loss of events that were received from `since` (ms) on; from now on no relay is held."""
    tx.execute(PUT_LOSS, (after_event, until_event))
    tx.execute(DROP_HOSTS)
    tx.execute(NEW_RIGHT)
    runs.begin_doubt(tx, since, now)


def follow(tx: Tx, slot: str) -> int:
    """Note that the crawler in `slot`, which starts, knows of the newest loss; return its number."""
    number = newest(tx).number
    tx.execute(FOLLOW, (slot, number))
    return number


def followed(tx: Tx) -> dict[str, int]:
    """Return by slot which loss each crawler knows of, those that ran once too."""
    return {str(slot): int(number) for slot, number in tx.execute(FOLLOWED)}


def drop_cursors(tx: Tx, most: int) -> bool:
    """Drop some cursors and sweeps under way; return True if there are more."""
    before = tx.total_changes()
    tx.execute(DROP_CURSORS, (most,))
    tx.execute(DROP_SWEEPS, (most,))
    return tx.total_changes() > before


def forget_seen(tx: Tx, loss: Loss, after: tuple[int, bytes], most: int) -> tuple[int, bytes] | None:
    """Forget lost ids among `most` behind a place; return the place of the last, None if it was the last of all."""
    rows: list[Row] = tx.execute(NEXT_SEEN, (*after, most)).fetchall()
    lost = [(at, event_id) for at, event_id, event in rows if loss.after_event < event <= loss.until_event]
    tx.executemany(FORGET_SEEN, lost)
    return rows[-1][:2] if len(rows) == most else None


def settle(tx: Tx) -> None:
    """Note that all was dropped."""
    tx.execute(SETTLE)
