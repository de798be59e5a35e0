"""What runs inside every process of the service under test, before anything else; `PatchedSource` puts it there.

Only the standard library and apsw: it is imported by `sitecustomize`. All of it goes by files in one folder.
"""

from pathlib import Path

FOLDER = "CHAOS_FOLDER"
"""The environment variable that names the folder; without it nothing is hooked."""


def points_in(folder: Path) -> Path:
    """The folder with one file per stage that is to stop: `MOMENT|STATEMENT|STAGE`.

    The process that stops there renames it to `PID.stopped`.
    """
    return folder / "points"


def clock_in(folder: Path) -> Path:
    """The file with the number of nanoseconds by which the clock is wrong, as a native 64-bit integer."""
    return folder / "clock"


def disk_in(folder: Path) -> Path:
    """The file with one byte: whether the disk takes no writes any more."""
    return folder / "disk"


def asleep_in(folder: Path) -> Path:
    """The file that lets the reactor of every crawler stand still while it is there."""
    return folder / "asleep"


def unsynced_in(folder: Path) -> Path:
    """The file with what the database's file held where it was written to since it was last synced; see `disk`."""
    return folder / "unsynced"


def notes_in(folder: Path) -> Path:
    """The folder with one file per process, with what it should not have done; see `transaction_monitor`."""
    return folder / "notes"


def prepare(folder: Path) -> None:
    """Make the folder as the hooks need it."""
    for each in (points_in(folder), notes_in(folder)):
        each.mkdir(parents=True, exist_ok=True)
    clock_in(folder).write_bytes(bytes(8))
    disk_in(folder).write_bytes(bytes(1))
    unsynced_in(folder).touch()
