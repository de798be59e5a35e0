"""The thread in which a crawling host says how it stands, so that its hand-over never waits for it."""

import threading
from typing import Final, Self

from pipeline.hub.connection import HubUnavailable
from pipeline.hub.line import HubLine
from pipeline.hub.state_report import FUNCTIONS, StateReport
from pipeline.process.stage import StageContext
from pipeline.store.database import Database
from pipeline.store.schema import open_database

_TURN_S: Final = 0.5
# For what is said last; the stage has to end in time.
_JOIN_S: Final = 3.0


class StateThread:
    """Runs while it is entered; says once more how the host stands when it is left."""

    def __init__(self, ctx: StageContext, url: str) -> None:
        self._ctx = ctx
        self._line = HubLine(url, FUNCTIONS, ctx.clock, ctx.log)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="state", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        ctx = self._ctx
        report = StateReport(ctx.clock, ctx.config.runtime_directory, lambda: ctx.bells.ring("crawler"))
        with open_database(ctx.config.database_path, ctx.clock, ctx.on_locked, ctx.times()) as database:
            while not self._ends.wait(_TURN_S):
                self._turn(report, database, is_last=False)
            self._turn(report, database, is_last=True)
        self._line.close()

    def _turn(self, report: StateReport, database: Database, *, is_last: bool) -> None:
        try:
            connection = self._line.get(lambda _: None)
            if connection is not None:
                report.turn(connection, database, is_last=is_last)
        except HubUnavailable as error:
            self._line.on_failure(error)
