import math
import os
from pathlib import Path

import pytest

from pipeline.process.clock import ManualClock
from pipeline.process.heartbeat import MAX_STATUS_BYTES, Heartbeat, read_heartbeat, read_heartbeats
from pipeline.process.slots import heartbeats_directory


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock()
    clock.advance(1000)
    return clock


def test_announced_process_has_not_beaten(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    (reading,) = read_heartbeats(runtime, clock)
    assert (reading.slot_name, reading.pid, reading.alive) == ("saver-0", os.getpid(), True)
    assert (reading.age_s, reading.status) == (math.inf, "")
    assert not reading.ready
    heartbeat.close()


def test_beat_is_read_with_its_age_and_status(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat("saving, 3 rows")
    clock.advance(7)
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert reading.age_s == pytest.approx(7)
    assert (reading.ready, reading.status) == (True, "saving, 3 rows")
    heartbeat.close()


def test_next_beat_replaces_the_status(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat("ü" * 200)
    clock.advance(1)
    heartbeat.beat("x")
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert (reading.age_s, reading.status) == (0, "x")
    heartbeat.close()


def test_long_status_is_cut(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat("x" * 1000)
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert reading.status == "x" * MAX_STATUS_BYTES
    heartbeat.close()


def test_beats_in_a_hot_loop_are_not_all_written(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat()
    clock.advance(0.05)
    heartbeat.beat()
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert reading.age_s == pytest.approx(0.05)
    clock.advance(0.06)
    heartbeat.beat()
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert reading.age_s == 0
    heartbeat.close()


def test_beat_from_before_the_machine_was_started_is_none(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat()
    reading = read_heartbeat(runtime, "saver-0", ManualClock())
    assert reading is not None
    assert not reading.ready
    heartbeat.close()


def test_closed_heartbeat_leaves_nothing(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat()
    heartbeat.close()
    heartbeat.close()
    heartbeat.beat("too late")
    assert read_heartbeats(runtime, clock) == []
    assert read_heartbeat(runtime, "saver-0", clock) is None


def test_a_status_keeps_its_age_while_it_is_said_again(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat()
    for _ in range(5):
        clock.advance(10)
        heartbeat.beat("no disk")
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert (reading.status, reading.age_s) == ("no disk", 0)
    assert reading.status_age_s == pytest.approx(40)
    heartbeat.beat()
    clock.advance(1)
    heartbeat.beat("no disk")
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert reading.status_age_s == 0
    heartbeat.close()


def test_failure_leaves_its_reason_behind(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat()
    clock.advance(1)
    heartbeat.fail("ended: full")
    heartbeat.fail("too late")
    heartbeat.beat("too late")
    heartbeat.close()
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert (reading.status, reading.status_age_s) == ("ended: full", 0)
    assert reading.age_s == pytest.approx(1)


def test_failure_is_no_first_beat(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.fail("ended: full")
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert (reading.ready, reading.status) == (False, "ended: full")


def test_foreign_files_are_passed_over(runtime: Path, clock: ManualClock) -> None:
    (heartbeats_directory(runtime) / "junk").write_bytes(b"junk")
    (heartbeats_directory(runtime) / "empty").touch()
    assert read_heartbeats(runtime, clock) == []


def test_no_directory_no_heartbeats(tmp_path: Path, clock: ManualClock) -> None:
    assert read_heartbeats(tmp_path / "nowhere", clock) == []


def test_readings_are_sorted_by_slot(runtime: Path, clock: ManualClock) -> None:
    beats = [Heartbeat(runtime, name, clock) for name in ("saver-0", "crawler-1", "crawler-0")]
    assert [r.slot_name for r in read_heartbeats(runtime, clock)] == ["crawler-0", "crawler-1", "saver-0"]
    for heartbeat in beats:
        heartbeat.close()


def test_what_the_process_uses_is_told_by_itself(
    runtime: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the kernel hides processes of other users and the machine's own files, as units of systemd do."""
    monkeypatch.setattr("pipeline.process.procfs._PROC", hidden(runtime.parent / "proc"))
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    monkeypatch.setattr("pipeline.process.procfs._PROC", runtime.parent / "nowhere")
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert reading.alive
    assert reading.use is not None
    assert reading.use.cpu_s > 0
    assert reading.use.threads > 0
    assert (reading.use.open_files or 0) > 3
    assert reading.max_files >= 3
    # This process began before its heartbeat, by the clock that the test sets.
    assert reading.started_s < clock.now_ms() / 1000
    heartbeat.close()


def hidden(proc: Path) -> Path:
    """A /proc of one's own process alone."""
    proc.mkdir()
    (proc / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
    return proc


def test_a_process_that_cannot_look_at_itself_beats_all_the_same(
    runtime: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.process.procfs._PROC", runtime.parent / "nowhere")
    heartbeat = Heartbeat(runtime, "saver-0", clock)
    heartbeat.beat()
    reading = read_heartbeat(runtime, "saver-0", clock)
    assert reading is not None
    assert (reading.alive, reading.ready, reading.use) == (True, True, None)
    heartbeat.close()


def test_thread_that_stands_still_keeps_beats_from_being_written(runtime: Path, clock: ManualClock) -> None:
    """However often the main loop turns; it is well again with the next turn."""
    heartbeat = Heartbeat(runtime, "crawler-0", clock)
    reactor, intake = heartbeat.watch("reactor", 8.0), heartbeat.watch("intake", 60.0)

    def age_s() -> float:
        reading = read_heartbeat(runtime, "crawler-0", clock)
        assert reading is not None
        return reading.age_s

    for _ in range(20):
        heartbeat.beat()
        clock.advance(1)
    assert age_s() == 12
    reactor.turn()
    heartbeat.beat()
    assert age_s() == 0
    clock.advance(45)
    reactor.turn()
    heartbeat.beat()
    assert age_s() == 45, "now the other one"
    intake.turn()
    heartbeat.beat()
    assert age_s() == 0
    heartbeat.close()


def test_complaint_of_any_thread_stays_for_its_time_and_counts_as_turning(runtime: Path, clock: ManualClock) -> None:
    heartbeat = Heartbeat(runtime, "crawler-0", clock)
    heartbeat.watch("intake", 8.0)

    def status() -> str:
        heartbeat.beat()
        reading = read_heartbeat(runtime, "crawler-0", clock)
        assert reading is not None
        assert reading.age_s == 0
        return reading.status

    for _ in range(40):
        heartbeat.complain("locked", 3.0)
        clock.advance(1)
        assert status() == "locked"
    clock.advance(3)
    assert status() == ""
    heartbeat.close()
