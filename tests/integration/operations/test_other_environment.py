"""Commands in a terminal that has not the environment of the service: they show what runs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.service import EventService, settings
from tests.integration.operations.support import until


def elsewhere(service: EventService, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    given = plain | {"EVENTS_DATABASE_PATH": str(service.database)} | env
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)


def test_status_shows_what_the_service_runs_with(tmp_path: Path) -> None:
    with EventService(tmp_path, settings(target="ws://127.0.0.1:1")) as service:
        found = json.loads(elsewhere(service, "status", "--json").stdout)
        sinks = {each["name"]: each["target"] for each in found["sinks"]}
        assert sinks == {"pubsub": f"jsonl:{service.sink_path}", "relay": "ws://127.0.0.1:1"}
        assert not [each for each in found["troubles"] if each["subject"] == "settings"]
        assert elsewhere(service, "status", "--url").stdout.startswith(f"{service.url}/")
        other = elsewhere(service, "status", EVENTS_SINK="stdout", EVENTS_TARGET_RELAY="").stdout
        assert f"settings: EVENTS_SINK is stdout here, and the service runs with jsonl:{service.sink_path}" in other
        assert "settings: EVENTS_TARGET_RELAY is nothing here, and the service runs with ws://127.0.0.1:1" in other
        assert f"sink pubsub    jsonl:{service.sink_path}" in other.splitlines()
        assert service.stop() == 0
    left = json.loads(elsewhere(service, "status", "--json", EVENTS_SINK="none", EVENTS_TARGET_RELAY="").stdout)
    assert left["sinks"] == [], "nothing runs: this environment is all there is"


def test_rows_of_a_sink_that_the_service_has_on_are_not_dropped(tmp_path: Path) -> None:
    with EventService(tmp_path, settings()) as service:
        refused = elsewhere(service, "dead", "drop", "--sink", "pubsub", "--yes", EVENTS_SINK="none")
        assert refused.returncode == 2
        assert "sink pubsub is on" in refused.stderr
        assert elsewhere(service, "dead", "drop", "--sink", "relay", "--yes").returncode == 0
        assert service.stop() == 0


@pytest.mark.parametrize("alone", [False, True], ids=["supervised", "alone"])
def test_reloaded_settings_are_shown(tmp_path: Path, alone: bool) -> None:
    file = tmp_path / "environment"
    file.write_text("EVENTS_MAX_QUEUE_AGE=1h\n")
    env = settings(EVENTS_SINK="none")
    how = ("stage", "forwarder") if alone else ("supervise",)
    service = EventService(tmp_path / "service", env, arguments=(*how, "--env-file", str(file)))
    if alone:
        service.env["EVENTS_STAGE_LISTEN_ADDRESS"] = f"{service.host}:{service.port}"
    with service:

        def differs() -> bool:
            shown = elsewhere(service, "status", EVENTS_MAX_QUEUE_AGE="2h").stdout
            return "EVENTS_MAX_QUEUE_AGE is 2h here, and the service runs with 1h" in shown

        assert differs()
        file.write_text("EVENTS_MAX_QUEUE_AGE=2h\n")
        service.child.process.send_signal(signal.SIGHUP)
        until(lambda: not differs(), lambda: elsewhere(service, "status").stdout)
        assert service.stop() == 0
