"""Scrapes at once share one rendering."""

import asyncio
import functools
import threading
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.process.logs import RateLimitedLogger, get_logger
from pipeline.process.metrics import Metrics
from pipeline.server.scrape import Scrape
from pipeline.server.worker import DatabaseThread
from pipeline.settings.config import Config
from pipeline.store.database import Database
from pipeline.store.schema import open_database

PATIENCE_S = 60.0


class Stand:
    """A scrape whose thread can be held up."""

    def __init__(self, directory: Path) -> None:
        clock = SystemClock()
        config = Config.from_env(
            {
                "EVENTS_ENVIRONMENT": "DEVELOPMENT",
                "EVENTS_DATABASE_PATH": str(directory / "events.db"),
                "EVENTS_RUNTIME_DIRECTORY": str(directory),
            }
        )
        self.thread = DatabaseThread("scrape", functools.partial(open_database, config.database_path, clock))
        self.scrape = Scrape(self.thread, config, clock, Metrics(), RateLimitedLogger(get_logger("test"), clock))
        self.released = threading.Event()

    def hold(self) -> "asyncio.Task[bool]":
        def wait(database: Database) -> bool:
            return self.released.wait(PATIENCE_S)

        return asyncio.create_task(self.thread.run(wait))


def test_those_who_ask_during_a_rendering_get_it_and_later_ones_a_new_one(tmp_path: Path) -> None:
    stand = Stand(tmp_path)

    async def main() -> None:
        held = stand.hold()
        asked = [asyncio.create_task(stand.scrape.text()) for _ in range(5)]
        await asyncio.sleep(0)
        stand.released.set()
        texts = await asyncio.gather(*asked)
        assert all(text is texts[0] for text in texts)
        assert await stand.scrape.text() is not texts[0]
        assert await held

    asyncio.run(main())
    stand.thread.close()


def test_one_who_gives_up_takes_the_rendering_from_nobody(tmp_path: Path) -> None:
    stand = Stand(tmp_path)

    async def main() -> None:
        held = stand.hold()
        first, second = asyncio.create_task(stand.scrape.text()), asyncio.create_task(stand.scrape.text())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        stand.released.set()
        assert b"stored_relay_addresses_gauge" in await second
        assert await held

    asyncio.run(main())
    stand.thread.close()
