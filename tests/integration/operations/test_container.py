"""What the Dockerfile says holds for a running service; no container engine is needed to see it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.net import free_port
from tests.fakes.service import EventService

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def health_check(address: str | None) -> int:
    """The exit code of the image's health check under this `EVENTS_LISTEN_ADDRESS`."""
    match = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert match is not None
    program, *arguments = json.loads(match[1])
    assert program == "python"
    env = {"PATH": os.environ["PATH"]} | ({} if address is None else {"EVENTS_LISTEN_ADDRESS": address})
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, timeout=60, check=False
    ).returncode


def test_the_health_check_follows_health(tmp_path: Path) -> None:
    with EventService(tmp_path) as service:
        address = f"{service.host}:{service.port}"
        assert health_check(address) == 0
    assert health_check(address) != 0


@pytest.mark.parametrize("host", ["", "0.0.0.0", "[::]", "localhost"])
def test_the_health_check_finds_every_form_of_address(tmp_path: Path, host: str) -> None:
    service = EventService(tmp_path)
    service.port = free_port("0.0.0.0")
    address = f"{host}:{service.port}"
    service.env["EVENTS_LISTEN_ADDRESS"] = address
    service.host = "127.0.0.1"
    with service:
        assert health_check(address) == 0


def test_everything_that_is_built_from_is_copied() -> None:
    copied = {word for line in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()}
    assert copied == {
        "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "pipeline", "stages", "pipeline/deploy/requirements.lock"
    }  # fmt: skip
    assert all((ROOT / name).exists() for name in copied)


def test_it_runs_as_nobody_in_particular() -> None:
    ((user, group),) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert re.search(rf"groupadd --gid {group} ", DOCKERFILE)
    assert re.search(rf"useradd --uid {user} --gid {group} ", DOCKERFILE)
    manifest = (ROOT / "pipeline/deploy/kubernetes.yaml").read_text()
    for name, number in (("runAsUser", user), ("runAsGroup", group), ("fsGroup", group)):
        assert f"{name}: {number}\n" in manifest


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {
        "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "pipeline", "stages"
    }  # fmt: skip
