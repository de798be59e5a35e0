"""Isolation of poison messages: rows whose worker crashed, and how many others a sink is given beside them."""

from typing import Final

from pipeline.store.outbox import OutboxRow

# A lease that was neither settled nor released may have ended with a crash over its row. After each one the row is
# delivered beside fewer others, in the end alone, and in random order, so that the others get past a deadly one.
MAX_BATCH_BY_LOST_CLAIMS: Final = (1024, 256, 64, 16, 4, 1)


def is_suspect(row: OutboxRow) -> bool:
    """Return True if the row was claimed before and neither settled nor released."""
    return row.lost_claims > 1


def max_batch_with(row: OutboxRow) -> int:
    """Return how many rows, `row` among them, may be with the sink together."""
    return MAX_BATCH_BY_LOST_CLAIMS[max(0, min(row.lost_claims, len(MAX_BATCH_BY_LOST_CLAIMS)) - 1)]


def next_batch(rows: list[OutboxRow]) -> list[OutboxRow]:
    """Return the rows that are no suspects, which come first; then suspects, as many as may go together."""
    free = next((index for index, row in enumerate(rows) if is_suspect(row)), len(rows))
    if free:
        return rows[: min(free, MAX_BATCH_BY_LOST_CLAIMS[0])]
    batch: list[OutboxRow] = []
    for row in rows:
        if len(batch) >= max_batch_with(row):
            break
        batch.append(row)
    return batch
