"""The answer to `/metrics`."""

import asyncio
from pathlib import Path
from typing import Final

import apsw
from prometheus_client.core import Metric

from pipeline.errors import EventServiceError
from pipeline.process import exposition
from pipeline.process.clock import Clock
from pipeline.process.host_metrics import WITHHELD
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.metrics import Metrics
from pipeline.server.collectors import MAX_RELAYS, StoreCollector
from pipeline.server.host_collector import HostCollector
from pipeline.server.worker import DatabaseThread
from pipeline.settings.choices import HostRole
from pipeline.settings.config import Config
from pipeline.status.snapshot import sinks_of
from pipeline.store import gauges
from pipeline.store.database import Database
from pipeline.store.disk import disk_use

_STAGE: Final = "server"


class Scrape:
    """Renders the metrics of all processes in a thread; those who ask during it get the same rendering."""

    def __init__(
        self, thread: DatabaseThread, config: Config, clock: Clock, metrics: Metrics, log: RateLimitedLogger
    ) -> None:
        self._thread = thread
        self._runtime_directory: Path = config.runtime_directory
        self._config = config
        self._clock = clock
        self._log = log
        self._succeeded = metrics.handler("updateMetrics")
        self._failed = metrics.handler("updateMetrics", success=False)
        self._errors = metrics.stage_errors.labels(_STAGE, "metrics")
        self._rendering: asyncio.Task[bytes] | None = None

    async def text(self) -> bytes:
        """Return the metrics in text format 0.0.4."""
        if self._rendering is None or self._rendering.done():
            self._rendering = asyncio.create_task(self._thread.run(self._render))
        # Shielded: a caller that is cancelled must not take the answer from the others.
        return await asyncio.shield(self._rendering)

    def _render(self, database: Database) -> bytes:
        collectors, added = self._collectors(database)
        withheld = WITHHELD if self._config.role is HostRole.CRAWLER else frozenset[str]()
        return exposition.render(self._runtime_directory, collectors, clock=self._clock, added=added, withheld=withheld)

    def _collectors(self, database: Database) -> tuple[list[exposition.Collector], list[Metric]]:
        """Return the gauges of the database, and series of other hosts.

        Nothing if it fails, since the processes' metrics are then needed most.
        """
        began = self._clock.monotonic()
        try:
            with database.read() as tx:
                state = gauges.read(tx, max_relays=MAX_RELAYS)
                sinks = sinks_of(self._config, tx)
                hosts = HostCollector.read(tx, self._clock.now_ms())
            collector = StoreCollector(state, sinks, disk_use(database.path), self._clock.now_ms())
        except (apsw.Error, EventServiceError) as error:
            self._failed.record(self._clock.monotonic() - began)
            self._errors.inc()
            self._log.error("metrics", "the database cannot be read for the metrics", error=error)
            return [], []
        self._succeeded.record(self._clock.monotonic() - began)
        return [collector, hosts], hosts.relayed()
