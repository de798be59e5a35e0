"""The service as the README installs it, under a real systemd with the hardening of the shipped units."""

import json
import re
import subprocess
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.factories.events import authors
from tests.fakes import systemd_box
from tests.fakes.credentials import write_key_file
from tests.fakes.go_database import GoDatabase
from tests.fakes.net import free_port, loopback_address
from tests.fakes.scrape import Scrape
from tests.fakes.systemd_box import SystemdBox
from tests.integration.operations.support import until

ROOT = Path(__file__).resolve().parents[3]
SOURCE = "/root/event-service"
STATE = "/var/lib/event-service"
SERVICE, LONE = "event-service", "event-service@forwarder"
# No device can be made inside; and nobody wants to wait half a minute for a watchdog.
DROP_INS = {SERVICE: "PrivateDevices=no", "event-service@": "PrivateDevices=no\nWatchdogSec=6"}
STAGES = {"crawler-0", "saver-0", "forwarder-0", "sender-0", "server-0", "sweeper-0", "supervisor"}

pytestmark = pytest.mark.skipif(bool(systemd_box.missing()), reason=systemd_box.missing() or "here")


class Installed:
    """The box with the service in it, and what an operator does there."""

    def __init__(self, box: SystemdBox) -> None:
        self.box = box
        self.host = loopback_address()
        self.port = free_port(self.host)

    def environment(self, **more: str) -> str:
        """An environment file that reaches nobody outside this machine."""
        given = {
            "EVENTS_ENVIRONMENT": "DEVELOPMENT",
            "EVENTS_LISTEN_ADDRESS": f"{self.host}:{self.port}",
            "EVENTS_BOOTSTRAP_RELAYS": f"ws://{self.host}:9",
            "EVENTS_DISCOVER_RELAYS": "false",
            "EVENTS_ALLOW_PRIVATE_RELAYS": "true",
            "EVENTS_CRAWLERS": "1",
        } | more
        return "".join(f"{name}={value}\n" for name, value in given.items())

    def set_environment(self, **more: str) -> None:
        self.box.put("/etc/event-service/environment", self.environment(**more))

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://{self.host}:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait_healthy(self) -> None:
        until(lambda: self.get("/_health") == (200, '"ok"'), lambda: (self.get("/_health"), self.log()))

    def log(self) -> str:
        return self.box.run("journalctl --no-pager -o cat -n 40 -u 'event-service*'", check=False)

    def slots(self) -> set[str]:
        status, text = self.get("/metrics")
        assert status == 200, text[:500]
        return {sample.labels["slot"] for sample in Scrape(text).samples("process_cpu_seconds_total")}

    def pid_of(self, slot: str) -> int:
        """The process of a stage, by the name that it bears."""
        return int(self.box.run(f"pgrep -x {slot[:15]} || echo 0").split()[0])


def readme_commands() -> list[str]:
    """The installation under systemd, command by command."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"Under systemd, in five commands.*?```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return block[1].strip().splitlines()


def install(installed: Installed) -> None:
    """What the README says, but with an environment file that fits the box."""
    box = installed.box
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    box.copy_tree(ROOT, [name for name in listed.stdout.splitlines() if (ROOT / name).exists()], SOURCE)
    for unit, lines in DROP_INS.items():
        box.put(f"/etc/systemd/system/{unit}.service.d/box.conf", f"[Service]\n{lines}\n")
    commands = readme_commands()
    assert len(commands) == 5
    for command in commands:
        if "/etc/event-service/environment" in command:
            box.run(command, folder=SOURCE)
            installed.set_environment()
        else:
            box.run(command, folder=SOURCE)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_service_that_the_readme_installs(tmp_path: Path) -> None:
    """One story, since an installation takes half a minute."""
    with SystemdBox(tmp_path / "box") as box:
        installed = Installed(box)
        install(installed)
        installed.wait_healthy()
        assert installed.slots() == STAGES, "every process is seen, though /proc hides most"
        commands_find_the_running_service(installed)
        a_stage_of_its_own_is_seen_and_watched(installed)
        a_reload_takes_what_is_right_and_refuses_what_is_wrong(installed)
        key_files_are_optional(installed, tmp_path)
        a_go_database_is_taken_over_in_place(installed, tmp_path)
        the_go_service_s_own_path_is_explained(installed)
        an_update_keeps_everything(installed)
        box.run(f"systemctl stop {SERVICE} {LONE}")
        assert installed.get("/_health")[0] == 0
        result = box.run(f"systemctl show -P Result {SERVICE} {LONE}").split()
        assert result == ["success", "success"]


def commands_find_the_running_service(installed: Installed) -> None:
    """As root, with nothing set but what the installation set."""
    box = installed.box
    npub = "npub1sn0wdenkukak0d9dfczzeacvhkrgz92ak56egt7vdgzn8pv2wfqqhrjdv9"
    status = json.loads(box.run("event-service status --json || true"))
    assert {stage["slot"]: stage["state"] for stage in status["stages"]} == dict.fromkeys(STAGES, "ok")
    assert "registered" in box.run(f"event-service users add {npub}")
    assert len(box.run("event-service users list").splitlines()) == 1
    assert installed.host in box.run("event-service relays list --all")
    assert box.run("event-service dead list") == ""
    box.run("event-service backup /root/copy.db")
    assert box.exit_code(f"event-service explain {'01' * 32}") == 1
    owners = box.run(f"stat -c '%U' {STATE}/*").split()
    assert set(owners) == {"event-service"}, "root leaves nothing behind that the service cannot open"
    second = box.run("event-service supervise 2>&1 || echo ended with $?", check=False)
    assert "ended with 3" in second, "a second service on one database is refused"


def a_stage_of_its_own_is_seen_and_watched(installed: Installed) -> None:
    """One in another unit, under the hardening of both; and a hung stage of either is killed and comes back."""
    box = installed.box
    box.run(f"systemctl start {LONE}")
    until(lambda: "forwarder-1" in installed.slots(), installed.log)
    installed.wait_healthy()
    hung = {slot: installed.pid_of(slot) for slot in ("saver-0", "forwarder-1")}
    assert all(hung.values()), hung
    box.run(f"kill -STOP {hung['saver-0']} {hung['forwarder-1']}")
    until(lambda: installed.get("/_health")[0] == 503, lambda: installed.get("/_health"))
    until(lambda: installed.pid_of("forwarder-1") not in (0, hung["forwarder-1"]), installed.log)
    until(lambda: installed.pid_of("saver-0") not in (0, hung["saver-0"]), installed.log)
    installed.wait_healthy()
    until(lambda: "Watchdog timeout" in box.run(f"journalctl --no-pager -u {LONE}"), installed.log)

    def errors() -> str:
        return box.run(f"journalctl --no-pager -o cat -p err -u {SERVICE}")

    # What is an error is found by its priority.
    until(lambda: "hangs" in errors(), errors)
    assert "stage started" not in errors()


def a_reload_takes_what_is_right_and_refuses_what_is_wrong(installed: Installed) -> None:
    box = installed.box
    installed.set_environment(EVENTS_LOG_LEVEL="error")
    box.run(f"systemctl reload {SERVICE}")
    until(lambda: "EVENTS_LOG_LEVEL=ERROR" in box.run("event-service check"), installed.log)
    installed.set_environment(EVENTS_TARGET_RELAYS="")
    assert box.exit_code("event-service check") == 3
    said = box.run("event-service check 2>&1 || true")
    assert "EVENTS_TARGET_RELAYS (did you mean EVENTS_TARGET_RELAY?)" in said
    box.run(f"systemctl reload {SERVICE}")
    until(lambda: "settings not reloaded" in installed.log(), installed.log)
    installed.wait_healthy()
    installed.set_environment()


def key_files_are_optional(installed: Installed, tmp_path: Path) -> None:
    """It ran without any so far; with them they reach the service alone."""
    box = installed.box
    write_key_file(tmp_path / "pubsub.json")
    box.put("/etc/event-service/pubsub.json", (tmp_path / "pubsub.json").read_text(), 0o600)
    box.put("/etc/event-service/nostr.key", "11" * 32, 0o600)
    # An emulator that nobody runs: the sink is down, and says so of the topic.
    pubsub = {
        "EVENTS_ENVIRONMENT": "PRODUCTION",
        "EVENTS_TARGET_RELAY": "",
        "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "a-project",
        "PUBSUB_EMULATOR_HOST": f"{installed.host}:9",
    }
    installed.set_environment(**pubsub)
    box.run(f"systemctl restart {SERVICE}")
    installed.wait_healthy()
    pid = box.run(f"systemctl show -P MainPID {SERVICE}").strip()
    loaded = box.run(f"tr '\\0' '\\n' < /proc/{pid}/environ | sed -n s/^CREDENTIALS_DIRECTORY=//p").strip()
    assert box.run(f"cat {loaded}/nostr.key") == "11" * 32
    installed.set_environment()
    box.run(f"rm /etc/event-service/pubsub.json /etc/event-service/nostr.key; systemctl restart {SERVICE}")
    installed.wait_healthy()


def a_go_database_is_taken_over_in_place(installed: Installed, tmp_path: Path) -> None:
    """By root, for a service that has a user of its own."""
    box = installed.box
    box.run(f"systemctl stop {LONE} {SERVICE}")
    go = GoDatabase(tmp_path / "go.db")
    (alice,) = authors(77, 1)
    with go.connection:
        go.register(alice, 1, 1)
    go.connection.close()
    box.copy_tree(tmp_path, ["go.db"], "/root")
    owner = box.run(f"stat -c %u:%g {STATE}/events.db").strip()
    box.run(f"rm -f {STATE}/events.db {STATE}/events.db-*")
    box.run(f"install -m 0640 -o {owner.replace(':', ' -g ')} /root/go.db {STATE}/events.db")
    assert "is ready" in box.run("event-service import-go --in-place")
    assert box.run(f"stat -c '%u:%g %a' {STATE}/events.db").split() == [owner, "640"]
    box.run(f"systemctl start {SERVICE}")
    installed.wait_healthy()
    assert alice.pubkey in box.run("event-service users list")


def the_go_service_s_own_path_is_explained(installed: Installed) -> None:
    """Its environment file names a database that the unit may not write."""
    box = installed.box
    installed.set_environment(EVENTS_DATABASE_PATH="/var/lib/nos-event-service/events.db")
    box.run(f"mkdir -p /var/lib/nos-event-service; systemctl restart {SERVICE} || true")
    words = ("leave EVENTS_DATABASE_PATH out", "import-go")

    def said() -> str:
        return box.run(f"journalctl --no-pager -o cat -p err -n 20 -u {SERVICE}")

    until(lambda: all(each in said() for each in words), said)
    installed.set_environment()
    box.run(f"systemctl reset-failed {SERVICE}; systemctl start {SERVICE}")
    installed.wait_healthy()


def an_update_keeps_everything(installed: Installed) -> None:
    box = installed.box
    users = box.run("event-service users list")
    box.run("/opt/event-service/bin/pip install --quiet --no-deps --force-reinstall .", folder=SOURCE)
    box.run(f"systemctl restart {SERVICE}")
    installed.wait_healthy()
    assert box.run("event-service users list") == users
