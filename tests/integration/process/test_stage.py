import json
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.process.exposition import render
from pipeline.process.heartbeat import read_heartbeats
from tests.fakes.net import free_port, loopback_address
from tests.integration.process.conftest import PATIENCE_S, Programs


def test_stage_takes_the_first_free_slot_under_its_name(programs: Programs) -> None:
    first = programs.start("stage", "forwarder")
    programs.journal.expect("ready", "forwarder-0")
    second = programs.start("stage", "forwarder")
    pid = programs.journal.expect("ready", "forwarder-1")["forwarder-1"].pid
    assert Path(f"/proc/{pid}/comm").read_text() == "forwarder-1\n"
    names = [
        (reading.slot_name, reading.pid, reading.alive) for reading in read_heartbeats(programs.runtime, SystemClock())
    ]
    assert names == [("forwarder-0", first.process.pid, True), ("forwarder-1", second.process.pid, True)]
    assert all(json.loads(line)["process"] in ("forwarder", "forwarder-1") for line in second.log.splitlines())


def test_stage_without_a_doorbell_works_and_says_so_once(programs: Programs) -> None:
    """Its bell's place is taken, and its own rings reach no process."""
    locks = programs.directory / "events.db.locks"
    locks.mkdir()
    for name in ("saver-0.bell", "forwarder-0.bell"):
        (locks / name).touch()
    stage = programs.start("stage", "saver", env={"FAKE_BEHAVIOUR": "saver=ringing"})
    programs.journal.expect("rung", "saver-0")
    stage.signal(signal.SIGTERM)
    assert stage.wait() == 0
    lines = [json.loads(line) for line in stage.log.splitlines()]
    (told,) = [line for line in lines if line["message"].startswith("a doorbell does not work")]
    assert "saver-0.bell" in told["reason"]
    assert b'event_service_stage_errors_total{kind="doorbell",stage="saver"} 3.0' in render(programs.runtime)


def test_metrics_of_stages_run_alone_come_together(programs: Programs) -> None:
    for index in range(2):
        programs.start("stage", "forwarder")
        programs.journal.expect("ready", f"forwarder-{index}")
    assert b'event_service_stage_in_total{stage="forwarder"} 2.0' in render(programs.runtime)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_it_in_good_order(programs: Programs, number: signal.Signals) -> None:
    stage = programs.start("stage", "saver")
    programs.journal.expect("ready", "saver-0")
    stage.signal(number)
    programs.journal.expect("ended", "saver-0")
    assert stage.wait() == 0
    assert json.loads(stage.log.splitlines()[-1])["reason"] == number.name
    assert read_heartbeats(programs.runtime, SystemClock()) == []


def test_second_signal_ends_it_at_once(programs: Programs) -> None:
    stage = programs.start("stage", "saver", env={"FAKE_BEHAVIOUR": "saver=stubborn"})
    programs.journal.expect("ready", "saver-0")
    stage.signal(signal.SIGTERM)
    programs.journal.expect("stopping", "saver-0")
    # What comes within a moment is taken for the same wish.
    with pytest.raises(subprocess.TimeoutExpired):
        stage.process.wait(0.3)
    stage.signal(signal.SIGTERM)
    assert stage.wait() == 1


def test_hangup_lets_a_stage_run_alone_follow_its_file(programs: Programs) -> None:
    file = programs.directory / "environment"
    file.write_text("EVENTS_LOG_LEVEL=DEBUG\nEVENTS_CRAWLERS=2\n")
    env = {"FAKE_BEHAVIOUR": "crawler=following", "EVENTS_LOG_LEVEL": "DISABLED"}
    stage = programs.start("stage", "crawler", f"--env-file={file}", env=env)
    programs.journal.expect("debug-2", "crawler-0")
    file.write_text("EVENTS_LOG_LEVEL=TRACE\nEVENTS_CRAWLERS=5\n")
    stage.signal(signal.SIGHUP)
    programs.journal.expect("trace-2", "crawler-0")
    file.write_text("EVENTS_LOG_LEVEL=NOISY\n")
    stage.signal(signal.SIGHUP)
    while "settings not reloaded" not in stage.log:
        time.sleep(0.02)
    stage.signal(signal.SIGTERM)
    assert stage.wait() == 0
    lines = [json.loads(line) for line in stage.log.splitlines()]
    (pending,) = [line for line in lines if line["message"] == "settings changed that need a restart"]
    assert pending["settings"] == "EVENTS_CRAWLERS"
    (bad,) = [line for line in lines if line["message"] == "settings not reloaded, the old ones stay"]
    assert bad["error"].startswith("EVENTS_LOG_LEVEL: must be one of")


@pytest.mark.parametrize("behaviour", ["crash", "thread_crash", "cannot_start"])
def test_failure_leaves_its_reason_for_health(programs: Programs, behaviour: str) -> None:
    stage = programs.start("stage", "saver", env={"FAKE_BEHAVIOUR": f"saver={behaviour}"})
    stage.wait()
    (reading,) = read_heartbeats(programs.runtime, SystemClock())
    why = "ended: the database is of stone" if behaviour == "cannot_start" else "ended: ValueError: broken"
    assert (reading.slot_name, reading.alive, reading.status) == ("saver-0", False, why)


@pytest.mark.parametrize(("behaviour", "message"), [("crash", "stage failed"), ("thread_crash", "thread failed")])
def test_unforeseen_error_ends_it_with_its_traceback(programs: Programs, behaviour: str, message: str) -> None:
    stage = programs.start("stage", "saver", env={"FAKE_BEHAVIOUR": f"saver={behaviour}"})
    assert stage.wait() == 1
    (line,) = [json.loads(line) for line in stage.log.splitlines() if message in line]
    assert line["traceback"].endswith("ValueError: broken")


def test_cannot_start_is_one_line_and_exit_code_3(programs: Programs) -> None:
    stage = programs.start("stage", "saver", env={"FAKE_BEHAVIOUR": "saver=cannot_start"})
    assert stage.wait() == 3
    line = json.loads(stage.log.splitlines()[-1])
    assert (line["level"], line["message"], line["error"]) == ("ERROR", "cannot start", "the database is of stone")
    assert "Traceback" not in stage.log


@pytest.mark.parametrize("behaviour", ["outdated", "outdated_thread"])
def test_what_is_outdated_ends_it_with_one_line_and_exit_code_1(programs: Programs, behaviour: str) -> None:
    stage = programs.start("stage", "saver", env={"FAKE_BEHAVIOUR": f"saver={behaviour}"})
    assert stage.wait() == 1
    line = json.loads(stage.log.splitlines()[-1])
    assert (line["level"], line["message"], line["reason"]) == (
        "ERROR",
        "stage ends to be started again",
        "names changed",
    )
    assert "traceback" not in stage.log
    (reading,) = read_heartbeats(programs.runtime, SystemClock())
    assert reading.status == "ended: names changed"


def test_slot_that_is_taken_is_refused_at_once(programs: Programs) -> None:
    holder = programs.start("stage", "saver", "0")
    programs.journal.expect("ready", "saver-0")
    stage = programs.start("stage", "saver", "0")
    assert stage.wait() == 3
    assert f"saver-0 is held by process {holder.process.pid}" in stage.log


def test_a_supervisor_may_try_again_where_the_slot_stays_taken(programs: Programs) -> None:
    """By a stage that was begun by hand while its own was down: the service must not end for that."""
    holder = programs.start("stage", "saver", "0")
    programs.journal.expect("ready", "saver-0")
    supervised = ("stage", "saver", "0", "--supervised")
    stage = programs.start(*supervised, stdin=subprocess.PIPE, env={"FAKE_SLOT_WAIT": "0.5"})
    assert stage.wait() == 1
    assert f"saver-0 is held by process {holder.process.pid}" in stage.log


def test_end_of_the_lifeline_ends_a_supervised_stage(programs: Programs) -> None:
    stage = programs.start("stage", "saver", "0", "--supervised", stdin=subprocess.PIPE)
    programs.journal.expect("ready", "saver-0")
    stage.signal(signal.SIGINT)
    assert stage.process.stdin is not None
    stage.process.stdin.close()
    assert stage.wait() == 0
    assert json.loads(stage.log.splitlines()[-1])["reason"] == "supervisor gone"


def test_orphan_that_does_not_end_is_ended_by_force(programs: Programs) -> None:
    env = {"FAKE_BEHAVIOUR": "saver=stubborn", "FAKE_ORPHAN_GRACE": "0.2"}
    stage = programs.start("stage", "saver", "0", "--supervised", stdin=subprocess.PIPE, env=env)
    programs.journal.expect("ready", "saver-0")
    assert stage.process.stdin is not None
    stage.process.stdin.close()
    assert stage.wait() == 1
    assert re.search(r"Timeout \(0:00:00\.2.*File .*stages\.py", stage.log, re.DOTALL)


def test_supervised_stage_waits_for_the_slot_of_a_dying_one(programs: Programs) -> None:
    former = programs.start("stage", "saver", "0")
    programs.journal.expect("ready", "saver-0")
    stage = programs.start("stage", "saver", "0", "--supervised", stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        stage.process.wait(1)
    former.signal(signal.SIGTERM)
    programs.journal.expect("ended", "saver-0")
    assert programs.journal.expect("ready", "saver-0")["saver-0"].pid == stage.process.pid


def free_address() -> str:
    host = loopback_address()
    return f"{host}:{free_port(host)}"


def get(address: str, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE_S) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_own_web_server_of_a_stage_run_alone(programs: Programs) -> None:
    address = free_address()
    stage = programs.start("stage", "saver", env={"EVENTS_STAGE_LISTEN_ADDRESS": address})
    programs.journal.expect("ready", "saver-0")
    assert get(address, "/_health") == (200, b'"ok"')
    status, body = get(address, "/metrics")
    assert status == 200
    assert b'process_threads{slot="saver-0"}' in body
    stage.signal(signal.SIGTERM)
    assert stage.wait() == 0


def test_health_of_a_stage_that_has_not_beaten(programs: Programs) -> None:
    address = free_address()
    env = {"EVENTS_STAGE_LISTEN_ADDRESS": address, "FAKE_BEHAVIOUR": "saver=mute"}
    programs.start("stage", "saver", env=env)
    programs.journal.expect("started", "saver-0")
    status, body = get(address, "/_health")
    assert status == 503
    (stage,) = json.loads(body)["stages"]
    assert (stage["slot"], stage["state"], stage["why"]) == ("saver-0", "starting", "has sent no heartbeat yet")


def test_web_address_in_use_cannot_start(programs: Programs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        stage = programs.start("stage", "saver", env={"EVENTS_STAGE_LISTEN_ADDRESS": address})
        assert stage.wait() == 3
    assert f"cannot listen on {address}" in stage.log


def test_supervised_stage_has_no_web_server(programs: Programs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        env = {"EVENTS_STAGE_LISTEN_ADDRESS": f"127.0.0.1:{server.getsockname()[1]}"}
        programs.start("stage", "saver", "0", "--supervised", stdin=subprocess.PIPE, env=env)
        programs.journal.expect("ready", "saver-0")
