"""The relays of other hosts: addresses that parcels name, and the numbers that they have here."""

from collections.abc import Iterable

from pipeline.store.database import Tx
from pipeline.store.relays import FIND

ADD = """
INSERT INTO relays (address, source, first_seen, last_seen) VALUES (?1, 'hub', ?2, ?2)
ON CONFLICT (address) DO NOTHING
"""


def numbers(tx: Tx, addresses: Iterable[str], now: int) -> dict[str, int]:
    """Return the numbers of canonical addresses; those that are not known are added."""
    found: dict[str, int] = {}
    for address in addresses:
        row = tx.execute(FIND, (address,)).fetchone()
        if row is None:
            tx.execute(ADD, (address, now))
            row = tx.execute(FIND, (address,)).fetchone()
        assert row is not None, "just added"
        found[address] = int(row[0])
    return found
