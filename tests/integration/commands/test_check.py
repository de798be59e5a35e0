"""`check` loads what a stage loads only when it starts."""

import os
import subprocess
import sys
from pathlib import Path

from tests.fakes.plugins import install
from tests.fakes.service import settings


def check(tmp_path: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    given = os.environ | settings(EVENTS_DATABASE_PATH=str(tmp_path / "events.db")) | env
    command = [sys.executable, "-m", "pipeline.cli", "check"]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)


PLUGIN = """
class Sink:
    max_messages = 1

    def __init__(self, argument):
        assert argument == "good", "the argument is bad"

    def deliver(self, messages): ...
    def keep_alive(self): ...
    def close(self): print("closed")
"""


def test_plugin_is_loaded_and_a_broken_one_is_told(tmp_path: Path) -> None:
    install(tmp_path, "sinks", {"fine": "some_sinks:Sink", "gone": "no_such_module:Sink", "poor": "some_sinks:object"})
    (tmp_path / "some_sinks.py").write_text(PLUGIN + "object = lambda argument: argument\n")
    found = check(tmp_path, EVENTS_SINK="fine:good", PYTHONPATH=str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("closed\n")
    for sink, why in (
        ("fine:other", "sink fine cannot be made: AssertionError: the argument is bad"),
        ("gone:", "sink gone cannot be made: ModuleNotFoundError: No module named 'no_such_module'"),
        ("poor:", "sink poor has no max_messages, deliver, keep_alive, close"),
    ):
        found = check(tmp_path, EVENTS_SINK=sink, PYTHONPATH=str(tmp_path))
        assert found.returncode == 3
        assert f"cannot start: EVENTS_SINK: {why}" in found.stderr


def test_database_that_is_a_folder_is_told(tmp_path: Path) -> None:
    found = check(tmp_path, EVENTS_DATABASE_PATH=str(tmp_path))
    assert found.returncode == 3
    assert f"EVENTS_DATABASE_PATH: must be the path of a file, and {tmp_path} is a directory" in found.stderr


def test_help_of_check_promises_no_reload() -> None:
    command = [sys.executable, "-m", "pipeline.cli", "check", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "--env-file" in shown
    assert "SIGHUP" not in shown


def test_tracing_without_its_collector_is_told(tmp_path: Path) -> None:
    found = check(tmp_path, EVENTS_TRACE_SAMPLE="0.001")
    assert found.returncode == 0
    assert "EVENTS_TRACE_SAMPLE=0.001" in found.stdout
    assert "warning: OTEL_EXPORTER_OTLP_ENDPOINT is not set: spans go to http://localhost:4318" in found.stderr
    told = check(tmp_path, EVENTS_TRACE_SAMPLE="0.001", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert (told.returncode, told.stderr) == (0, "")


def test_tracing_that_a_variable_of_opentelemetry_ends_is_told(tmp_path: Path) -> None:
    found = check(tmp_path, EVENTS_TRACE_SAMPLE="0.001", OTEL_SDK_DISABLED="True")
    assert (found.returncode, found.stderr) == (0, "warning: OTEL_SDK_DISABLED is true: no span is exported\n")


def test_tracing_that_cannot_start_is_told(tmp_path: Path) -> None:
    found = check(tmp_path, EVENTS_TRACE_SAMPLE="1", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert found.returncode == 3
    assert "cannot start: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf" in found.stderr


def test_tracing_that_is_off_needs_nothing(tmp_path: Path) -> None:
    found = check(tmp_path, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert (found.returncode, found.stderr) == (0, "")
