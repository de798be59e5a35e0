"""A database that is damaged or another's is refused with a clear message, and left as it is."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw

from tests.chaos.scene import Scene
from tests.fakes.child import ChildFailed
from tests.fakes.service import EventService

CANNOT_START = 3
_LIMIT_S = 30.0
_PAGE_BYTES = 4096


def _overwritten_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"These are somebody's notes. " * 40)


def _cut_in_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // _PAGE_BYTES * _PAGE_BYTES)


def _cut_within_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(_PAGE_BYTES + 17)


def _of_another_program(path: Path) -> None:
    path.unlink()
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")


DAMAGE: tuple[Callable[[Path], None], ...] = (
    _overwritten_header,
    _cut_in_half,
    _cut_within_a_page,
    _of_another_program,
)


def refusals(scene: Scene) -> list[str]:
    """What is wrong with how the service treats damaged copies of its database; it must have ended."""
    found: list[str] = []
    source = scene.service.database
    with closing(apsw.Connection(str(source))) as connection:
        whole = connection.serialize("main")
    for damage in DAMAGE:
        name = damage.__name__.strip("_").replace("_", "-")
        directory = scene.service.directory / name
        directory.mkdir()
        path = directory / "events.db"
        path.write_bytes(whole)
        damage(path)
        found += [f"database {name}: {fault}" for fault in _faults(scene, directory, path)]
    return found


def _faults(scene: Scene, directory: Path, path: Path) -> list[str]:
    before = path.read_bytes()
    env = {**scene.service.env, "EVENTS_DATABASE_PATH": str(path), "EVENTS_RUNTIME_DIRECTORY": str(directory / "run")}
    service = EventService(directory, env)
    service.start(wait=False)
    try:
        code = service.wait_exit(_LIMIT_S)
    except ChildFailed:
        return ["is taken for a good one"]
    finally:
        service.close()
    faults = [] if code == CANNOT_START else [f"exit code {code} instead of {CANNOT_START}"]
    lines = [line for line in service.log_text().splitlines() if str(path) in line]
    faults += [] if len(lines) == 1 else [f"{len(lines)} lines name it: {service.log_text()[-300:]}"]
    return faults + ([] if path.read_bytes() == before else ["was changed"])
