"""What a crawling host of several holds: relays as home orders them, and the right to ask them.

The stage that speaks to the hub writes it, crawlers read it. The right is for the hosts of relays in `held_hosts`; its
times are of the boot in which they were written. Crawlers say which version of it they follow, so that a share is
released once none of them asks its relays.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

import orjson

from pipeline.errors import EventServiceError
from pipeline.printable import printable
from pipeline.store import spellings
from pipeline.store.database import Tx

# Home chose the relay: enough mentions to be a candidate whatever is known of it here.
_NAMERS: Final = 2
PUT_RELAY = """
INSERT INTO relays (address, source, first_seen, last_seen, namers, named_by_user, operator, ask, crawled_since)
VALUES (?1, 'hub', ?2, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT (address) DO UPDATE SET source = 'hub', last_seen = excluded.last_seen, namers = excluded.namers,
  named_by_user = excluded.named_by_user, operator = excluded.operator, ask = excluded.ask,
  crawled_since = coalesce(min(crawled_since, excluded.crawled_since), crawled_since, excluded.crawled_since)
RETURNING id
"""
DROP_RELAY = """
UPDATE relays SET namers = 0, named_by_user = 0, operator = '', source = 'former-hub'
 WHERE address = ? AND source = 'hub'
"""
PUT_RIGHT = """
INSERT INTO asking_right (only_row, boot, asked_at, lease_s, version, renewal) VALUES (1, ?1, ?2, ?3, ?4, ?5)
ON CONFLICT (only_row) DO UPDATE SET boot = excluded.boot, asked_at = excluded.asked_at, lease_s = excluded.lease_s,
  version = excluded.version, renewal = excluded.renewal
"""
RIGHT = "SELECT boot, asked_at, lease_s, version, renewal FROM asking_right"
HOSTS = "SELECT host_key FROM held_hosts"
ADD_HOST = "INSERT INTO held_hosts (host_key) VALUES (?) ON CONFLICT DO NOTHING"
REMOVE_HOST = "DELETE FROM held_hosts WHERE host_key = ?"
FOLLOW = """
INSERT INTO right_followers (slot, version) VALUES (?1, ?2) ON CONFLICT (slot) DO UPDATE SET version = excluded.version
"""
FOLLOWED = "SELECT slot, version FROM right_followers"
ADD_UNFIT = "INSERT INTO unfit_hosts (host_key, reason) VALUES (?, ?) ON CONFLICT DO NOTHING"
UNFIT = "SELECT host_key, reason FROM unfit_hosts"
REMOVE_UNFIT = "DELETE FROM unfit_hosts WHERE host_key = ?"


class InvalidOrders(EventServiceError):
    """Orders from home that this version cannot read."""


@dataclass(frozen=True, slots=True)
class OperatorOrders:
    """How home wants a relay crawled: what the operator said of it, its spelling, and since when (ms) it is crawled."""

    by_operator: bool = False
    named_by_user: bool = False
    ask: str = "auto"
    spelling: str = ""
    crawled_since: int | None = None

    def to_json(self) -> str:
        """Return the orders as text."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def from_json(cls, text: str) -> "OperatorOrders":
        """Read orders; members that this version does not know are left out. Raises `InvalidOrders`."""
        try:
            found = orjson.loads(text)
            since = found.get("crawled_since")
            return cls(
                bool(found.get("by_operator")), bool(found.get("named_by_user")), str(found.get("ask", "auto")),
                str(found.get("spelling", "")), None if since is None else int(since),
            )  # fmt: skip
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidOrders("orders of a relay") from error


@dataclass(frozen=True, slots=True)
class OrderedRelay:
    """A relay by its canonical address, the host that it lies on, and how it is to be crawled."""

    address: str
    host_key: str
    orders: OperatorOrders


@dataclass(frozen=True, slots=True)
class StoredRight:
    """The right as it was written: the boot, when it was asked for (boot time), for how long, and its version.

    `renewal`: the number of the newest renewal that the hub confirmed.
    """

    boot: str
    asked_at: float
    lease_s: float
    version: int
    renewal: int = 0


def put_relay(tx: Tx, address: str, orders: OperatorOrders, now: int) -> int:
    """Let a relay be crawled as ordered; return its number. `now` is ms."""
    operator = "added" if orders.by_operator else ""
    row = (address, now, _NAMERS, orders.named_by_user, operator, orders.ask, orders.crawled_since)
    relay = int(tx.execute(PUT_RELAY, row).get)
    if orders.spelling and orders.spelling != address:
        spellings.set_by_operator(tx, relay, orders.spelling, now)
    return relay


def drop_relay(tx: Tx, address: str) -> None:
    """Crawl a relay no more; what is known of it stays."""
    tx.execute(DROP_RELAY, (address,))


def put_right(tx: Tx, right: StoredRight) -> None:
    """Write the right for the hosts that are held."""
    tx.execute(PUT_RIGHT, (right.boot, right.asked_at, right.lease_s, right.version, right.renewal))


def right(tx: Tx) -> StoredRight | None:
    """Return the right as it was last written."""
    row = tx.execute(RIGHT).fetchone()
    return None if row is None else StoredRight(*row)


def hosts(tx: Tx) -> frozenset[str]:
    """Return the host keys that are held."""
    return frozenset(str(host_key) for (host_key,) in tx.execute(HOSTS))


def change_hosts(tx: Tx, *, added: Iterable[str] = (), removed: Iterable[str] = ()) -> None:
    """Hold more hosts, and others no longer."""
    tx.executemany(REMOVE_HOST, ((each,) for each in removed))
    tx.executemany(ADD_HOST, ((each,) for each in added))


def note_followed(tx: Tx, slot: str, version: int) -> None:
    """Note that the crawler in `slot` asks no relay that the right of `version` does not cover."""
    tx.execute(FOLLOW, (slot, version))


def followed(tx: Tx) -> Mapping[str, int]:
    """Return by slot the version of the right that each crawler follows, those that ran once too."""
    return {str(slot): int(version) for slot, version in tx.execute(FOLLOWED)}


def add_unfit(tx: Tx, host_key: str, reason: str) -> None:
    """Note that this machine cannot use the relays of a host, for the hub to know."""
    # Partly text of the relay, which may hold characters that PostgreSQL refuses.
    tx.execute(ADD_UNFIT, (host_key, printable(reason)))


def unfit(tx: Tx) -> list[tuple[str, str]]:
    """Return the host keys, and why, that the hub is to be told of."""
    return [(str(host_key), str(reason)) for host_key, reason in tx.execute(UNFIT)]


def remove_unfit(tx: Tx, host_keys: Iterable[str]) -> None:
    """Forget what the hub was told."""
    tx.executemany(REMOVE_UNFIT, ((each,) for each in host_keys))
