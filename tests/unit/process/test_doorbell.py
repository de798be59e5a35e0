"""Bells of processes: what a ring reaches, and what stands in its way."""

import os
import pwd
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process.doorbell import Doorbell, Doorbells, DoorbellUnusable
from pipeline.process.locks import locks_directory
from pipeline.process.stop import Stop

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
LONG_S = 600.0
"""Longer than any test may take."""
MORE_THAN_A_FIFO_HOLDS = 70_000


class Bells:
    """The bells of one database, and what went wrong."""

    def __init__(self, database: Path) -> None:
        database.touch(mode=0o600)
        self.database = database
        self.failures: list[str] = []
        self.hung: list[Doorbell] = []
        self.all = Doorbells(database, self.failures.append)

    def hang(self, slot: str) -> Doorbell:
        bell = Doorbell.hang(self.database, slot)
        self.hung.append(bell)
        return bell

    def close(self) -> None:
        for bell in self.hung:
            bell.close()


@pytest.fixture
def bells(tmp_path: Path) -> Iterator[Bells]:
    found = Bells(tmp_path / "events.db")
    yield found
    found.close()


def test_ring_ends_a_wait(bells: Bells) -> None:
    bell, about_to_wait = bells.hang("saver-0"), threading.Event()

    def ring() -> None:
        assert about_to_wait.wait(LONG_S)
        bells.all.ring("saver")

    ringer = threading.Thread(target=ring)
    ringer.start()
    about_to_wait.set()
    bell.wait(Stop(), LONG_S)
    ringer.join(LONG_S)
    assert bell.silence()
    assert bells.failures == []


def test_ring_before_the_wait_ends_it_at_once(bells: Bells) -> None:
    bell = bells.hang("saver-0")
    bells.all.ring("saver")
    bell.wait(Stop(), LONG_S)


def test_many_rings_are_one(bells: Bells) -> None:
    bell = bells.hang("saver-0")
    for _ in range(5):
        bells.all.ring("saver")
    assert bell.silence()
    assert not bell.silence()


def test_process_rings_its_own_bell(bells: Bells) -> None:
    bell = bells.hang("crawler-0")
    bell.ring()
    bell.wait(Stop(), LONG_S)
    assert bell.silence()


def test_stop_ends_a_wait(bells: Bells) -> None:
    stop = Stop()
    stop.set()
    bells.hang("saver-0").wait(stop, LONG_S)


def test_every_process_of_the_named_stages_is_rung_and_no_other(bells: Bells) -> None:
    named = [bells.hang("forwarder-0"), bells.hang("forwarder-12"), bells.hang("sender-0")]
    other = bells.hang("saver-0")
    bells.all.ring("forwarder", "sender")
    assert [bell.silence() for bell in named] == [True, True, True]
    assert not other.silence()


def test_bells_of_another_database_stay_silent(bells: Bells, tmp_path: Path) -> None:
    other = Bells(tmp_path / "other.db")
    bell, neighbour = bells.hang("saver-0"), other.hang("saver-0")
    other.all.ring("saver")
    assert not bell.silence()
    assert neighbour.silence()
    other.close()


def test_full_bell_holds_nobody_up(bells: Bells) -> None:
    bell = bells.hang("saver-0")
    for _ in range(MORE_THAN_A_FIFO_HOLDS):
        bells.all.ring("saver")
        bell.ring()
    assert bell.silence()
    assert bells.failures == []


def test_bell_that_no_process_has_is_no_failure(bells: Bells) -> None:
    bells.hang("saver-0").close()
    bells.hung.clear()
    bells.all.ring("saver")
    assert bells.failures == []


def test_next_process_in_the_slot_has_the_bell(bells: Bells) -> None:
    """And what was rung before its time is not kept: it looks when it starts."""
    bells.hang("saver-0").close()
    bells.hung.clear()
    bells.all.ring("saver")
    bell = bells.hang("saver-0")
    assert not bell.silence()
    bells.all.ring("saver")
    assert bell.silence()


def test_missing_folder_is_reported(bells: Bells) -> None:
    bells.all.ring("saver")
    assert len(bells.failures) == 1
    assert "No such file" in bells.failures[0]


def test_file_in_its_place_is_left_alone(bells: Bells) -> None:
    path = locks_directory(bells.database) / "saver-0.bell"
    path.write_bytes(b"mine")
    with pytest.raises(DoorbellUnusable, match="not a FIFO"):
        bells.hang("saver-0")
    bells.all.ring("saver")
    assert len(bells.failures) == 1
    assert path.read_bytes() == b"mine"


def test_link_in_its_place_is_not_followed(bells: Bells, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "elsewhere")
    (locks_directory(bells.database) / "saver-0.bell").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DoorbellUnusable):
        bells.hang("saver-0")
    bells.all.ring("saver")
    assert len(bells.failures) == 1


def test_one_bell_that_fails_keeps_no_other_from_ringing(bells: Bells) -> None:
    directory = locks_directory(bells.database)
    bell = bells.hang("forwarder-1")
    for name in ("forwarder-0.bell", "forwarder-2.bell"):
        (directory / name).touch()
    bells.all.ring("forwarder")
    assert bell.silence()
    assert len(bells.failures) == 2


def test_path_may_be_longer_than_that_of_a_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("a" * 200) / ("b" * 200)
    directory.mkdir(parents=True)
    bells = Bells(directory / "events.db")
    bell = bells.hang("saver-0")
    bells.all.ring("saver")
    assert bell.silence()
    assert bells.failures == []
    bells.close()


def test_bell_is_as_accessible_as_the_database(bells: Bells) -> None:
    bells.database.chmod(0o640)
    before = os.umask(0)
    try:
        bell = bells.hang("saver-0")
    finally:
        os.umask(before)
    assert bell.path.stat().st_mode & 0o777 == 0o640


@needs_root
def test_bell_made_by_root_is_the_database_owners(bells: Bells) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(bells.database, nobody.pw_uid, nobody.pw_gid)
    found = bells.hang("saver-0").path.stat()
    assert (found.st_uid, found.st_gid) == (nobody.pw_uid, nobody.pw_gid)


@needs_root
def test_bell_of_a_stranger_is_not_used(bells: Bells) -> None:
    bells.hang("saver-0").close()
    bells.hung.clear()
    path = locks_directory(bells.database) / "saver-0.bell"
    os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)
    with pytest.raises(DoorbellUnusable, match="not a FIFO of ours"):
        bells.hang("saver-0")
