"""Accepted events as the saver leaves them, with the payloads that crawlers wrote before."""

from collections.abc import Iterable

from pipeline.store import events, payloads
from pipeline.store.database import Tx
from pipeline.store.events import Accepted


def store_with_payloads(tx: Tx, accepted: Iterable[Accepted]) -> None:
    """Keep `accepted` until they are delivered."""
    rows = list(accepted)
    events.store(tx, rows)
    payloads.put(tx, ((each.event, each.payload) for each in rows))
