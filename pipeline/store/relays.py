"""Addresses of relays: known ones, those of the settings, and the operator's overrides."""

from collections.abc import Iterable
from enum import StrEnum

from pipeline.nostr.address import parse_address
from pipeline.store import spellings
from pipeline.store.database import Tx

ADD_BOOTSTRAP = """
INSERT INTO relays (address, source, first_seen, last_seen) VALUES (?1, 'bootstrap', ?2, ?2)
ON CONFLICT (address) DO UPDATE SET source = 'bootstrap', last_seen = excluded.last_seen
RETURNING id
"""
DEMOTE_BOOTSTRAP = "UPDATE relays SET source = 'former-bootstrap' WHERE source = 'bootstrap'"
SET_OPERATOR = """
INSERT INTO relays (address, source, first_seen, last_seen, operator) VALUES (?1, 'operator', ?3, ?3, ?2)
ON CONFLICT (address) DO UPDATE SET operator = excluded.operator RETURNING id
"""
# A relay that the operator adds is dialled at once, whatever its failures.
FORGIVE = "UPDATE relays SET failures = 0, next_dial_at = 0 WHERE id = ?"
SET_ASK = "UPDATE relays SET ask = ? WHERE address = ? RETURNING id"
COUNT = "SELECT count(*) FROM relays"
# Those that only the settings or the operator mention were not found.
FOUND = """
SELECT count(*) FROM relays WHERE namers > 0 OR source NOT IN ('bootstrap', 'former-bootstrap', 'operator')
"""
FIND = "SELECT id FROM relays WHERE address = ?"


class OperatorOverride(StrEnum):
    """Decision of the operator on a relay."""

    NOTHING = ""
    ADDED = "added"
    REMOVED = "removed"


def set_bootstrap(tx: Tx, addresses: Iterable[str], now: int) -> None:
    """Make `addresses` the bootstrap relays, dialled as they are written; former ones become ordinary.

    Raises `InvalidAddress`.
    """
    tx.execute(DEMOTE_BOOTSTRAP)
    for address in addresses:
        relay = int(tx.execute(ADD_BOOTSTRAP, (parse_address(address).url, now)).get)
        spellings.set_by_operator(tx, relay, address, now)


def set_operator(tx: Tx, address: str, override: OperatorOverride, now: int) -> None:
    """Dial an address always and as it is written, or never, until the operator decides otherwise.

    Raises `InvalidAddress`.
    """
    relay = int(tx.execute(SET_OPERATOR, (parse_address(address).url, override.value, now)).get)
    if override is OperatorOverride.ADDED:
        spellings.set_by_operator(tx, relay, address, now)
        tx.execute(FORGIVE, (relay,))


def set_ask(tx: Tx, address: str, mode: str) -> bool:
    """Set the strategy of a relay (`auto`, `query` or `whole`); return True if it is known."""
    return tx.execute(SET_ASK, (mode, address)).fetchone() is not None


def count(tx: Tx) -> int:
    """Return the number of known addresses."""
    return int(tx.execute(COUNT).get)


def found(tx: Tx) -> int:
    """Return how many addresses were found in events and registrations, or imported."""
    return int(tx.execute(FOUND).get)


def find(tx: Tx, address: str) -> int | None:
    """Return the number of a canonical address."""
    row = tx.execute(FIND, (address,)).fetchone()
    return None if row is None else int(row[0])


def number_of(tx: Tx, address: str) -> int | None:
    """Return the number of the relay of a canonical address, which may be known by another scheme."""
    return find(tx, preferred(tx, address))


def preferred(tx: Tx, address: str) -> str:
    """Return the wss form of a ws address if that is known, else `address`."""
    scheme, _, rest = address.partition("://")
    secure = f"wss://{rest}"
    return secure if scheme == "ws" and has_default_port(rest) and find(tx, secure) is not None else address


def has_default_port(rest: str) -> bool:
    """Return True if a canonical address has no port: with one, ws and wss are different listeners."""
    return ":" not in rest.partition("/")[0].rpartition("]")[2]
