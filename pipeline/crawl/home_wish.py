"""What home wants crawled by other hosts: the relays that it would crawl itself, with its orders for each."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.crawl.choice import RelayChoice
from pipeline.crawl.crawled_relay import crawled_since
from pipeline.crawl.selection import tried_anew
from pipeline.process.clock import Clock
from pipeline.settings.config import Config
from pipeline.store import relay_candidates, relay_status, relays
from pipeline.store.database import Database
from pipeline.store.held_shares import OperatorOrders, OrderedRelay


@dataclass(slots=True)
class HomeWish:
    """Chooses for all hosts; keeps the trials of relays and since when each is crawled. For one thread."""

    clock: Clock
    settings: Callable[[], Config]
    _choice: RelayChoice = field(default_factory=RelayChoice)
    _bootstrap: tuple[str, ...] | None = None

    def __call__(self, database: Database) -> list[OrderedRelay]:
        """Return all relays that are to be crawled now."""
        config, now = self.settings(), self.clock.now_ms()
        written = tuple(relay.spelling for relay in config.bootstrap_relays)
        if written != self._bootstrap:
            self._bootstrap = written
            with database.write() as tx:
                relays.set_bootstrap(tx, written, now)
        selected, _ = self._choice.choose(database, config, now)
        tried = tried_anew(selected, now)
        never = [each.candidate.relay for each in selected if crawled_since(each, now) is None]
        if tried or never:
            with database.write() as tx:
                relay_candidates.mark_tried(tx, tried, now)
                relay_status.start_crawling(tx, never, now)
        return [
            OrderedRelay(
                each.address.url, each.address.host_key,
                OperatorOrders(
                    each.candidate.by_operator, bool(each.candidate.named_by_user), each.candidate.ask,
                    each.candidate.spelling, crawled_since(each, now) or now,
                ),
            )
            for each in selected
        ]  # fmt: skip
