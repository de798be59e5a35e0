"""How far back ids of accepted events are kept: as far as any relay that may come back gives what we had.

A relay that was away is asked again from its cursor on, and from days before it. What others gave of that time must
still be known then, or it is published again. Its cursor moves before all of that is done: the rest is owed, and
waited for as long as a relay is, since what a relay refuses for good stays owed. All times are ms but where it says so.
"""

from pipeline.store.database import Tx

# A relay that was not connected for this time is not waited for, unless the operator names it.
WAITED_FOR_MS = 30 * 86_400_000

# The cursors of one relay move together while it is connected; one of a chunk that the plan has no longer stays behind.
OLDEST = """
SELECT min(latest) FROM (
  SELECT iif(owed_since > 0 AND state_since >= ?1, min(owed_since, max(complete_until)), max(complete_until))
      AS latest FROM cursors JOIN relays ON relays.id = cursors.relay
   WHERE substr(query, 1, instr(query, '/')) IN ('global/', 'authors/', 'mentions/', 'whole/')
     AND operator <> 'removed'
     AND (source = 'bootstrap' OR operator = 'added' OR state IN ('connected', 'backpressured') OR state_since >= ?1)
   GROUP BY relay
)
"""


def seen_before(tx: Tx, now: int, *, retention: int, most: int, resweep_window: int) -> int:
    """Return the time before which ids may be forgotten.

    That is `retention` ago, or earlier for the sake of the relay that was away longest, but `most` ago at the latest.
    Goes through all cursors: not under the write lock.
    """
    oldest = tx.execute(OLDEST, (now - WAITED_FOR_MS,)).get
    wanted = now if oldest is None else 1000 * int(oldest) - resweep_window
    return max(now - max(retention, most), min(now - retention, wanted))
