"""Home's side of sharing relays: writes what is to be crawled, and which crawling host is to have it.

What was written is remembered, so that only changes are. After a new connection it is read again, since the hub may
have gone back to an older state; who is to have what is read at each look.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pipeline.hub import rendezvous
from pipeline.hub.connection import HubConnection
from pipeline.process.clock import Clock
from pipeline.process.logs import Logger
from pipeline.store.database import Database
from pipeline.store.held_shares import OrderedRelay

# A host that has not been heard of for so long is not to have any relay. Less than the lease, so that the next holder
# waits for it when it runs out.
GONE_AFTER_MS: Final = 20_000
LOOK_S: Final = 2.0
CHOOSE_EVERY_S: Final = 5.0
# A fiftieth of one core at most goes into choosing.
_CHOOSE_SHARE: Final = 50.0
_SLICE: Final = 2_000
_T = TypeVar("_T")

FUNCTIONS: Final = (
    "hosts_v1", "unfit_v1", "shares_v1", "ordered_relays_v1", "wish_relays_v1", "wish_shares_v1",
)  # fmt: skip
"""What the hub must have for this."""


@dataclass(slots=True)
class ShareWish:
    """For one thread. `choose` returns all relays that are to be crawled."""

    clock: Clock
    choose: Callable[[Database], Sequence[OrderedRelay]]
    log: Logger
    _ordered: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By address, the host key and the orders as the hub has them."""
    _wanted: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The same as it is to have them."""
    _live: tuple[str, ...] = ()
    _look_at: float = -math.inf
    _choose_at: float = -math.inf
    _connection: HubConnection | None = None

    def turn(self, connection: HubConnection, database: Database) -> None:
        """Do what is due. Raises `HubUnavailable` or `HubRefused`."""
        now = self.clock.monotonic()
        if connection is not self._connection:
            self._ordered = {row[0]: (row[1], row[2]) for row in connection.call("ordered_relays_v1")}
            self._connection, self._look_at = connection, -math.inf
        if now >= self._choose_at:
            self._wanted = {each.address: (each.host_key, each.orders.to_json()) for each in self.choose(database)}
            took_s = self.clock.monotonic() - now
            self._choose_at = now + max(CHOOSE_EVERY_S, _CHOOSE_SHARE * took_s)
            self._look_at = -math.inf
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._order(connection)
            self._assign(connection)

    def _order(self, connection: HubConnection) -> None:
        changed = [(address, *found) for address, found in self._wanted.items() if self._ordered.get(address) != found]
        gone = [(each, self._ordered[each][0], None) for each in self._ordered.keys() - self._wanted.keys()]
        for rows in _slices([*changed, *gone]):
            connection.call("wish_relays_v1", *map(list, zip(*rows, strict=True)))
            for address, host_key, orders in rows:
                if orders is None:
                    del self._ordered[address]
                else:
                    self._ordered[address] = (host_key, orders)

    def _assign(self, connection: HubConnection) -> None:
        live = self._live_hosts(connection)
        unfit: dict[str, set[str]] = {}
        for host, host_key, *_ in connection.call("unfit_v1"):
            unfit.setdefault(host_key, set()).add(host)
        before: Mapping[str, str | None] = {key: wished for key, wished, _ in connection.call("shares_v1")}
        wished = rendezvous.assign({host_key for host_key, _ in self._ordered.values()}, live, unfit)
        # Without a host that lives, those that had them have them when they are back.
        changed = [(key, host) for key, host in wished.items() if host is not None and before.get(key) != host]
        gone = [(key, None) for key, host in before.items() if key not in wished and host is not None]
        for rows in _slices([*changed, *gone]):
            connection.call("wish_shares_v1", *map(list, zip(*rows, strict=True)))
        if changed:
            self.log.info("relay hosts are shared out", changed=len(changed), hosts=",".join(live))

    def _live_hosts(self, connection: HubConnection) -> tuple[str, ...]:
        """Return the hosts that are heard of and do not drain."""
        live = tuple(
            host
            for host, is_draining, _, seen_ago, *_ in connection.call("hosts_v1")
            if not is_draining and seen_ago is not None and seen_ago < GONE_AFTER_MS
        )
        if live != self._live:
            self.log.info("hosts that crawl", hosts=",".join(live), before=",".join(self._live))
            self._live = live
        return live


def _slices(rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for first in range(0, len(rows), _SLICE):
        yield rows[first : first + _SLICE]
