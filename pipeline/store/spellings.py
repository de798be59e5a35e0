"""How people write the addresses of relays, and which of its spellings each relay is dialled by.

A relay is known by its canonical address; what is dialled is chosen here. The operator's spelling comes first, then the
one that most authors use; one at which there was no relay (HTTP status 404 and its like) comes after all others, until
it answers. Strangers choose spellings, so that each relay keeps few of them and counts few authors of each.
"""

from typing import Final

from pipeline.nostr.address import InvalidAddress, parse_address
from pipeline.store.database import Tx

# Of one relay; what is named by fewest authors makes room. Real relays have two or three.
MAX_SPELLINGS: Final = 8
# Authors counted for one spelling; more make no difference.
MAX_SPELLERS: Final = 64

FIND = "SELECT id, authors FROM relay_spellings WHERE relay = ? AND spelling = ?"
COUNT = "SELECT count(*) FROM relay_spellings WHERE relay = ?"
ADD = "INSERT INTO relay_spellings (relay, spelling, named_at) VALUES (?, ?, ?) RETURNING id"
# Of those that the operator did not choose, the one that fewest authors use, and of these the one named longest ago.
LEAST_USED = """
SELECT id FROM relay_spellings WHERE relay = ? AND NOT by_operator ORDER BY authors, named_at, id LIMIT 1
"""
FORGET = "DELETE FROM relay_spellings WHERE id = ?"
FORGET_SPELLERS = "DELETE FROM relay_spellers WHERE spelling = ?"
ADD_SPELLER = "INSERT INTO relay_spellers (spelling, author) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING author"
COUNT_SPELLER = "UPDATE relay_spellings SET authors = authors + 1, named_at = ? WHERE id = ?"
UNCHOOSE = "UPDATE relay_spellings SET by_operator = 0 WHERE relay = ? AND by_operator"
CHOOSE = "UPDATE relay_spellings SET by_operator = 1, missing_at = 0 WHERE id = ?"
MARK_MISSING = "UPDATE relay_spellings SET missing_at = ? WHERE id = ?"
MARK_PRESENT = """
UPDATE relay_spellings SET missing_at = 0 WHERE relay = ? AND spelling = ? AND missing_at > 0 RETURNING id
"""
BEST = """
SELECT spelling FROM relay_spellings WHERE relay = ?
 ORDER BY missing_at, by_operator DESC, authors DESC, id LIMIT 1
"""
ADDRESS = "SELECT address FROM relays WHERE id = ?"
PUT = "UPDATE relays SET spelling = ?2 WHERE id = ?1 AND spelling <> ?2"


def add(tx: Tx, relay: int, spelling: str, author: int, now: int) -> None:
    """Note that `author` writes the address of `relay` like this."""
    number, authors = _found(tx, relay, spelling, now)
    if authors < MAX_SPELLERS and tx.execute(ADD_SPELLER, (number, author)).fetchone() is not None:
        tx.execute(COUNT_SPELLER, (now, number))
        _settle(tx, relay)


def set_by_operator(tx: Tx, relay: int, spelling: str, now: int) -> None:
    """Let `relay` be dialled by the spelling that the operator uses."""
    tx.execute(UNCHOOSE, (relay,))
    tx.execute(CHOOSE, (_found(tx, relay, spelling, now)[0],))
    _settle(tx, relay)


def note_missing(tx: Tx, relay: int, spelling: str, now: int) -> None:
    """Note that there was no relay at this spelling: the others are tried first, the canonical address among them."""
    tx.execute(MARK_MISSING, (now, _found(tx, relay, spelling, now)[0]))
    _found(tx, relay, str(tx.execute(ADDRESS, (relay,)).get), now)
    _settle(tx, relay)


def note_present(tx: Tx, relay: int, spelling: str) -> None:
    """Note that the relay answered at this spelling."""
    if tx.execute(MARK_PRESENT, (relay, spelling)).fetchone() is not None:
        _settle(tx, relay)


def of_scheme(spelling: str, address: str) -> str:
    """`spelling` with the scheme of the canonical `address`; `address` itself where that makes another relay of it."""
    scheme, _, _ = address.partition("://")
    changed = f"{scheme}://{spelling.partition('://')[2]}"
    try:
        return changed if parse_address(changed).url == address else address
    except InvalidAddress:
        return address


def _found(tx: Tx, relay: int, spelling: str, now: int) -> tuple[int, int]:
    """Return the number of a spelling and of its authors; a new one takes the place of the least used."""
    row = tx.execute(FIND, (relay, spelling)).fetchone()
    if row is not None:
        return int(row[0]), int(row[1])
    if tx.execute(COUNT, (relay,)).get >= MAX_SPELLINGS:
        for (least,) in tx.execute(LEAST_USED, (relay,)).fetchall():
            tx.execute(FORGET, (least,))
            tx.execute(FORGET_SPELLERS, (least,))
    return int(tx.execute(ADD, (relay, spelling, now)).get), 0


def _settle(tx: Tx, relay: int) -> None:
    """Write down by which spelling the relay is dialled; the canonical address is written as nothing."""
    spelling, address = tx.execute(BEST, (relay,)).get, tx.execute(ADDRESS, (relay,)).get
    tx.execute(PUT, (relay, "" if spelling == address else spelling))
