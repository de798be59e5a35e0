"""The relays to crawl, by what the store knows of all of them; see `selection` for how they are chosen."""

import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from pipeline.crawl.ranking import ranked
from pipeline.crawl.selection import Selected, Selection, Skipped, choose, passed_over
from pipeline.settings.config import Config
from pipeline.store import relay_candidates
from pipeline.store.database import Database
from pipeline.store.known_mentions import KnownMentions

# Candidates looked at beyond those dialled, since some fall to the skip list and the bound per host.
_SPARE_CANDIDATES: Final = 20_000


@dataclass(slots=True)
class RelayChoice:
    """Chooses again and again; remembers who mentions relays. For one thread."""

    _mentions: KnownMentions = field(default_factory=KnownMentions)

    def choose(
        self, database: Database, config: Config, now: int, *, counts_skipped: bool = False
    ) -> tuple[list[Selected], Counter[Skipped]]:
        """Return the relays to crawl at `now` (ms), the best first.

        With `counts_skipped` also how many others were skipped, by reason.
        """
        selection = Selection(
            config.max_relays, config.max_relays_per_host, config.skip_relays, config.allow_private_relays,
            allow_onion=config.socks_proxy is not None, ports=config.allowed_ports, own=config.public_url,
        )  # fmt: skip
        limit = config.max_relays + _SPARE_CANDIDATES
        with database.read() as tx:
            found = relay_candidates.candidates(tx, discovered=config.discover_relays, limit=limit)
            chosen = choose(ranked(found, now), selection, now, functools.partial(self._mentions.of, tx))
        return chosen.selected, passed_over(found, selection) + chosen.crowded if counts_skipped else Counter()
