"""Changes of who is wanted, at once."""

from pipeline.store import wanted_authors
from pipeline.store.database import Tx
from pipeline.store.wanted_authors import WantedChanges


def changes_since(tx: Tx, generation: int) -> WantedChanges:
    """Return the changes after `generation` as tuples; 0 gives the whole state."""
    changes = wanted_authors.stream_since(tx, generation)
    return WantedChanges(changes.generation, tuple(changes.authors), tuple(changes.registered))
