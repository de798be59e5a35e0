"""What we have of a query: the items that relays are compared with (NIP-77). No I/O, no clock."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pipeline.crawl.sync.query import Query
from pipeline.nostr.negentropy import ItemSet


@dataclass(frozen=True, slots=True)
class ItemSetWindow:
    """All that we have of a query from `since` to `until` (seconds, both included)."""

    items: ItemSet
    since: int
    until: int


class Unavailable(Enum):
    """Why there is nothing to compare with."""

    LOADING = "yet"
    """It is being built; ask again in a second."""
    UNKNOWN = "known"
    """It cannot be told from what is stored."""


class ItemSetProvider(Protocol):
    """Tells what we have, without waiting; called for many relays."""

    def item_set_for(self, query: Query, since: int) -> ItemSetWindow | Unavailable:
        """What we have of `query` since then, or as far back as there is room for."""
        ...
