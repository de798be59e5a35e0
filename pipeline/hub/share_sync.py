"""Keeps this host's shares: renews their lease, loads what is new, writes the right for crawlers, releases the rest.

Called by the one stage that speaks to the hub, between other calls; a turn loads a part of what is new, so that it
takes little time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.hub.connection import HubConnection
from pipeline.hub.share_lease import Grant, ShareLease
from pipeline.process.clock import Clock
from pipeline.process.logs import Logger
from pipeline.store import cursors, held_shares, relay_status
from pipeline.store.cursors import Cursor
from pipeline.store.database import Database, Tx
from pipeline.store.held_shares import InvalidOrders, OperatorOrders, StoredRight

LEASE_S: Final = 30.0
# Hosts of relays whose relays, cursors and limits are loaded at once.
_SLICE: Final = 100
# As home's clock may differ from this one; see `cursors.advance`.
_CLOCK_SLACK_S: Final = 900

FUNCTIONS: Final = (
    "renew_shares_v1", "release_shares_v1", "leave_v1", "relays_v1", "changed_relays_v1", "report_unfit_v1",
    "cursors_v1", "limits_v1",
)  # fmt: skip
"""What the hub must have for this."""


@dataclass(slots=True)
class ShareSync:
    """For one thread. `boot_time` and `boot`: seconds since this machine was started, and the name of that start.

    `running`: the slots of the crawlers that run.
    """

    clock: Clock
    boot_time: Callable[[], float]
    boot: str
    running: Callable[[], Sequence[str]]
    log: Logger
    lease: ShareLease = field(default_factory=lambda: ShareLease(LEASE_S))
    _version: int = 0
    """Of the right that was written last."""
    _relays_version: int = 0
    _has_begun: bool = False
    _connection: HubConnection | None = None

    def turn(self, connection: HubConnection, database: Database) -> bool:
        """Do what is due; return True if crawlers have to look. Raises `HubUnavailable` or `HubRefused`."""
        if not self._has_begun:
            self._begin(database)
        if connection is not self._connection:
            self._connection = connection
            self.lease.on_connected()
            self._relays_version = 0
        has_changed = self._renew(connection, database) if self.lease.is_due(self.boot_time()) else False
        if self.lease.granted:
            self._load(connection, database)
            has_changed = True
        self._report_unfit(connection, database)
        self._release(connection, database)
        return has_changed

    def leave(self, connection: HubConnection, database: Database) -> None:
        """Release everything at once, after the crawlers ended. Raises `HubUnavailable` or `HubRefused`."""
        connection.call("leave_v1")
        with database.write() as tx:
            held_shares.change_hosts(tx, removed=held_shares.hosts(tx))
        self.lease = ShareLease(self.lease.lease_s, number=self.lease.number, confirmed=self.lease.confirmed)

    def begin_again(self) -> None:
        """Hold what the database says, which another has changed; what is missing there is loaded again."""
        self.lease = ShareLease(self.lease.lease_s)
        self._has_begun, self._relays_version, self._connection = False, 0, None

    def _begin(self, database: Database) -> None:
        with database.read() as tx:
            before = held_shares.right(tx)
            self.lease.held = held_shares.hosts(tx)
        if before is not None:
            self._version = before.version
            # A hub that does not know it went back while this host was away.
            self.lease.number = self.lease.confirmed = before.renewal
        self._has_begun = True

    def _renew(self, connection: HubConnection, database: Database) -> bool:
        lease = self.lease
        # Before the request: the hub counts from later on.
        asked_at = self.boot_time()
        number = lease.on_renewing(self.clock.now_ms(), asked_at)
        ((version, went_back, held, leaving),) = connection.call(
            "renew_shares_v1", round(lease.lease_s * 1000), lease.known, number, lease.confirmed,
            lease.may_take(asked_at),
        )  # fmt: skip
        if went_back:
            self.log.warning("hub went back to an older state, takes no relays for a while", seconds=lease.lease_s)
        before = lease.held
        grant = Grant(
            version, went_back, None if held is None else frozenset(held), frozenset(() if leaving is None else leaving)
        )
        lost = lease.on_renewed(grant, asked_at)
        changed = connection.call("changed_relays_v1", self._relays_version) if held is not None else []
        with database.write() as tx:
            self._put_relays(tx, changed)
            held_shares.change_hosts(tx, removed=lost)
            self._put_right(tx)
        if lost:
            self.log.info("holds fewer relay hosts", lost=len(lost), held=len(lease.held))
        return before != lease.held or bool(changed)

    def _put_right(self, tx: Tx) -> None:
        self._version += 1
        lease = self.lease
        held_shares.put_right(tx, StoredRight(self.boot, lease.asked_at, lease.lease_s, self._version, lease.confirmed))
        self.lease.on_written(self._version)

    def _load(self, connection: HubConnection, database: Database) -> None:
        """Write down some of the relays that were granted, as far as other hosts came with them, and hold them."""
        host_keys = sorted(self.lease.granted)[:_SLICE]
        ordered = connection.call("relays_v1", host_keys)
        addresses = [address for address, *_ in ordered]
        moved = connection.call("cursors_v1", addresses)
        limits = connection.call("limits_v1", addresses)
        latest = self.clock.now_ms() // 1000 + _CLOCK_SLACK_S
        with database.write() as tx:
            numbers = self._put_relays(tx, ordered)
            cursors.advance(tx, (Cursor(numbers[relay], *rest) for relay, *rest in moved if relay in numbers), latest)
            for relay, text in limits:
                if relay in numbers:
                    relay_status.put_limits(tx, numbers[relay], text)
            held_shares.change_hosts(tx, added=host_keys)
            self.lease.on_loaded(host_keys)
            self._put_right(tx)
        self.log.info("holds more relay hosts", added=len(host_keys), held=len(self.lease.held))

    def _put_relays(self, tx: Tx, rows: Iterable[tuple[str, str, str | None, int]]) -> dict[str, int]:
        """Write down how relays are to be crawled; return the numbers of those that are."""
        numbers: dict[str, int] = {}
        for address, _, text, version in rows:
            self._relays_version = max(self._relays_version, version)
            if text is None:
                held_shares.drop_relay(tx, address)
                continue
            try:
                orders = OperatorOrders.from_json(text)
            except InvalidOrders:
                self.log.warning("cannot read how a relay is to be crawled, update this host", relay=address)
                orders = OperatorOrders()
            numbers[address] = held_shares.put_relay(tx, address, orders, self.clock.now_ms())
        return numbers

    def _report_unfit(self, connection: HubConnection, database: Database) -> None:
        with database.read() as tx:
            found = held_shares.unfit(tx)
        for host_key, reason in found:
            connection.call("report_unfit_v1", host_key, reason)
            self.log.warning("cannot use relays, another host is to", host_key=host_key, reason=reason)
        if found:
            self.lease.renew_at = 0.0
            with database.write() as tx:
                held_shares.remove_unfit(tx, (host_key for host_key, _ in found))

    def _release(self, connection: HubConnection, database: Database) -> None:
        if not self.lease.is_leaving:
            return
        with database.read() as tx:
            followed = held_shares.followed(tx)
        if found := self.lease.releasable(followed, self.running(), self.boot_time()):
            connection.call("release_shares_v1", found)
            self.lease.on_released(found)
            self.log.info("released relay hosts", released=len(found))
