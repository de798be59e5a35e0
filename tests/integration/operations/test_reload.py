"""SIGHUP to a running service: what may change changes, nothing else is touched."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.fakes.child import Child
from tests.fakes.relay import ScriptedRelay
from tests.fakes.service import EventService, settings
from tests.integration.operations.support import PATIENCE_S, logged, until, wait_state


def write(path: Path, env: Mapping[str, str]) -> None:
    path.write_text("# settings\n" + "".join(f'{name}="{value}"\n' for name, value in env.items()))


def pids(service: EventService) -> dict[str, int]:
    return {f"{stage.name}-{stage.slot}": stage.pid for stage in service.stages()}


def test_another_bootstrap_relay_is_crawled_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    with ScriptedRelay() as first, ScriptedRelay() as second:
        env = settings(relays=[first.url])
        write(file, env)
        # What the process inherits says otherwise: the file wins.
        service = EventService(tmp_path / "service", settings(), arguments=("supervise", "--env-file", str(file)))
        with service:
            first.wait_for_connection()
            before = pids(service)
            write(file, env | {"EVENTS_BOOTSTRAP_RELAYS": second.url, "EVENTS_CRAWLERS": "7"})
            os.kill(service.child.process.pid, signal.SIGHUP)
            second.wait_for_connection()
            until(lambda: first.connections == 0, lambda: first.connections)
            (pending,) = logged(service, "settings changed that need a restart")
            assert pending["settings"] == "EVENTS_CRAWLERS"
            write(file, env | {"EVENTS_BOOTSTRAP_RELAYS": "junk"})
            os.kill(service.child.process.pid, signal.SIGHUP)
            until(lambda: bool(logged(service, "settings not reloaded, the old ones stay")), service.log_text)
            assert second.connections == 1
            assert pids(service) == before
            service.wait_healthy()
            # The relay that was crawled before is known, but not dialled: nobody else has named it.
            wait_state(service, second, "connected")
            assert service.stop() == 0


def test_the_log_level_of_every_process_changes(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    write(file, settings(EVENTS_LOG_LEVEL="ERROR"))
    with EventService(tmp_path / "service", {}, arguments=("supervise", "--env-file", str(file))) as service:
        assert service.log_text() == ""
        write(file, settings(EVENTS_LOG_LEVEL="DEBUG"))
        os.kill(service.child.process.pid, signal.SIGHUP)
        expected = {"supervisor", *pids(service)}
        said: list[set[str]] = [set()]

        def all_said() -> bool:
            said[0] = {line["process"] for line in logged(service, "settings reloaded")}
            return said[0] == expected

        until(all_said, lambda: (said[0], expected))


def test_a_bad_file_is_one_line_and_exit_code_3(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text("EVENTS_ENVIRONMENT=DEVELOPMENT\nEVENTS_LOG_LEVEL\n")
    for command in (("supervise",), ("stage", "saver"), ("check",)):
        log = tmp_path / "log"
        with Child([sys.executable, "-m", "pipeline.cli", *command, "--env-file", str(file)], log=log) as child:
            assert child.wait(PATIENCE_S) == 3
        assert log.read_text() == f"event-service: cannot start: {file}, line 2 is no NAME=value\n"
        log.unlink()
