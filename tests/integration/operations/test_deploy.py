"""The unit files are what systemd takes, and hardened; lock file, compose and Kubernetes agree with the rest."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.requirements import Requirement

from pipeline.cli import main
from pipeline.process.supervisor import Timeouts
from pipeline.settings.choices import HostRole
from pipeline.settings.config import Config
from pipeline.settings.env_file import read_env_file
from pipeline.settings.schema import SETTINGS

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "pipeline" / "deploy"
UNITS = ("event-service.service", "event-service@.service")
BACKUP_UNIT = "event-service-backup.service"
MAX_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture(params=[*UNITS, BACKUP_UNIT])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit with a program that exists here, since systemd looks for it."""
    name: str = request.param
    path = tmp_path / name
    text = (DEPLOY / name).read_text()
    path.write_text(text.replace("/opt/event-service/bin/event-service", sys.executable))
    return path


@needs_systemd
def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_the_exposure_is_low(unit: Path) -> None:
    if "@" in unit.name:
        unit = unit.rename(unit.with_name("event-service-forwarder.service"))
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    level = re.search(r"Overall exposure level for .*: ([0-9.]+)", said)
    assert level is not None, said
    assert float(level[1]) <= MAX_EXPOSURE


@needs_systemd
def test_timer_of_backups_runs_what_the_command_line_takes(tmp_path: Path) -> None:
    for name in ("event-service-backup.service", "event-service-backup.timer"):
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/event-service/bin/event-service", sys.executable))
    command = ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (line,) = re.findall(r"^ExecStart=\S+ (.*)$", (DEPLOY / "event-service-backup.service").read_text(), re.MULTILINE)
    name, *arguments = line.split()
    command_named = main.get_command(click.Context(main), name)
    assert command_named is not None
    command_named.make_context(name, [each for each in arguments if "env" not in each])
    folders = re.search(r"^StateDirectory=(.*)$", (DEPLOY / "event-service-backup.service").read_text(), re.MULTILINE)
    assert folders is not None
    assert arguments[-1].removeprefix("/var/lib/") in folders[1].split()


def test_the_supervisor_has_time_to_drain() -> None:
    """systemd must wait longer than the supervisor gives its stages."""
    stop = re.search(r"^TimeoutStopSec=(\d+)$", (DEPLOY / UNITS[0]).read_text(), re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) > Timeouts().drain_s


@pytest.mark.parametrize("name", UNITS)
def test_a_reload_reaches_the_process_that_reads_the_file(name: str) -> None:
    """SIGHUP would end a service that follows no file."""
    text = (DEPLOY / name).read_text()
    assert re.search(r"^ExecStart=.* --env-file /etc/event-service/environment$", text, re.MULTILINE)
    assert "\nExecReload=kill -HUP $MAINPID\n" in text


def test_the_readme_makes_the_file_that_the_units_read() -> None:
    """Readable for the service, which reads it under a user of its own."""
    readme = (DEPLOY.parents[1] / "README.md").read_text()
    assert "install -D -m 0644 /dev/stdin /etc/event-service/environment" in readme


def test_environment_files_of_several_hosts_are_complete_with_the_units() -> None:
    unit = dict(re.findall(r"^Environment=(\w+)=(.*)$", (DEPLOY / UNITS[0]).read_text(), re.MULTILINE))
    text = (ROOT / "pipeline" / "docs" / "operating.md").read_text()
    blocks = re.findall(r"^ *```ini\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    files = [[line.strip().split("=", 1) for line in each.split()] for each in blocks if "EVENTS_ROLE=" in each]
    found = [Config.from_env(unit | dict(each)) for each in files]
    assert [each.role for each in found] == [HostRole.CRAWLER, HostRole.HOME]
    assert found[0].host == "fra1"


def locked() -> dict[str, tuple[str, int]]:
    """By name, the version that the lock file has, and how many files may be it."""
    text = (DEPLOY / "requirements.lock").read_text().replace("\\\n", " ")
    found = re.findall(r"^([a-z0-9.-]+)==(\S+)(.*)$", text, re.MULTILINE)
    return {name: (version, rest.count("--hash=sha256:")) for name, version, rest in found}


def test_the_lock_file_has_all_that_is_required_and_each_by_its_hash() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].splitlines()
    required = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found = locked()
    for each in required:
        version, _ = found[each.name]
        assert each.specifier.contains(version), f"{each} is locked at {version}: run bin/lock"
    assert all(hashes for _, hashes in found.values())
    text = (DEPLOY / "requirements.lock").read_text()
    assert text.count("==") == len(found)
    assert not re.search(r"^--|/", text, re.MULTILINE), "no index and no path of the machine that made it"


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def test_what_compose_mounts_and_sets_is_there() -> None:
    compose = services()
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file(), (name, source)
        assert {each["source"] for each in service.get("configs", [])} <= set(compose["configs"])
    ours = compose["services"]["event-service"]
    names = {setting.name for setting in SETTINGS} | {"PUBSUB_EMULATOR_HOST"}
    given = set(read_env_file(DEPLOY / "compose-pubsub.env"))
    assert set(ours["environment"]) <= names
    assert given <= set(ours["environment"])
    assert (ROOT / "pipeline" / "deploy" / ours["build"]["context"] / "Dockerfile").is_file()
    assert int(ours["stop_grace_period"].removesuffix("s")) > Timeouts().drain_s


def test_hosts_of_compose_have_the_settings_of_their_roles() -> None:
    compose = services()
    hosts = {name: compose["services"][name] for name in ("home", "fra1", "ams1")}
    setup = compose["services"]["hub-setup"]["command"][0]
    for name, service in hosts.items():
        assert service["profiles"] == ["hub"]
        assert set(service["environment"]) <= {setting.name for setting in SETTINGS}
        assert service["command"] == ["supervise", "--env-file", f"/settings/{name}.env"]
        assert re.search(rf"\b{name}\b", setup), "its settings are written"
        assert f"{name}:/var/lib/event-service" in service["volumes"], "a database of its own"
        assert {each.split(":")[0] for each in service["volumes"]} <= set(compose["volumes"])
    assert "EVENTS_SINK" in hosts["home"]["environment"]
    assert "EVENTS_SINK" not in hosts["fra1"]["environment"] | hosts["ams1"]["environment"]


def test_prometheus_of_compose_scrapes_every_service_that_shows_metrics() -> None:
    compose = services()
    (job,) = yaml.safe_load(compose["configs"]["prometheus"]["content"])["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    ours = {name for name, each in compose["services"].items() if "event-service" in str(each.get("image"))}
    assert set(found["names"]) == ours - {"hub-setup", "topic"}, "these end after some work"
    assert (found["type"], found["port"]) == ("A", 8008), "a name that no profile started is no target"
    assert job["relabel_configs"] == [{"source_labels": ["__meta_dns_name"], "target_label": "instance"}]


def test_kubernetes_probes_ask_what_is_served_and_wait_for_the_stages() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    (workload,) = [each for each in documents if each["kind"] == "StatefulSet"]
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/_ready", "liveness": "/_live", "readiness": "/_ready"}
    assert pod["terminationGracePeriodSeconds"] > Timeouts().drain_s
    assert pod["securityContext"]["runAsUser"] == 10001
    given = {entry["name"] for entry in container["env"]} | set(documents[1]["data"])
    assert given <= {setting.name for setting in SETTINGS}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_the_configuration_that_compose_gives_it(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(services()["configs"]["prometheus"]["content"])
    shutil.copy(DEPLOY / "alerts.yml", tmp_path)
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
