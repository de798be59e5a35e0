"""`check` loads what a stage loads only when it starts."""

import os
import subprocess
import sys
from pathlib import Path

from tests.fakes.service import settings


def check(tmp_path: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    given = os.environ | settings(EVENTS_DATABASE_PATH=str(tmp_path / "events.db")) | env
    command = [sys.executable, "-m", "pipeline.cli", "check"]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)


def test_tracing_without_its_collector_is_told(tmp_path: Path) -> None:
    found = check(tmp_path, EVENTS_TRACE_SAMPLE="0.001")
    assert found.returncode == 0
    assert "EVENTS_TRACE_SAMPLE=0.001" in found.stdout
    assert "warning: OTEL_EXPORTER_OTLP_ENDPOINT is not set: spans go to http://localhost:4318" in found.stderr
    told = check(tmp_path, EVENTS_TRACE_SAMPLE="0.001", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert (told.returncode, told.stderr) == (0, "")


def test_tracing_that_cannot_start_is_told(tmp_path: Path) -> None:
    found = check(tmp_path, EVENTS_TRACE_SAMPLE="1", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert found.returncode == 3
    assert "cannot start: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf" in found.stderr


def test_tracing_that_is_off_needs_nothing(tmp_path: Path) -> None:
    found = check(tmp_path, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert (found.returncode, found.stderr) == (0, "")
