"""What a run left can be kept for other eyes, and run again."""

from pathlib import Path

from tests.fakes.service import EventService
from tests.support.run_folder import copy_run


def test_a_copy_of_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    with EventService(tmp_path / "first") as service:
        assert service.stop() == 0
    assert list((tmp_path / "first").rglob("*.bell")), "processes leave their bells"
    copy_run(tmp_path / "first", tmp_path / "second")
    with EventService(tmp_path / "second") as service:
        assert service.stop() == 0
