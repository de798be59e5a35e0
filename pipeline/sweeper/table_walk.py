"""A walk over a table in short slices, so that no process waits long for the write lock."""

from collections.abc import Callable
from typing import Final

from pipeline.process.stage import StageContext
from pipeline.store.database import Database, Tx

STAGE: Final = "sweeper"
# A walk that found nothing to do restarts after this, so that an idle service is idle.
REST_S: Final = 10.0
# Half of the 50 ms that no process should wait for the write lock; slices grow and shrink to stay under it.
_SLICE_TARGET_S: Final = 0.025
_FIRST_SLICE_ROWS: Final = 100
_MAX_SLICE_ROWS: Final = 2_000

Step = Callable[[Tx, int], tuple[int, bool]]
"""Looks at up to that many rows: how many it dropped, and whether the walk is at its end."""


class TableWalk:
    """Walk over a table in steps, each a short transaction of its own, repeated for ever."""

    def __init__(
        self, ctx: StageContext, database: Database, what: str, step: Step, *,
        pace_s: Callable[[], float] = lambda: 0.0,
    ) -> None:  # fmt: skip
        """`pace_s`: how long it rests between two steps."""
        self._clock = ctx.clock
        self._database = database
        self._step = step
        self._pace_s = pace_s
        self._rows = _FIRST_SLICE_ROWS
        self._rest_until = 0.0
        self._counter = ctx.metrics.stage_discarded.labels(STAGE, f"expired-{what}")

    def turn(self) -> bool:
        """Do one slice if it is time; return True if it was."""
        began = self._clock.monotonic()
        if began < self._rest_until:
            return False
        with self._database.write() as tx:
            locked = self._clock.monotonic()
            dropped, at_end = self._step(tx, self._rows)
        held = self._clock.monotonic() - locked
        self._counter.inc(dropped)
        self._fit(held)
        self._rest_until = self._clock.monotonic() + (REST_S if at_end else self._pace_s())
        return True

    def _fit(self, held: float) -> None:
        if held > _SLICE_TARGET_S:
            self._rows = max(1, self._rows // 2)
        elif held < _SLICE_TARGET_S / 4:
            self._rows = min(_MAX_SLICE_ROWS, self._rows * 2)
