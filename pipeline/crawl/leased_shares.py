"""The share of one crawler process where several hosts crawl: of what this host holds, its part among the crawlers."""

import functools
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.crawl.fence import AskingRight, Fence
from pipeline.crawl.fitness import Fitness
from pipeline.crawl.reconnect import ConnectionResult
from pipeline.crawl.relay_shares import LocalShares
from pipeline.crawl.selection import Selected
from pipeline.process import procfs
from pipeline.process.clock import since_boot_s
from pipeline.process.stage import StageContext
from pipeline.store import held_shares, hub_losses
from pipeline.store.database import Database
from pipeline.store.held_shares import StoredRight

# How often it is looked whether the right was renewed, which is one look at a counter.
_LOOK_S: Final = 0.25
_JOIN_S: Final = 5.0


@dataclass(slots=True)
class LeasedShares:
    """Follows the right that the uplink writes, in a thread of its own, so that no long look of another delays it.

    All other methods are for one thread. `open_here` opens the database for the thread that calls it.
    """

    ctx: StageContext
    open_here: Callable[[], Database]
    on_turn: Callable[[], object]
    """Called at every look."""
    fence: Fence = field(default_factory=functools.partial(Fence, since_boot_s))
    _local: LocalShares = field(init=False)
    _fitness: Fitness = field(default_factory=Fitness)
    _boot: str = field(default_factory=procfs.boot_id)
    _thread: threading.Thread = field(init=False)
    _is_over: threading.Event = field(default_factory=threading.Event)
    _version: int = -1
    """Of the right that the fence has."""
    _refreshed: frozenset[str] = frozenset()
    """The hosts that were held at the last refresh."""
    _acknowledged: frozenset[str] | None = None
    """The hosts of the right that the uplink knows to be followed."""
    _database: Database | None = None
    _loss: int = 0
    """The newest loss when this process began; see `hub_losses`."""
    _newest_loss: int = 0

    def __post_init__(self) -> None:
        self._local = LocalShares(self.ctx)
        self._thread = threading.Thread(target=self._follow, name="shares", daemon=True)

    def begin(self) -> None:
        """See `RelayShares.begin`."""
        self._database = self.open_here()
        with self._database.write() as tx:
            self._loss = self._newest_loss = hub_losses.follow(tx, self.ctx.slot.name)
        self._thread.start()

    def finish(self) -> None:
        """See `RelayShares.finish`; from then on nothing may be asked."""
        self._is_over.set()
        self._thread.join(_JOIN_S)
        self.fence.right = AskingRight()
        if self._database is not None:
            self._database.close()

    @property
    def is_first(self) -> bool:
        """See `RelayShares.is_first`; what is skipped is counted at home."""
        return False

    @property
    def has_changed(self) -> bool:
        """See `RelayShares.has_changed`."""
        return self.fence.right.hosts != self._refreshed

    @property
    def is_outdated(self) -> bool:
        """See `RelayShares.is_outdated`."""
        return self._newest_loss != self._loss

    @property
    def owes_answer(self) -> bool:
        """See `RelayShares.owes_answer`; a renewal alone needs none."""
        return self.fence.right.hosts != self._acknowledged

    def refresh(self) -> None:
        """See `RelayShares.refresh`."""
        self._local.refresh()
        self._refreshed = frozenset(self.fence.right.hosts)

    def among(self, selected: Sequence[Selected]) -> list[Selected]:
        """See `RelayShares.among`."""
        return self._local.among([each for each in selected if each.address.host_key in self._refreshed])

    def includes(self, address: str) -> bool:
        """See `RelayShares.includes`."""
        return self._local.includes(address)

    def on_result(self, host_key: str, result: ConnectionResult, is_online: bool) -> None:
        """See `RelayShares.on_result`; lets the hub know of relays that this machine cannot use."""
        now = self.ctx.clock.monotonic()
        reason = self._fitness.on_result(host_key, result, now, is_online=is_online)
        if reason is not None and self._database is not None:
            with self._database.write() as tx:
                held_shares.add_unfit(tx, host_key, reason)

    def on_crawled(self, host_keys: Collection[str]) -> None:
        """See `RelayShares.on_crawled`; lets the uplink know what is asked no more."""
        # In this order: the right that is read is of this version or a later one.
        version, hosts = self._version, frozenset(self.fence.right.hosts)
        if version >= 0 and hosts.issuperset(host_keys) and self._database is not None:
            with self._database.write() as tx:
                held_shares.note_followed(tx, self.ctx.slot.name, version)
            self._acknowledged = hosts

    def _follow(self) -> None:
        seen = -1
        with self.open_here() as database:
            while not self._is_over.is_set():
                self.on_turn()
                version = database.data_version()
                if version != seen:
                    seen = version
                    self._take(database)
                self._is_over.wait(_LOOK_S)

    def _take(self, database: Database) -> None:
        with database.read() as tx:
            stored = held_shares.right(tx)
            if stored is None or stored.version == self._version:
                return
            hosts = held_shares.hosts(tx)
            self._newest_loss = hub_losses.newest(tx).number
        self.fence.right = self._right(stored, hosts)
        self._version = stored.version

    def _right(self, stored: StoredRight, hosts: frozenset[str]) -> AskingRight:
        if stored.boot != self._boot:
            return AskingRight()
        before = self.fence.right.hosts
        # The same object where nothing changed: to be compared at once.
        return AskingRight().granted(before if before == hosts else hosts, stored.asked_at, stored.lease_s)
