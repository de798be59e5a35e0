"""The supervisor of the real service has nothing that a fork must not inherit."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.fakes.service import EventService, settings


def targets(folder: Path) -> Iterator[str]:
    """Where its links lead; one that is gone by now is a file that was open for a moment."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            yield str(path.readlink())


def test_supervisor_has_one_thread_and_no_file_of_the_database(tmp_path: Path) -> None:
    """Whatever was imported, Pub/Sub above all, and also after it has forked."""
    with EventService(tmp_path, settings(pubsub="127.0.0.1:9")) as service:
        supervisor = Path("/proc") / str(service.child.pid)
        assert len(list((supervisor / "task").iterdir())) == 1
        files = list(targets(supervisor / "fd"))
        assert [name for name in files if "events.db" in name and ".locks" not in name] == []
        assert [name for name in files if name.startswith("socket:")] == []
        assert service.stop() == 0


def test_every_stage_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with EventService(tmp_path, settings()) as service:
        before = {(one.name, one.slot): one.pid for one in service.stages()}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        service.wait_stages(
            lambda stages: (
                {(one.name, one.slot) for one in stages} == set(before)
                and not {one.pid for one in stages} & set(before.values())
            )
        )
        service.wait_healthy()
        assert service.stop() == 0
