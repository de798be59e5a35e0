"""How much waits for the saver and the first sink: what crawlers, and home's end of the hub, are held back by."""

from collections.abc import Sequence

from pipeline.store import inbox, outbox, sinks
from pipeline.store.database import Tx
from pipeline.store.lease import QueueSize


def size(tx: Tx, at_most: int, sink_names: Sequence[str]) -> QueueSize:
    """Return number and bytes of the events in the inbox, and in the outbox of the sink that is named first.

    Of each no more than `at_most` rows are counted.
    """
    waiting = inbox.size(tx, at_most)
    # Rows of a sink that is off do not count, nor those of sinks whose backlog is bounded.
    for first in sinks.outboxes(tx, sink_names)[:1]:
        owed = outbox.size(tx, first, at_most)
        waiting = QueueSize(waiting.events + owed.events, waiting.bytes + owed.bytes)
    return waiting
