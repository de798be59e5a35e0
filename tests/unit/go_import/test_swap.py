"""The folder that one import works in, and what is never overwritten. The moves: test_import_in_place.py."""

from pathlib import Path

import pytest

from pipeline.go_import.private_copy import SourceUnusable
from pipeline.go_import.swap import Swap, workspace


def test_a_workspace_is_one_import_s_and_begins_empty(tmp_path: Path) -> None:
    database = tmp_path / "events.db"
    (tmp_path / "events.db.import").mkdir()
    (tmp_path / "events.db.import" / "left by a crash").touch()
    with workspace(database) as directory:
        assert list(directory.iterdir()) == []
        with pytest.raises(SourceUnusable, match="another import"), workspace(database):
            pytest.fail("two at once")
        (directory / "copy").touch()
    assert list(tmp_path.iterdir()) == []
    with workspace(database) as directory:
        assert directory.is_dir()


def test_a_workspace_goes_with_whatever_ends_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workspace(tmp_path / "events.db"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_two_databases_that_may_both_be_the_old_one_are_left_alone(tmp_path: Path) -> None:
    swap = Swap(tmp_path / "events.db")
    for path in (swap.path, swap.backup, swap.finished):
        path.write_text(path.name)
    with pytest.raises(SourceUnusable, match="only one"):
        swap.finish()
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        each.name: each.name for each in (swap.path, swap.backup, swap.finished)
    }


def test_a_new_database_with_a_log_is_not_complete(tmp_path: Path) -> None:
    swap = Swap(tmp_path / "events.db")
    swap.unfinished.touch()
    (tmp_path / "events.db.importing-wal").touch()
    with pytest.raises(SourceUnusable, match="still open"):
        swap.complete()
    assert swap.unfinished.exists()
