"""Ids of a few events that a relay gave, so that a later process sees whether it comes back with another store."""

from collections.abc import Sequence

from pipeline.store.database import Tx

_ID_BYTES = 32
PUT = "INSERT OR REPLACE INTO relay_samples (relay, ids) VALUES (?, ?)"
OF_RELAY = "SELECT ids FROM relay_samples WHERE relay = ?"


def put(tx: Tx, relay: int, ids: Sequence[bytes]) -> None:
    """Store the sample of a relay in place of the one before."""
    tx.execute(PUT, (relay, b"".join(ids)))


def of_relay(tx: Tx, relay: int) -> list[bytes]:
    """Return the sample of a relay, empty if there is none."""
    row = tx.execute(OF_RELAY, (relay,)).fetchone()
    ids = bytes(row[0]) if row is not None else b""
    return [ids[start : start + _ID_BYTES] for start in range(0, len(ids), _ID_BYTES)]
