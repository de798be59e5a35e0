"""How the connection to the target relay stands, which is none of the relays that are crawled."""

from dataclasses import dataclass

from pipeline.store.database import Tx
from pipeline.store.relay_status import RelayState

PUT = "INSERT OR REPLACE INTO target_relay (only_row, address, state, state_since) VALUES (1, ?, ?, ?)"
READ = "SELECT address, state, state_since FROM target_relay"


@dataclass(frozen=True, slots=True)
class TargetRelay:
    """The relay's address, the state of the connection to it and since when (ms)."""

    address: str
    state: RelayState
    state_since: int


def put(tx: Tx, address: str, state: RelayState, now: int) -> None:
    """Note the state of the connection, `now` in ms."""
    tx.execute(PUT, (address, state.value, now))


def read(tx: Tx) -> TargetRelay | None:
    """Return how the connection stands; None if there never was any."""
    row = tx.execute(READ).fetchone()
    return None if row is None else TargetRelay(row[0], RelayState(row[1]), row[2])
