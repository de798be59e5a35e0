"""Where the processes of the service that runs on this database keep their heartbeats and metrics.

Written by the service, read by commands that an operator starts with another environment.
"""

from pathlib import Path

from pipeline.store.database import Tx

RECORD = "INSERT INTO runtime_directory (only, path) VALUES (1, ?) ON CONFLICT DO UPDATE SET path = excluded.path"
RECORDED = "SELECT path FROM runtime_directory"


def record(tx: Tx, directory: Path) -> None:
    """Let others find `directory`; writes nothing where it is known already."""
    if recorded(tx) != directory:
        tx.execute(RECORD, (str(directory),))


def recorded(tx: Tx) -> Path | None:
    """Return the directory that was recorded last; None before the first run."""
    row = tx.execute(RECORDED).fetchone()
    return None if row is None else Path(str(row[0]))
