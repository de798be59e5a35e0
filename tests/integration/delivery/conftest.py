from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.delivery import outbox_client, sink_health, stream_worker
from pipeline.process.backoff import Backoff
from tests.integration.delivery.support import Outbox


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    """An outbox of the Pub/Sub sink."""
    made = Outbox(tmp_path / "events.db")
    yield made
    made.database.close()


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks that are down and rows that failed are tried again at once."""
    monkeypatch.setattr(sink_health, "_PATIENCE", Backoff(base_s=0.01, factor=1.0, cap_s=0.01))
    monkeypatch.setattr(outbox_client, "_ROW_RETRY", Backoff(base_s=0.01, factor=1.0, cap_s=0.01))
    monkeypatch.setattr(stream_worker, "_IDLE_S", 0.05)


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that failed is not tried again while the test lasts."""
    monkeypatch.setattr(outbox_client, "_ROW_RETRY", Backoff(base_s=3600.0, factor=1.0, cap_s=3600.0))
