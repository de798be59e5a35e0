"""Rows that somebody may have died of: who they are, and how many others may be with a sink together with them."""

from typing import Final

from pipeline.store.outbox import OutboxRow

# A row that was claimed and never heard of may be what its claimer died of. Each time that happens it is delivered
# together with fewer others, in the end alone, and in any order, so that they get past what is deadly.
TOGETHER: Final = (1024, 256, 64, 16, 4, 1)


def is_suspect(row: OutboxRow) -> bool:
    """Whether the row was claimed before and neither settled nor put off."""
    return row.lost_claims > 1


def most_together(row: OutboxRow) -> int:
    """How many rows, itself among them, may be with the sink while `row` is."""
    return TOGETHER[max(0, min(row.lost_claims, len(TOGETHER)) - 1)]


def next_batch(rows: list[OutboxRow]) -> list[OutboxRow]:
    """Those that are beyond suspicion, who come first; then suspects, as many as may go together."""
    free = next((index for index, row in enumerate(rows) if is_suspect(row)), len(rows))
    if free:
        return rows[: min(free, TOGETHER[0])]
    batch: list[OutboxRow] = []
    for row in rows:
        if len(batch) >= most_together(row):
            break
        batch.append(row)
    return batch
