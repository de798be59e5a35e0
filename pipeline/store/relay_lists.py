"""Where each author writes and reads, by their newest relay list (kind 10002, NIP-65).

Newest wins; at equal times the lowest id. Each change of a list has a number, by which readers find what changed.
Relays are numbers of `relays`; one that was pruned since matches none.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.store.database import Tx

LATEST = "SELECT max(seq) FROM relay_lists"
LIST_OF = "SELECT event_id, created_at, writes, reads FROM relay_lists WHERE author = ?"
# Replaced, so that it has the newest number of all.
PUT = "REPLACE INTO relay_lists (author, event_id, created_at, writes, reads) VALUES (?, ?, ?, ?, ?)"
# The same relays as before: readers need no change.
TOUCH = "UPDATE relay_lists SET event_id = ?, created_at = ? WHERE author = ?"
# Lists of wanted authors that changed; of those who are not wanted, that there is nothing to know.
CHANGED_SINCE = """
SELECT public_key, iif(refs > 0, writes, ''), iif(refs > 0, reads, '')
  FROM relay_lists JOIN wanted ON wanted.author = relay_lists.author JOIN authors ON authors.id = relay_lists.author
 WHERE relay_lists.seq > ?
"""
# Lists, however old, of authors who became wanted or ceased to be.
OF_CHANGED_AUTHORS = """
SELECT public_key, iif(refs > 0, writes, ''), iif(refs > 0, reads, '')
  FROM wanted JOIN relay_lists ON relay_lists.author = wanted.author JOIN authors ON authors.id = wanted.author
 WHERE wanted.generation > ?
"""


@dataclass(frozen=True, slots=True)
class RelayList:
    """An author's list as the store needs it: numbers of author and relays; `created_at` in seconds."""

    author: int
    event_id: bytes
    created_at: int
    writes: tuple[int, ...]
    reads: tuple[int, ...]


class Listed(NamedTuple):
    """Which relays the newest list of an author names, for writing and for reading."""

    public_key: bytes
    writes: tuple[int, ...]
    reads: tuple[int, ...]


def replace(tx: Tx, lists: RelayList) -> bool:
    """Take a list if it is newer than what is known; return True if it was."""
    known = tx.execute(LIST_OF, (lists.author,)).fetchone()
    if known is not None and (-lists.created_at, lists.event_id) >= (-known[1], known[0]):
        return False
    writes, reads = _text(lists.writes), _text(lists.reads)
    if known is not None and known[2:] == (writes, reads):
        tx.execute(TOUCH, (lists.event_id, lists.created_at, lists.author))
    else:
        tx.execute(PUT, (lists.author, lists.event_id, lists.created_at, writes, reads))
    return True


def retract(tx: Tx, author: int, event_ids: AbstractSet[bytes], until: int | None) -> None:
    """Forget what a list of `author` says that is among `event_ids`, or dated `until` (seconds) or before."""
    known = tx.execute(LIST_OF, (author,)).fetchone()
    if known is not None and (known[0] in event_ids or (until is not None and known[1] <= until)):
        forget(tx, author)


def forget(tx: Tx, author: int) -> bool:
    """Forget what the list of `author` says; return True if it said anything. Id and time stay, against older ones."""
    known = tx.execute(LIST_OF, (author,)).fetchone()
    if known is None or not (known[2] or known[3]):
        return False
    tx.execute(PUT, (author, known[0], known[1], "", ""))
    return True


def latest(tx: Tx) -> int:
    """Return the number of the newest change."""
    return int(tx.execute(LATEST).get or 0)


def changed_since(tx: Tx, change: int, generation: int) -> Iterator[Listed]:
    """Lists of wanted authors after change `change` of lists and `generation` of who is wanted.

    0 for both gives everything. To be read once within the transaction. Some come twice.
    """
    # From the very beginning the lists of wanted authors are all there are.
    statements = [(OF_CHANGED_AUTHORS, generation), *([(CHANGED_SINCE, change)] if generation else [])]
    for statement, after in statements:
        for public_key, writes, reads in tx.execute(statement, (after,)):
            yield Listed(public_key, _numbers(writes), _numbers(reads))


def _text(relays: Iterable[int]) -> str:
    return ",".join(map(str, relays))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()
