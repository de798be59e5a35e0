"""What a stage that is a fork of its supervisor has of it, and what it has not."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.process.slots import acquire_supervisor_lock
from tests.integration.process.conftest import Entry, Program, Programs, wait_for_end

SLOTS = ("crawler-0", "crawler-1", "saver-0", "saver-1")


class Supervised:
    """A supervisor whose stages have shown what they have."""

    def __init__(self, programs: Programs) -> None:
        directory = programs.directory / "shown"
        directory.mkdir()
        env = {
            "FAKE_SPECS": "crawler:2:0,saver:2:1", "FAKE_BEHAVIOUR": "crawler=showing,saver=showing",
            "FAKE_SHOWN": str(directory), "NOTIFY_SOCKET": "@nobody", "WATCHDOG_PID": "1",
            "EVENTS_STAGE_LISTEN_ADDRESS": "127.0.0.1:1",
        }  # fmt: skip
        self.program: Program = programs.start("supervise", env=env, process_group=0)
        self.entries: dict[str, Entry] = programs.journal.expect("ready", *SLOTS)
        self.shown: dict[str, dict[str, Any]] = {slot: json.loads((directory / slot).read_text()) for slot in SLOTS}

    def files(self, slot: str) -> dict[int, str]:
        return {int(number): name for number, name in self.shown[slot]["files"].items()}


@pytest.fixture
def supervised(programs: Programs) -> Supervised:
    return Supervised(programs)


def test_fork_has_no_file_of_its_supervisor(supervised: Supervised) -> None:
    """Neither locks nor heartbeat nor metrics nor its selector; an inherited one would outlive it."""
    for slot in SLOTS:
        names = set(supervised.files(slot).values())
        foreign = [name for name in names if "supervisor" in name or "eventpoll" in name]
        assert foreign == [], slot


def test_fork_has_its_own_lifeline_and_no_end_of_a_siblings(supervised: Supervised) -> None:
    lifelines = {slot: supervised.files(slot)[0] for slot in SLOTS}
    assert len(set(lifelines.values())) == len(SLOTS)
    for slot in SLOTS:
        has = [name for name in supervised.files(slot).values() if name in lifelines.values()]
        assert has == [lifelines[slot]]


def test_fork_takes_signals_once_it_has_handlers(supervised: Supervised) -> None:
    assert {slot: supervised.shown[slot]["blocked"] for slot in SLOTS} == {slot: [] for slot in SLOTS}
    os.kill(supervised.entries["saver-1"].pid, signal.SIGTERM)
    supervised.program.journal.expect("ended", "saver-1")


def test_fork_has_the_environment_of_a_stage(supervised: Supervised, programs: Programs) -> None:
    for slot in SLOTS:
        environment = supervised.shown[slot]["environment"]
        assert environment["EVENTS_RUNTIME_DIRECTORY"] == str(programs.runtime)
        assert not {"NOTIFY_SOCKET", "WATCHDOG_PID", "EVENTS_STAGE_LISTEN_ADDRESS"} & set(environment)


def test_fork_is_shown_as_the_command_that_runs_its_stage_by_hand(supervised: Supervised) -> None:
    for slot in SLOTS:
        stage, _, index = slot.partition("-")
        assert supervised.shown[slot]["command"] == ["event-service", "stage", stage, "--slot", index]
        assert Path(f"/proc/{supervised.entries[slot].pid}/comm").read_text() == f"{slot}\n"


def test_forks_are_leaders_of_groups_and_differ_in_chance(supervised: Supervised) -> None:
    for slot in SLOTS:
        assert supervised.shown[slot]["group"] == supervised.entries[slot].pid
        assert supervised.shown[slot]["threads"] == ["MainThread", "lifeline", "signals"]
    assert len({supervised.shown[slot]["random"] for slot in SLOTS}) == len(SLOTS)


def test_killed_supervisor_frees_its_lock_while_a_stage_still_ends(programs: Programs) -> None:
    env = {"FAKE_SPECS": "saver:1:0", "FAKE_BEHAVIOUR": "saver=stubborn", "FAKE_ORPHAN_GRACE": "600"}
    supervisor = programs.start("supervise", env=env, process_group=0)
    pid = programs.journal.expect("ready", "saver-0")["saver-0"].pid
    os.kill(supervisor.process.pid, signal.SIGKILL)
    supervisor.wait()
    # Its lifeline ends at once, which is what it says here.
    programs.journal.expect("stopping", "saver-0")
    acquire_supervisor_lock(programs.runtime, programs.directory / "events.db").release()
    os.kill(pid, signal.SIGKILL)
    wait_for_end([pid])
