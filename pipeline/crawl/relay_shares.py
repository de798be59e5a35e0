"""Who crawls which relay: the share of one process in those that are chosen for all."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.crawl.crew import Crew, Share
from pipeline.crawl.fence import Fence
from pipeline.crawl.reconnect import ConnectionResult
from pipeline.crawl.selection import Selected, is_share_of, share_of
from pipeline.process.slots import held_indexes, is_supervised
from pipeline.process.stage import StageContext


class RelayShares(Protocol):
    """The share of this process. For one thread, but for the fence."""

    @property
    def fence(self) -> Fence | None:
        """What bounds the right to ask relays; None where it never ends."""
        ...

    @property
    def is_first(self) -> bool:
        """Return True for one of all processes, which counts what all of them find alike."""
        ...

    @property
    def is_outdated(self) -> bool:
        """Return True if this process remembers what was dropped since, and has to end."""
        ...

    def begin(self) -> None:
        """Follow the right to ask relays until `finish`."""
        ...

    def finish(self) -> None:
        """Follow it no longer."""
        ...

    @property
    def has_changed(self) -> bool:
        """Return True if the share may be another since the last `refresh`."""
        ...

    @property
    def owes_answer(self) -> bool:
        """Return True if `on_crawled` is to be called."""
        ...

    def refresh(self) -> None:
        """Look at who crawls besides this process."""
        ...

    def on_result(self, host_key: str, result: ConnectionResult, is_online: bool) -> None:
        """Take how a connection or dial ended; `is_online`: other relays are connected."""
        ...

    def on_crawled(self, host_keys: Collection[str]) -> None:
        """Take note that relays of these hosts are crawled at most, dropped ones that are still open included."""
        ...

    def among(self, selected: Sequence[Selected]) -> list[Selected]:
        """Return those of `selected` that this process crawls now; all paths of one host fall to one process."""
        ...

    def includes(self, address: str) -> bool:
        """Return True if the relay at a canonical address would fall to this process."""
        ...


@dataclass(slots=True)
class LocalShares:
    """Shares the relays with the crawlers that run on this database, by their slots. Such a share never runs out."""

    ctx: StageContext
    fence: Fence | None = None
    share: Share | None = None
    _crew: Crew = field(init=False)
    _has_looked: bool = False

    def __post_init__(self) -> None:
        self._crew = Crew(self.ctx.index)

    @property
    def has_changed(self) -> bool:
        """See `RelayShares.has_changed`; who crawls is looked at with each refresh."""
        return False

    @property
    def is_outdated(self) -> bool:
        """See `RelayShares.is_outdated`; nothing is dropped but by this host."""
        return False

    @property
    def owes_answer(self) -> bool:
        """See `RelayShares.owes_answer`."""
        return False

    def begin(self) -> None:
        """See `RelayShares.begin`; there is nothing to follow."""

    def finish(self) -> None:
        """See `RelayShares.finish`."""

    def on_result(self, host_key: str, result: ConnectionResult, is_online: bool) -> None:
        """See `RelayShares.on_result`; nobody else could crawl it."""

    def on_crawled(self, host_keys: Collection[str]) -> None:
        """See `RelayShares.on_crawled`; nobody waits for it."""

    @property
    def is_first(self) -> bool:
        """See `RelayShares.is_first`."""
        return self.share is not None and self.share.index == 0

    def refresh(self) -> None:
        """See `RelayShares.refresh`; says when the share changes."""
        path, most = self.ctx.config.database_path, self.ctx.settings.crawlers
        held = held_indexes(path, self.ctx.slot.stage)
        # If no process holds a slot, as in a test, the settings decide.
        supervised = most if not held or is_supervised(path) else None
        share = self._crew.share(held, supervised, self.ctx.clock.monotonic())
        if share == self.share and self._has_looked:
            return
        self.share, self._has_looked = share, True
        if share is None:
            self.ctx.log.warning("idle, the supervised crawlers take all relays", supervised=most)
        else:
            self.ctx.log.info("crawls a share of the relays", index=share.index, of=share.count)

    def among(self, selected: Sequence[Selected]) -> list[Selected]:
        """See `RelayShares.among`."""
        return [] if self.share is None else share_of(selected, self.share.index, self.share.count)

    def includes(self, address: str) -> bool:
        """See `RelayShares.includes`."""
        return self.share is not None and is_share_of(address, self.share.index, self.share.count)
