"""Which relays this process crawls: chosen from the store, shared with the other crawler processes."""

import functools
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.crawl.crew import Crew, Share
from pipeline.crawl.ingester import Batch, Ingester
from pipeline.crawl.ranking import ranked
from pipeline.crawl.relay_pool import RelayPool
from pipeline.crawl.selection import (
    Selected,
    Selection,
    Skipped,
    choose,
    fetching_lists,
    is_share_of,
    passed_over,
    share_of,
    tried_anew,
    trusted,
)
from pipeline.crawl.sync.plan import Plan
from pipeline.process.slots import held_indexes, is_supervised
from pipeline.process.stage import StageContext
from pipeline.relay.dial_gate import DialGate
from pipeline.store import backfills, relay_candidates, relay_status, relays
from pipeline.store.database import Database
from pipeline.store.known_mentions import KnownMentions
from pipeline.store.relay_status import RelayState

# Candidates looked at beyond those dialled, since some fall to the skip list and the bound per host.
_SPARE_CANDIDATES: Final = 20_000


@dataclass(slots=True)
class RelayAssignment:
    """Lets the pool of one process follow what the store knows of relays."""

    ctx: StageContext
    database: Database
    pool: RelayPool
    ingester: Ingester
    dial_gate: DialGate
    bootstrap: tuple[str, ...] | None = None
    """The bootstrap relays, as they are written, when this process last wrote them down."""
    list_relays: frozenset[int] = frozenset()
    """Which relays, besides the operator's, are asked for relay lists."""
    crew: Crew = field(init=False)
    share: Share | None = None
    has_looked: bool = False
    mentions: KnownMentions = field(default_factory=KnownMentions)

    def __post_init__(self) -> None:
        self.crew = Crew(self.ctx.index)

    def refresh(self, plan: Plan) -> None:
        """Choose among the relays that are known now, and let the pool follow."""
        self._note_bootstrap()
        share = self._share()
        # One time for all of it: a look may take as long as a trial has left.
        now = self.ctx.clock.now_ms()
        selected = self._select(share, now)
        self.list_relays = fetching_lists(selected, self.list_relays)
        mine = [] if share is None else share_of(selected, share.index, share.count)
        if tried := tried_anew(mine, now):
            with self.database.write() as tx:
                relay_candidates.mark_tried(tx, tried, now)
        if not self.has_looked:
            self.has_looked = True
            self._correct_states({each.candidate.relay for each in mine}, share)
        with self.database.read() as tx:
            self.pool.backfills = backfills.still_open(tx)
        self.pool.mode = self.ctx.settings.crawl_mode
        self.pool.list_relays = self.list_relays
        self.pool.set_relays(self.database, mine, plan)

    def _note_bootstrap(self) -> None:
        """Write the bootstrap relays down where the settings have changed."""
        written = tuple(relay.spelling for relay in self.ctx.settings.bootstrap_relays)
        if written != self.bootstrap:
            self.bootstrap = written
            with self.database.write() as tx:
                relays.set_bootstrap(tx, written, self.ctx.clock.now_ms())

    def _select(self, share: Share | None, now: int) -> list[Selected]:
        """Return the relays that all processes crawl together, the best first."""
        config = self.ctx.settings
        selection = Selection(
            config.max_relays, config.max_relays_per_host, config.skip_relays, config.allow_private_relays,
            allow_onion=config.socks_proxy is not None, ports=config.allowed_ports, own=config.public_url,
        )  # fmt: skip
        limit = config.max_relays + _SPARE_CANDIDATES
        with self.database.read() as tx:
            found = relay_candidates.candidates(tx, discovered=config.discover_relays, limit=limit)
            chosen = choose(ranked(found, now), selection, now, functools.partial(self.mentions.of, tx))
        self.dial_gate.trust(*trusted(chosen.selected, now))
        if share is not None and share.index == 0:
            # All processes find the same; one counts it.
            skipped = passed_over(found, selection) + chosen.crowded
            for reason in Skipped:
                self.ctx.metrics.relays_skipped.labels(reason.value).set(skipped[reason])
        return chosen.selected

    def _share(self) -> Share | None:
        """Return the share of the relays that this process takes now; says when that changes."""
        path, most = self.ctx.config.database_path, self.ctx.settings.crawlers
        held = held_indexes(path, self.ctx.slot.stage)
        # If no process holds a slot, as in a test, the settings decide.
        supervised = most if not held or is_supervised(path) else None
        share = self.crew.share(held, supervised, self.ctx.clock.monotonic())
        if share != self.share or not self.has_looked:
            self.share = share
            if share is None:
                self.ctx.log.warning("idle, the supervised crawlers take all relays", supervised=most)
            else:
                self.ctx.log.info("crawls a share of the relays", index=share.index, of=share.count)
        return share

    def _correct_states(self, mine: Collection[int], share: Share | None) -> None:
        """Correct the states that a killed process left of relays which are not crawled any more."""
        with self.database.read() as tx:
            stale = [
                each
                for each in relay_status.statuses(tx)
                if each.state is not RelayState.DISCONNECTED
                and each.relay not in mine
                and share is not None
                and is_share_of(each.address, share.index, share.count)
            ]
        now = self.ctx.clock.now_ms()
        for each in stale:
            over = replace(each, state=RelayState.DISCONNECTED, state_since=now, subscriptions=0, rate_limit_backoff=0)
            self.ingester.submit(Batch(each.relay, now, status=over))
