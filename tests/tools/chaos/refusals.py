"""What must be refused: a database that is damaged or another's, a disk without writes, addresses of the inside.

Each with a clear message, and what it refuses is left as it is.
"""

import random
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import monotonic

import apsw

from tests.fakes.child import ChildFailed
from tests.fakes.net import pause
from tests.fakes.service import EventService
from tests.tools.chaos.disk import make_read_only, small_disk
from tests.tools.chaos.harness import ChaosHarness

CANNOT_START = 3
LIMIT_S = 120.0
"""Far more than any of it takes; on a busy machine nothing must be judged by less."""
_POLL_S = 0.2
# A whole number of pages, whatever their size.
_CUT_BYTES = 4096
_INSIDE = ("127.0.0.1", "localhost", "[::1]")


def _overwritten_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"These are somebody's notes. " * 40)


def _cut_in_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // _CUT_BYTES * _CUT_BYTES)


def _cut_within_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(_CUT_BYTES + 17)


def _of_another_program(path: Path) -> None:
    path.unlink()
    _make_another(path)


def _make_another(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")


DAMAGE: tuple[Callable[[Path], None], ...] = (
    _overwritten_header,
    _cut_in_half,
    _cut_within_a_page,
    _of_another_program,
)


def refusals(harness: ChaosHarness) -> list[str]:
    """What is wrong with how the service treats damaged copies of its database and the rest; it must have ended."""
    with closing(apsw.Connection(str(harness.service.database))) as connection:
        whole = connection.serialize("main")
    found: list[str] = []
    for damage in DAMAGE:
        name, path = _copy(harness, whole, damage.__name__)
        damage(path)
        before = path.read_bytes()
        faults = _faults(harness, path)
        faults += [] if path.read_bytes() == before else ["was changed"]
        found += [f"database {name}: {fault}" for fault in faults]
    found += [f"database with a broken page: {fault}" for fault in _broken_page(harness, whole)]
    found += [f"database replaced while in use: {fault}" for fault in _replaced(harness, whole)]
    found += [f"read-only disk: {fault}" for fault in _read_only(harness, whole)]
    found += [f"settings with secrets: {fault}" for fault in _bad_secrets(harness)]
    found += [f"addresses of the inside: {fault}" for fault in _inside(harness)]
    return found + _told(harness)


def _copy(harness: ChaosHarness, whole: bytes, what: str) -> tuple[str, Path]:
    name = what.strip("_").replace("_", "-")
    directory = harness.service.directory / name
    directory.mkdir()
    path = directory / "events.db"
    path.write_bytes(whole)
    return name, path


def _service(harness: ChaosHarness, path: Path, directory: Path | None = None, **settings: str) -> EventService:
    """One on the database at `path`, with its other files in `directory`, which is that of the database if not told."""
    directory = directory or path.parent
    env = {**harness.service.env, "EVENTS_DATABASE_PATH": str(path), "EVENTS_RUNTIME_DIRECTORY": f"{directory}/run"}
    service = EventService(directory, {**env, **settings})
    service.env["EVENTS_LISTEN_ADDRESS"] = f"{service.host}:{service.port}"
    return service


def _faults(harness: ChaosHarness, path: Path, directory: Path | None = None) -> list[str]:
    service = _service(harness, path, directory)
    service.start(wait=False)
    try:
        code = service.wait_exit(LIMIT_S)
    except ChildFailed:
        return ["is taken for a good one"]
    finally:
        service.close()
    faults = [] if code == CANNOT_START else [f"exit code {code} instead of {CANNOT_START}"]
    lines = [line for line in service.log_text().splitlines() if str(path) in line]
    return faults + ([] if len(lines) == 1 else [f"{len(lines)} lines name it: {service.log_text()[-300:]}"])


def _broken_page(harness: ChaosHarness, whole: bytes) -> list[str]:
    """Nobody looks at every page when starting; whoever meets it says so, and what the other pages hold stays."""
    _, path = _copy(harness, whole, "broken_page")
    with closing(apsw.Connection(str(path))) as connection:
        page = int(connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'outbox'").get)
        page_bytes = int(connection.pragma("page_size"))
        seen = set(connection.execute("SELECT event_id FROM seen"))
    with path.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(random.Random(harness.environment.seed).randbytes(page_bytes))
    service = _service(harness, path)
    service.start(wait=False)
    deadline = monotonic() + LIMIT_S
    faults = ["nobody says so"]
    while faults and monotonic() < deadline:
        pause(_POLL_S)
        says_so = "malformed" in service.log_text()
        faults = [] if says_so and (not service.running or not _is_healthy(service)) else faults
    service.close()
    with closing(apsw.Connection(str(path))) as connection:
        lost = seen - set(connection.execute("SELECT event_id FROM seen"))
    return faults + ([f"{len(lost)} ids were forgotten"] if lost else [])


def _is_healthy(service: EventService) -> bool:
    try:
        return service.get("/_health")[0] == 200
    except OSError:
        return False


def _replaced(harness: ChaosHarness, whole: bytes) -> list[str]:
    _, path = _copy(harness, whole, "replaced")
    service = _service(harness, path)
    try:
        service.start(timeout_s=LIMIT_S)
        path.rename(path.with_name("away.db"))
        _make_another(path)
        before = path.read_bytes()
        code = service.wait_exit(LIMIT_S)
    except ChildFailed as error:
        return [str(error)[:300]]
    finally:
        service.close()
    faults = [] if code == CANNOT_START else [f"exit code {code} instead of {CANNOT_START}"]
    faults += [] if "moved away or replaced" in service.log_text() else ["nobody says so"]
    return faults + ([] if path.read_bytes() == before else ["the other was changed"])


def _read_only(harness: ChaosHarness, whole: bytes) -> list[str]:
    """A file system that takes no writes, where the machine lets us make one."""
    directory = harness.service.directory / "read-only"
    disk = directory / "disk"
    with small_disk(disk) as mounted:
        path = disk / "events.db"
        path.write_bytes(whole)
        return _faults(harness, path, directory) if mounted and make_read_only(disk) else []


def _bad_secrets(harness: ChaosHarness) -> list[str]:
    """Secrets that are of no use are refused like everything else, and not repeated; `_told` looks for them."""
    settings = {
        "credentials": {
            "PUBSUB_EMULATOR_HOST": "",
            "EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH": str(harness.secrets.broken_key_file),
        },
        "password": {"EVENTS_BOOTSTRAP_RELAYS": harness.secrets.address},
    }
    found = []
    for name, env in settings.items():
        directory = harness.service.directory / f"bad-{name}"
        directory.mkdir()
        service = _service(harness, directory / "events.db", directory, **env)
        service.start(wait=False)
        try:
            code = service.wait_exit(LIMIT_S)
        except ChildFailed:
            found.append(f"{name} taken for a good one")
            continue
        finally:
            service.close()
        found += [] if code == CANNOT_START else [f"{name}: exit code {code} instead of {CANNOT_START}"]
        found += [] if service.log_text() else [f"{name}: nobody says so"]
    return found


def _inside(harness: ChaosHarness) -> list[str]:
    """Relay addresses that lead to this machine are not dialled unless the operator allows it."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        port = trap.getsockname()[1]
        directory = harness.service.directory / "inside"
        directory.mkdir()
        relays = ",".join(f"ws://{host}:{port}" for host in _INSIDE)
        service = _service(
            harness, directory / "events.db", EVENTS_ALLOW_PRIVATE_RELAYS="false", EVENTS_BOOTSTRAP_RELAYS=relays
        )
        try:
            service.start(timeout_s=LIMIT_S)
            refused = 0.0
            deadline = monotonic() + LIMIT_S
            while refused < len(_INSIDE) and monotonic() < deadline:
                pause(_POLL_S)
                refused = service.scrape().value("relay_connection_disconnections_counter")
        finally:
            service.close()
        faults = [] if refused >= len(_INSIDE) else [f"only {refused:.0f} were refused"]
        trap.settimeout(0)
        try:
            trap.accept()
        except BlockingIOError:
            return faults
        return [*faults, "one was dialled"]


def _told(harness: ChaosHarness) -> list[str]:
    """Secrets in logs or in the files of the processes; files that others may read."""
    run = harness.service.directory / "run"
    logs = harness.service.directory.rglob(harness.service.log.name)
    for path in (*logs, *(path for path in run.rglob("*") if path.is_file())):
        harness.keep_secrets(
            path.read_bytes().decode(errors="replace"), str(path.relative_to(harness.service.directory))
        )
    mode = run.stat().st_mode & 0o777
    return [] if mode == 0o700 else [f"the runtime directory has mode {mode:o}"]
