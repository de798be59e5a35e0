"""What is kept for the sake of one user alone, and forgetting it step by step after the user has left.

| kept | is forgotten |
|---|---|
| events: pending, delivered a while ago, dead letters | if each rule that they matched was for this user's sake |
| contact list | always |
| relay list, relays that the user mentions | unless another user follows the user |

Ids stay in `seen`, so that nothing is delivered again, and retractions stay, so that nothing comes back. A step looks
at `ROWS` rows in a transaction that only reads; where it finds something, a second one looks again and drops it. What
was dropped stays so if the process is killed, and all steps may be done again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.store import authors, contact_slices, contacts, dead, events, outbox, relay_lists, relay_pruning, users
from pipeline.store.authors import Authors
from pipeline.store.database import Tx
from pipeline.store.dead import DeadQueue
from pipeline.store.relay_pruning import Crowded

ROWS: Final = 500
OUTCOME: Final = "forgotten"
# Of the rules that an event matched (`events.Accepted`) those that may be for the sake of one who did not write it.
_FOLLOWEE: Final = "followee"
_MENTION: Final = "mention"

IS_FOLLOWED = "SELECT 1 FROM wanted WHERE author = ? AND refs > 0"
# Those whom no other user follows.
FOLLOWEES = """
SELECT public_key FROM contacts JOIN authors ON authors.id = followee LEFT JOIN wanted ON wanted.author = followee
 WHERE follower = ? AND coalesce(refs, 0) = 0
"""
# The author as `Event.to_json` writes it, without the rest of a long payload.
_AUTHOR = "CAST(substr(payload, 84, 64) AS TEXT)"
PENDING = f"""
SELECT seq, outbox.event, sink, rules, mentions, {_AUTHOR}
  FROM outbox CROSS JOIN events USING (event) CROSS JOIN payloads USING (event) WHERE seq > ? ORDER BY seq LIMIT ?
"""  # noqa: S608 (our own text)
DEAD = PENDING.replace("outbox", "outbox_dead")
UNSAVED = f"""
SELECT seq, inbox_dead.event, '', NULL, NULL, {_AUTHOR}
  FROM inbox_dead CROSS JOIN payloads USING (event) WHERE seq > ? ORDER BY seq LIMIT ?
"""  # noqa: S608
# Those that no sink waits for: what waits is settled before.
KEPT = f"""
SELECT event, event, '', rules, mentions, {_AUTHOR}
  FROM events CROSS JOIN payloads USING (event)
 WHERE event > ? AND sinks <= (SELECT count(*) FROM deliveries WHERE deliveries.event = events.event)
 ORDER BY event LIMIT ?
"""  # noqa: S608


class EventRow(NamedTuple):
    """A row that refers to an event: its number in its own table, and what was noted when the event was saved."""

    number: int
    event: int
    sink: str
    rules: str | None
    mentions: bytes | None
    author: str


@dataclass(frozen=True, slots=True)
class FormerUser:
    """A user who has left: number and key, whether another user follows them, and whom they alone follow."""

    author: int
    public_key: bytes
    is_followed: bool
    followees: frozenset[str]

    def is_alone_in(self, row: EventRow) -> bool:
        """Return True if by each rule that it matched the event is kept for this user's sake."""
        wrote = row.author == self.public_key.hex()
        if not row.rules or (wrote and self.is_followed):
            return wrote and not self.is_followed
        reasons = {_FOLLOWEE: wrote or row.author in self.followees, _MENTION: row.mentions == self.public_key}
        return all(reasons.get(rule, wrote) for rule in row.rules.split())


@dataclass(frozen=True, slots=True)
class EventWalk:
    """A walk over one table: the rows after a number, and how to drop those that are found."""

    statement: str
    drop: Callable[[Tx, Sequence[EventRow], int], None]

    def look(self, tx: Tx, user: FormerUser, after: int) -> "WalkStep":
        """Return which rows after `after` are kept for `user` alone, among the next `ROWS`."""
        rows = [EventRow(*row) for row in tx.execute(self.statement, (after, ROWS))]
        found = tuple(row for row in rows if user.is_alone_in(row))
        return WalkStep(found, rows[-1].number if len(rows) == ROWS else None)


class WalkStep(NamedTuple):
    """What a step found, and the number after which the next one begins; `None` at the end of the table."""

    found: tuple[EventRow, ...]
    last: int | None


def _drop_pending(tx: Tx, rows: Sequence[EventRow], now: int) -> None:
    outbox.drop(tx, [(row.number, row.event, row.sink) for row in rows], OUTCOME, now)


def _drop_dead(tx: Tx, rows: Sequence[EventRow], now: int) -> None:
    for row in rows:
        dead.drop(tx, DeadQueue(row.sink or DeadQueue.INBOX), [row.number], now)


def _drop_kept(tx: Tx, rows: Sequence[EventRow], now: int) -> None:
    del now
    events.drop(tx, [row.event for row in rows])


# In this order: an event is dropped once nothing waits for it.
PENDING_ROWS: Final = EventWalk(PENDING, _drop_pending)
DEAD_LETTERS: Final = EventWalk(DEAD, _drop_dead)
UNSAVED_LETTERS: Final = EventWalk(UNSAVED, _drop_dead)
KEPT_EVENTS: Final = EventWalk(KEPT, _drop_kept)


def former_user(tx: Tx, public_key: bytes) -> FormerUser | None:
    """Return who has left; `None` for a key that was never met or is registered."""
    author = authors.find(tx, public_key)
    if author is None or users.is_registered(tx, author):
        return None
    is_followed = tx.execute(IS_FOLLOWED, (author,)).fetchone() is not None
    followees = frozenset(bytes(key).hex() for (key,) in tx.execute(FOLLOWEES, (author,)))
    return FormerUser(author, public_key, is_followed, followees)


def forget_contacts(tx: Tx, user: FormerUser, now: int) -> int:
    """Forget whom the user follows, of thousands a part; return how many there were. See `work_off_contacts`."""
    return contacts.forget(tx, Authors(), user.author, now)


def work_off_contacts(tx: Tx, user: FormerUser, now: int) -> bool:
    """Do a slice of what is left of that; return False if nothing is left."""
    return contact_slices.count(tx, user.author) > 0 and contacts.work_off(tx, Authors(), now)


def forget_relay_list(tx: Tx, user: FormerUser) -> bool:
    """Forget where the user writes and reads; return True if that was known."""
    return not user.is_followed and relay_lists.forget(tx, user.author)


def forget_mentions(tx: Tx, user: FormerUser) -> int:
    """Forget some of the relays that the user mentions; return how many."""
    if user.is_followed:
        return 0
    both = (Crowded(user.author, as_monitor, ROWS) for as_monitor in (False, True))
    return sum(relay_pruning.prune_mentions(tx, of, ROWS) for of in both)
