"""The JSON of events, written once by the crawler that took them and never changed or copied.

Each lies under the number of its event, which `inbox`, `inbox_dead`, `events`, `outbox` and `outbox_dead` refer to. A
payload belongs to a row of the inbox or its dead letters, until the saver has decided; then to the row of `events`, or
it is dropped.
"""

from collections.abc import Iterable

from pipeline.store.database import Tx

PUT = "INSERT INTO payloads (event, payload) VALUES (?, ?)"
OF_EVENT = "SELECT event, payload FROM payloads WHERE event = ?"
DROP = "DELETE FROM payloads WHERE event = ?"


def put(tx: Tx, payloads: Iterable[tuple[int, bytes]]) -> None:
    """Keep the payloads of new events, each with its event's number."""
    tx.executemany(PUT, payloads)


def of_events(tx: Tx, events: Iterable[int]) -> dict[int, bytes]:
    """Return the payloads of events by their numbers; one that is gone is absent."""
    return dict(tx.executemany(OF_EVENT, ((event,) for event in events)))


def drop(tx: Tx, events: Iterable[int]) -> None:
    """Forget payloads that nothing refers to any more."""
    tx.executemany(DROP, ((event,) for event in events))
