import os
from pathlib import Path

import pytest

from pipeline.errors import CannotStart
from pipeline.process.slots import (
    MAX_SLOTS,
    HeldSlot,
    Slot,
    SlotTaken,
    acquire_slot,
    acquire_supervisor_lock,
    heartbeats_directory,
    held_indexes,
    is_abandoned,
    is_supervised,
    metrics_directory,
    prepare_runtime_directory,
    wipe_free_slots,
)
from pipeline.process.stop import Stop


def test_slot_is_named_by_stage_and_index() -> None:
    assert Slot("crawler", 0).name == "crawler-0"


def test_runtime_directory_is_private_and_made_with_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    prepare_runtime_directory(path)
    prepare_runtime_directory(path)
    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(CannotStart, match=f"written by others: chmod 700 {tmp_path}"):
        prepare_runtime_directory(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(CannotStart, match=r"belongs to user 12345.*set EVENTS_RUNTIME_DIRECTORY"):
        prepare_runtime_directory(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_link_made_by_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to("real")
    os.lchown(link, 12345, -1)
    with pytest.raises(CannotStart, match="link made by user 12345"):
        prepare_runtime_directory(link)


def test_own_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    prepare_runtime_directory(tmp_path / "link")
    assert (tmp_path / "real" / "slots").is_dir()


def test_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match=r"runtime directory.*set EVENTS_RUNTIME_DIRECTORY"):
        prepare_runtime_directory(tmp_path / "file" / "runtime")


def test_first_free_slot_is_taken(runtime: Path) -> None:
    held = [acquire_slot(runtime, "forwarder", None) for _ in range(3)]
    assert [one.slot.index for one in held] == [0, 1, 2]
    held[1].release()
    again = acquire_slot(runtime, "forwarder", None)
    assert again.slot == Slot("forwarder", 1)
    other_stage = acquire_slot(runtime, "sender", None)
    assert other_stage.slot == Slot("sender", 0)
    for one in [*held, again, other_stage]:
        one.release()


def test_taken_slot_names_its_holder(runtime: Path) -> None:
    held = acquire_slot(runtime, "crawler", 1)
    with pytest.raises(SlotTaken, match=f"crawler-1 is held by process {os.getpid()}"):
        acquire_slot(runtime, "crawler", 1)
    held.release()
    acquire_slot(runtime, "crawler", 1).release()


def test_slots_are_bounded(runtime: Path) -> None:
    held: list[HeldSlot] = [acquire_slot(runtime, "crawler", None) for _ in range(MAX_SLOTS)]
    with pytest.raises(SlotTaken, match="all"):
        acquire_slot(runtime, "crawler", None)
    for one in held:
        one.release()


def test_slot_about_to_be_freed_is_waited_for(runtime: Path) -> None:
    class FreedAtTheFirstWait(Stop):
        def wait(self, timeout_s: float | None = None) -> bool:
            held.release()
            return False

    held = acquire_slot(runtime, "saver", 0)
    acquire_slot(runtime, "saver", 0, wait_s=1, stop=FreedAtTheFirstWait()).release()


def test_wait_for_a_slot_ends_with_stop(runtime: Path) -> None:
    held = acquire_slot(runtime, "saver", 0)
    stop = Stop()
    stop.set()
    with pytest.raises(SlotTaken):
        acquire_slot(runtime, "saver", 0, wait_s=3600, stop=stop)
    held.release()


def test_wait_for_a_lock_is_announced_once_with_its_holder(runtime: Path) -> None:
    waits: list[str] = []
    held, lock = acquire_slot(runtime, "saver", 0), acquire_supervisor_lock(runtime)
    with pytest.raises(SlotTaken):
        acquire_slot(runtime, "saver", 0, wait_s=0.2, on_wait=waits.append)
    with pytest.raises(CannotStart):
        acquire_supervisor_lock(runtime, wait_s=0.2, on_wait=waits.append)
    with pytest.raises(CannotStart):
        acquire_supervisor_lock(runtime, on_wait=waits.append)
    assert waits == [f"process {os.getpid()}"] * 2
    held.release()
    lock.release()


def test_only_one_supervisor(runtime: Path) -> None:
    lock = acquire_supervisor_lock(runtime)
    with pytest.raises(CannotStart, match=f"another supervisor, process {os.getpid()}"):
        acquire_supervisor_lock(runtime)
    lock.release()
    acquire_supervisor_lock(runtime).release()


def test_only_free_slots_are_wiped(runtime: Path) -> None:
    names = ["crawler-0", "crawler-10", "supervisor"]
    for name in names:
        (heartbeats_directory(runtime) / name).touch()
        for kind in ("counter", "histogram", "gauge_livesum"):
            (metrics_directory(runtime) / f"{kind}_{name}.db").touch()
    held = acquire_slot(runtime, "crawler", 0)
    acquire_slot(runtime, "crawler", 10).release()
    wipe_free_slots(runtime)
    assert [path.name for path in heartbeats_directory(runtime).iterdir()] == ["crawler-0"]
    left = sorted(path.name for path in metrics_directory(runtime).iterdir())
    assert left == ["counter_crawler-0.db", "gauge_livesum_crawler-0.db", "histogram_crawler-0.db"]
    held.release()
    acquire_slot(runtime, "crawler", 10).release()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir(mode=0o750)
    path = tmp_path / "data" / "events.db"
    path.touch(0o640)
    return path


def test_two_runtime_directories_on_one_database_share_no_slot(tmp_path: Path, database: Path) -> None:
    """A root shell lacks systemd's RUNTIME_DIRECTORY; a link to the database is the same database."""
    link = tmp_path / "link.db"
    link.symlink_to(database)
    first = acquire_slot(tmp_path / "one", "forwarder", 0, database=database)
    with pytest.raises(SlotTaken, match=f"forwarder-0 is held by process {os.getpid()}"):
        acquire_slot(tmp_path / "two", "forwarder", 0, database=link)
    second = acquire_slot(tmp_path / "two", "forwarder", None, database=link)
    assert second.slot == Slot("forwarder", 1)
    elsewhere = acquire_slot(tmp_path / "three", "forwarder", None, database=tmp_path / "other.db")
    assert elsewhere.slot == Slot("forwarder", 0)
    first.release()
    acquire_slot(tmp_path / "two", "forwarder", 0, database=link).release()
    second.release()
    elsewhere.release()


def test_two_runtime_directories_on_one_database_share_no_supervisor(tmp_path: Path, database: Path) -> None:
    first = acquire_supervisor_lock(tmp_path / "one", database)
    with pytest.raises(CannotStart, match=f"another supervisor, process {os.getpid()}, runs on {database}"):
        acquire_supervisor_lock(tmp_path / "two", database, wait_s=0.2)
    first.release()
    acquire_supervisor_lock(tmp_path / "two", database).release()


def test_refused_slot_is_left_free_in_the_runtime_directory(tmp_path: Path, database: Path) -> None:
    first = acquire_slot(tmp_path / "one", "saver", 0, database=database)
    with pytest.raises(SlotTaken):
        acquire_slot(tmp_path / "two", "saver", 0, database=database)
    acquire_slot(tmp_path / "two", "saver", 0, database=tmp_path / "other.db").release()
    first.release()


def test_slots_that_are_held_are_known_by_their_locks(tmp_path: Path, database: Path) -> None:
    """Of whatever runtime directory; looking takes nothing from anybody."""
    held = [acquire_slot(tmp_path / name, "crawler", index, database=database) for name, index in (("a", 3), ("b", 0))]
    other = acquire_slot(tmp_path / "a", "crawlers", None, database=database)
    acquire_slot(tmp_path / "a", "crawler", 1, database=database).release()
    assert held_indexes(database, "crawler") == (0, 3)
    assert not is_supervised(database)
    lock = acquire_supervisor_lock(tmp_path / "a", database)
    assert is_supervised(database)
    lock.release()
    for each in [*held, other]:
        each.release()
    assert held_indexes(database, "crawler") == ()


def test_slot_is_abandoned_without_a_holder_and_metrics(tmp_path: Path, database: Path) -> None:
    runtime = tmp_path / "a"
    held = acquire_slot(tmp_path / "b", "crawler", 2, database=database)
    prepare_runtime_directory(runtime)
    assert not is_abandoned(runtime, database, "crawler-2")
    held.release()
    assert is_abandoned(runtime, database, "crawler-2")
    (metrics_directory(runtime) / "counter_crawler-2.db").touch()
    assert not is_abandoned(runtime, database, "crawler-2")
    assert is_abandoned(runtime, database, "crawler-22")
