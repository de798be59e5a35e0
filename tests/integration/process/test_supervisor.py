import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.clock import SystemClock
from pipeline.process.exposition import render
from pipeline.process.heartbeat import read_heartbeats
from tests.fakes.procs import process
from tests.integration.process.conftest import PATIENCE_S, Entry, Program, Programs, wait_for_end

SPECS = "crawler:2:0,saver:1:1,forwarder:1:2"
SLOTS = ("crawler-0", "crawler-1", "saver-0", "forwarder-0")


def supervise(programs: Programs, behaviour: str = "", specs: str = SPECS, **env: str) -> Program:
    env = {"FAKE_SPECS": specs, "FAKE_BEHAVIOUR": behaviour, **env}
    # A group of its own, as a shell would give it.
    return programs.start("supervise", env=env, process_group=0)


def times(**given: float) -> str:
    return json.dumps(given)


def exits(programs: Programs, slot: str, reason: str) -> bytes:
    return f'event_service_stage_exits_total{{reason="{reason}",slot="{slot}"}}'.encode()


def lines(program: Program, message: str) -> list[dict[str, object]]:
    read = [json.loads(line) for line in program.log.splitlines() if line.startswith("{")]
    return [line for line in read if line["message"] == message]


def test_all_stages_run_and_end_in_order(programs: Programs) -> None:
    supervisor = supervise(programs)
    programs.journal.expect("ready", *SLOTS)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    ended = [entry.slot for entry in programs.journal.entries if entry.event == "ended"]
    assert sorted(ended[:2]) == ["crawler-0", "crawler-1"]
    assert ended[2:] == ["saver-0", "forwarder-0"]
    assert len([entry for entry in programs.journal.entries if entry.event == "started"]) == 4
    assert lines(supervisor, "stage exited unexpectedly") == []
    assert b"event_service_stage_exits_total{" not in render(programs.runtime)
    assert read_heartbeats(programs.runtime, SystemClock()) == []


def test_killed_stage_is_restarted_and_goes_on_counting(programs: Programs) -> None:
    supervise(programs)
    saver = programs.journal.expect("ready", *SLOTS)["saver-0"]
    files = []
    for _ in range(3):
        os.kill(saver.pid, signal.SIGKILL)
        again = programs.journal.expect("ready", "saver-0")["saver-0"]
        assert again.pid != saver.pid
        saver = again
        files.append(sorted(path.name for path in programs.runtime.rglob("*")))
    # The first one may still have added the supervisor's own counter.
    assert files[1] == files[2] == files[0]
    text = render(programs.runtime)
    assert b'event_service_stage_in_total{stage="saver"} 4.0' in text
    assert b'event_service_stage_in_total{stage="crawler"} 2.0' in text
    assert exits(programs, "saver-0", "signal") + b" 3.0" in text
    assert b'process_resident_memory_bytes{slot="supervisor"}' in text


@pytest.mark.parametrize(("behaviour", "how"), [("crash", "exit code 1"), ("returning", "exit code 0")])
def test_stage_that_ends_at_once_is_restarted_later_and_later(programs: Programs, behaviour: str, how: str) -> None:
    given = times(restart_base_s=0.1)
    supervisor = supervise(programs, f"saver={behaviour}", "crawler:1:0,saver:1:1", FAKE_TIMES=given)
    programs.journal.expect("ready", "crawler-0")
    for _ in range(4):
        programs.journal.expect("started", "saver-0")
    supervisor.signal(signal.SIGTERM)
    supervisor.wait()
    ends = [line for line in lines(supervisor, "stage exited unexpectedly") if line["how"] == how]
    assert [line["restart_in_s"] for line in ends[:3]] == [0.0, 0.1, 0.2]
    assert lines(supervisor, "all stages run") == []
    assert len([entry for entry in programs.journal.entries if entry.slot == "crawler-0"]) == 3


def test_stopped_stage_is_killed_and_restarted(programs: Programs) -> None:
    supervise(programs, FAKE_TIMES=times(beat_limit_s=5, check_s=0.1))
    saver = programs.journal.expect("ready", *SLOTS)["saver-0"]
    os.kill(saver.pid, signal.SIGSTOP)
    assert programs.journal.expect("ready", "saver-0")["saver-0"].pid != saver.pid
    assert exits(programs, "saver-0", "hung") + b" 1.0" in render(programs.runtime)
    assert len([entry for entry in programs.journal.entries if entry.event == "started"]) == 5


def test_stage_that_never_beats_is_killed_after_its_time(programs: Programs) -> None:
    given = times(first_beat_limit_s=2, starting_check_s=0.1)
    supervisor = supervise(programs, "mute-0=mute", "mute:1:0", FAKE_TIMES=given)
    programs.journal.expect("started", "mute-0")
    programs.journal.expect("started", "mute-0")
    # Until this is read it may happen again.
    assert exits(programs, "mute-0", "hung") in render(programs.runtime)
    assert lines(supervisor, "stage hangs, killing it")


def test_supervisor_that_stood_still_blames_no_stage(programs: Programs) -> None:
    supervisor = supervise(programs, specs="saver:1:0", FAKE_TIMES=times(beat_limit_s=4, check_s=0.1, stall_s=0.5))
    saver = programs.journal.expect("ready", "saver-0")["saver-0"]
    wait_until_all_run(supervisor)
    os.kill(saver.pid, signal.SIGSTOP)
    supervisor.signal(signal.SIGSTOP)
    time.sleep(4.5)
    supervisor.signal(signal.SIGCONT)
    os.kill(saver.pid, signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        supervisor.process.wait(0.5)
    assert lines(supervisor, "stage hangs, killing it") == []


def test_stage_that_cannot_start_ends_everything(programs: Programs) -> None:
    supervisor = supervise(programs, "forwarder=cannot_start")
    assert supervisor.wait() == 3
    assert [line["stage"] for line in lines(supervisor, "stage cannot start, ending all")] == ["forwarder-0"]
    wait_for_end([entry.pid for entry in programs.journal.entries])


def test_stage_with_a_thread_that_stands_still_is_killed(programs: Programs) -> None:
    """Though its main loop turns."""
    supervise(programs, "saver=sleeping_thread", FAKE_TIMES=times(beat_limit_s=2, check_s=0.1))
    programs.journal.expect("ready", "saver-0")
    programs.journal.expect("started", "saver-0")
    assert exits(programs, "saver-0", "hung") in render(programs.runtime)


def cpu_s(pid: int) -> float:
    found = process(pid)
    assert found is not None
    return found.cpu_s


def test_starved_start_comes_up_in_the_end(programs: Programs) -> None:
    """With a few hundredths of a core, by SIGSTOP and SIGCONT; systemd is asked to wait meanwhile."""
    given = times(first_beat_limit_s=2.5, check_s=0.1, stall_s=60)
    supervisor = supervise(programs, "saver=toiling", specs="saver:1:0", FAKE_TIMES=given)
    deadline = time.monotonic() + PATIENCE_S
    while not (started := lines(supervisor, "stage launched")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pid = int(str(started[0]["pid"]))
    while time.monotonic() < deadline and not lines(supervisor, "all stages run"):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.3)
        had_s = cpu_s(pid)
        os.kill(pid, signal.SIGCONT)
        while cpu_s(pid) < had_s + 0.02 and time.monotonic() < deadline and not lines(supervisor, "all stages run"):
            time.sleep(0.005)
    assert lines(supervisor, "all stages run")
    assert not lines(supervisor, "stage hangs, killing it")


def test_stage_that_cannot_start_again_is_restarted(programs: Programs, tmp_path: Path) -> None:
    """It did before, so that it is an accident: a folder that vanished, a port that is taken for a moment."""
    fault = tmp_path / "fault"
    supervisor = supervise(programs, "forwarder=faulty", FAKE_FAULT=str(fault))
    programs.journal.expect("ready", *SLOTS)
    # The supervisor hears of it a moment later.
    wait_until_all_run(supervisor)
    fault.write_text("CannotStart")
    for _ in range(3):
        programs.journal.expect("started", "forwarder-0")
    fault.unlink()
    programs.journal.expect("ready", "forwarder-0")
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0


def test_stage_without_room_waits_and_is_not_crash_looping(programs: Programs, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    given = times(room_check_s=0.1, check_s=0.05, restart_base_s=30)
    supervisor = supervise(programs, "forwarder=faulty", FAKE_FAULT=str(fault), FAKE_TIMES=given)
    programs.journal.expect("ready", *SLOTS)
    wait_until_all_run(supervisor)
    fault.write_text("NoRoom")
    for _ in range(5):
        programs.journal.expect("started", "forwarder-0")
    deadline = time.monotonic() + PATIENCE_S
    while health(programs) != "disk is full: forwarder-0 wait for room":
        assert time.monotonic() < deadline
        wait_a_moment()
    fault.unlink()
    programs.journal.expect("ready", "forwarder-0")
    assert exits(programs, "forwarder-0", "no-room") in render(programs.runtime)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0


def test_database_that_was_moved_away_ends_everything(programs: Programs, tmp_path: Path) -> None:
    """Else a stage that is restarted would begin with an empty one."""
    path = tmp_path / "moved.db"
    path.touch()
    supervisor = supervise(programs, EVENTS_DATABASE_PATH=str(path))
    saver = programs.journal.expect("ready", *SLOTS)["saver-0"]
    path.unlink()
    os.kill(saver.pid, signal.SIGKILL)
    assert supervisor.wait() == 3
    assert lines(supervisor, "the database was moved away or replaced, ending all")


def test_second_signal_kills_all_at_once(programs: Programs) -> None:
    supervisor = supervise(programs, "crawler=stubborn")
    pids = [entry.pid for entry in programs.journal.expect("ready", *SLOTS).values()]
    supervisor.signal(signal.SIGTERM)
    programs.journal.expect("stopping", "crawler-0", "crawler-1")
    with pytest.raises(subprocess.TimeoutExpired):
        supervisor.process.wait(0.3)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 1
    wait_for_end(pids)


def test_stage_that_overstays_is_killed_and_the_others_end_well(programs: Programs) -> None:
    supervisor = supervise(programs, "crawler-0=stubborn", FAKE_TIMES=times(drain_s=9))
    programs.journal.expect("ready", *SLOTS)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 1
    ended = [entry.slot for entry in programs.journal.entries if entry.event == "ended"]
    assert ended == ["crawler-1", "saver-0", "forwarder-0"]


def test_killed_supervisor_leaves_nothing(programs: Programs) -> None:
    supervisor = supervise(programs)
    pids = [entry.pid for entry in programs.journal.expect("ready", *SLOTS).values()]
    supervisor.signal(signal.SIGKILL)
    supervisor.wait()
    wait_for_end(pids)
    assert sorted(e.slot for e in programs.journal.entries if e.event == "ended") == sorted(SLOTS)


def test_next_supervisor_gets_the_slots_of_dying_stages(programs: Programs) -> None:
    first = supervise(programs, "saver=stubborn", FAKE_ORPHAN_GRACE="3")
    saver = programs.journal.expect("ready", *SLOTS)["saver-0"]
    first.signal(signal.SIGKILL)
    first.wait()
    second = supervise(programs)
    assert programs.journal.expect("ready", *SLOTS)["saver-0"].pid != saver.pid
    second.signal(signal.SIGTERM)
    assert second.wait() == 0


def test_terminal_interrupt_of_the_group_ends_stages_in_order(programs: Programs) -> None:
    supervisor = supervise(programs)
    programs.journal.expect("ready", *SLOTS)
    os.killpg(supervisor.process.pid, signal.SIGINT)
    # As timeout(1) does: once to the process and once to its group.
    supervisor.signal(signal.SIGINT)
    assert supervisor.wait() == 0
    ended = [entry.slot for entry in programs.journal.entries if entry.event == "ended"]
    assert ended[2:] == ["saver-0", "forwarder-0"]


def test_signal_to_the_group_ends_stages_in_order(programs: Programs) -> None:
    supervisor = supervise(programs, "crawler-0=stubborn", FAKE_TIMES=times(drain_s=6))
    programs.journal.expect("ready", *SLOTS)
    os.killpg(supervisor.process.pid, signal.SIGTERM)
    assert supervisor.wait() == 1
    done = [json.loads(line) for line in supervisor.log.splitlines() if line.startswith("{")]
    killed = next(i for i, line in enumerate(done) if line["message"] == "killing stages that do not end")
    saver_ended = next(i for i, line in enumerate(done) if line.get("stage") == "saver-0" and "how" in line)
    assert killed < saver_ended


def test_stop_before_the_stages_have_started(programs: Programs) -> None:
    supervisor = supervise(programs)
    programs.journal.expect("started", "saver-0")
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    wait_for_end([entry.pid for entry in programs.journal.entries])


def test_only_one_supervisor(programs: Programs) -> None:
    first = supervise(programs)
    programs.journal.expect("ready", *SLOTS)
    second = supervise(programs, FAKE_TIMES=times(lock_wait_s=0.3))
    assert second.wait() == 3
    assert f"another supervisor, process {first.process.pid}" in second.log
    (waits,) = [line for line in second.log.splitlines() if "another supervisor runs; waiting for its end" in line]
    assert f"process {first.process.pid}" in waits
    first.signal(signal.SIGTERM)
    assert first.wait() == 0


def test_supervisor_that_ends_is_waited_for(programs: Programs) -> None:
    """As when a service is started again while the one before still drains."""
    first = supervise(programs)
    programs.journal.expect("ready", *SLOTS)
    second = supervise(programs)
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    programs.journal.expect("ready", *SLOTS)
    second.signal(signal.SIGTERM)
    assert second.wait() == 0


def test_free_slots_of_an_earlier_run_are_forgotten(programs: Programs) -> None:
    first = supervise(programs)
    programs.journal.expect("ready", *SLOTS)
    first.signal(signal.SIGTERM)
    first.wait()
    supervise(programs, specs="saver:1:0")
    programs.journal.expect("ready", "saver-0")
    text = render(programs.runtime)
    assert b'event_service_stage_in_total{stage="saver"} 1.0' in text
    assert b'{stage="crawler"}' not in text


def wait_until_all_run(supervisor: Program) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not lines(supervisor, "all stages run"):
        assert time.monotonic() < deadline
        wait_a_moment()


def health(programs: Programs) -> str:
    (reading,) = [each for each in read_heartbeats(programs.runtime, SystemClock()) if each.slot_name == "supervisor"]
    return reading.status


def test_a_crash_loop_is_shown(programs: Programs) -> None:
    supervise(programs, "saver=crash", "crawler:1:0,saver:1:1", FAKE_TIMES=times(check_s=0.05))
    for _ in range(4):
        programs.journal.expect("started", "saver-0")
    deadline = time.monotonic() + PATIENCE_S
    while health(programs) != "saver-0 is crash-looping":
        assert time.monotonic() < deadline, health(programs)
        wait_a_moment()


def test_hangup_reloads_and_touches_no_process(programs: Programs) -> None:
    file = programs.directory / "environment"
    file.write_text("EVENTS_LOG_LEVEL=DEBUG\nEVENTS_CRAWLERS=2\n")
    env = {"FAKE_SPECS": SPECS, "FAKE_BEHAVIOUR": ",".join(f"{slot}=following" for slot in SLOTS)}
    supervisor = programs.start("supervise", f"--env-file={file}", env=env, process_group=0)
    before = programs.journal.expect("debug-2", *SLOTS)
    file.write_text("EVENTS_LOG_LEVEL=TRACE\nEVENTS_CRAWLERS=9\n")
    supervisor.signal(signal.SIGHUP)
    assert programs.journal.expect("trace-2", *SLOTS) == {
        slot: Entry("trace-2", slot, entry.pid) for slot, entry in before.items()
    }
    # A bad file changes nothing, not even for a stage that is started while it lies there.
    file.write_text("EVENTS_LOG_LEVEL=NOISY\n")
    supervisor.signal(signal.SIGHUP)
    while not lines(supervisor, "settings not reloaded, the old ones stay"):
        wait_a_moment()
    os.kill(before["saver-0"].pid, signal.SIGKILL)
    programs.journal.expect("trace-2", "saver-0")
    (pending,) = lines(supervisor, "settings changed that need a restart")
    assert pending["settings"] == "EVENTS_CRAWLERS"
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    assert len([entry for entry in programs.journal.entries if entry.event == "started"]) == 5


def test_hangup_while_stages_start_kills_none(programs: Programs) -> None:
    """A stage is told once it has beaten: before that the signal would end it."""
    file = programs.directory / "environment"
    file.write_text("EVENTS_LOG_LEVEL=DEBUG\n")
    env = {"FAKE_SPECS": SPECS, "FAKE_BEHAVIOUR": ",".join(f"{slot}=following" for slot in SLOTS)}
    supervisor = programs.start("supervise", f"--env-file={file}", env=env, process_group=0)
    while not lines(supervisor, "stage launched"):
        wait_a_moment()
    file.write_text("EVENTS_LOG_LEVEL=TRACE\n")
    supervisor.signal(signal.SIGHUP)
    programs.journal.expect(f"trace-{max(2, os.cpu_count() or 2)}", *SLOTS)
    assert lines(supervisor, "stage exited unexpectedly") == []


def test_hangup_without_a_file_ends_all_in_order(programs: Programs) -> None:
    supervisor = supervise(programs)
    programs.journal.expect("ready", *SLOTS)
    supervisor.signal(signal.SIGHUP)
    assert supervisor.wait() == 0


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0event-service-test-{os.getpid()}")
        systemd.settimeout(PATIENCE_S)
        yield systemd


def notify_env(systemd: socket.socket) -> dict[str, str]:
    return {"NOTIFY_SOCKET": "@" + systemd.getsockname()[1:].decode(), "WATCHDOG_USEC": "400000"}


def test_systemd_is_told_of_readiness_watchdog_and_stopping(programs: Programs, systemd: socket.socket) -> None:
    supervisor = supervise(programs, **notify_env(systemd), EVENTS_STAGE_LISTEN_ADDRESS="127.0.0.1:1")
    received = [systemd.recv(4096)]
    while not received[-1].startswith(b"READY=1"):
        received.append(systemd.recv(4096))
    assert received[-1] == b"READY=1\nSTATUS=4 of 4 stages run"
    programs.journal.expect("ready", *SLOTS)
    assert systemd.recv(4096) == b"WATCHDOG=1"
    supervisor.signal(signal.SIGTERM)
    after = [systemd.recv(4096)]
    while after[-1] != b"STOPPING=1":
        after.append(systemd.recv(4096))
    assert set(after[:-1]) <= {b"WATCHDOG=1"}
    assert supervisor.wait() == 0


def test_systemd_is_told_which_stage_is_missing(programs: Programs, systemd: socket.socket) -> None:
    supervise(programs, "mute=mute", "saver:1:0,mute:1:1", **notify_env(systemd))
    while systemd.recv(4096) != b"STATUS=1 of 2 stages run, waiting for mute-0":
        pass


def wait_a_moment() -> None:
    """For what leaves a trace in the log only."""
    time.sleep(0.02)
