"""Putting an imported database in the place of the one it was imported from, which is kept beside it.

    NAME.import/     the private copy that is read, held by one import at a time
    NAME.importing   the new database while it is filled
    NAME.imported    the same, complete; from here on the files are moved
    NAME.go-backup   the old database with its log or journal, as they were

Every step is one rename. `Database.open` refuses NAME while NAME.imported exists, so that no process uses or creates
what is there between two renames; the next import goes on with the moving.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.go_import.private_copy import SIDE_FILES, SourceUnusable
from pipeline.store.database_file import APPLICATION_ID, INTERRUPTED_SWAP
from pipeline.store.ownership import give_as

_APPLICATION_ID_AT = slice(68, 72)  # https://sqlite.org/fileformat.html


@dataclass(frozen=True, slots=True)
class Swap:
    """The files around `path`, the resolved path of the database."""

    path: Path

    @property
    def unfinished(self) -> Path:
        """The new database while it is filled."""
        return _beside(self.path, ".importing")

    @property
    def finished(self) -> Path:
        """The new database, complete."""
        return _beside(self.path, INTERRUPTED_SWAP)

    @property
    def backup(self) -> Path:
        """The old database."""
        return _beside(self.path, ".go-backup")

    def is_ours(self) -> bool:
        """Return True if a database of this service is at `path`."""
        try:
            with self.path.open("rb") as file:
                header = file.read(_APPLICATION_ID_AT.stop)
        except FileNotFoundError:
            return False
        return int.from_bytes(header[_APPLICATION_ID_AT]) == APPLICATION_ID

    def require_room(self) -> None:
        """Raise `SourceUnusable` where a backup of another time would be overwritten."""
        if self.backup.exists():
            raise SourceUnusable(f"{self.backup} is there already, and {self.path} is no database of this service")

    def complete(self) -> None:
        """Say that the new database is complete and closed; `finish` comes next."""
        if _beside(self.unfinished, "-wal").exists():
            raise SourceUnusable(f"{self.unfinished} is still open somewhere")
        _rename(self.unfinished, self.finished)

    def finish(self) -> bool:
        """Move the old files away and the new one into their place, wherever that was interrupted.

        Returns whether there was anything to finish.
        """
        if not self.finished.exists():
            return False
        if self.path.exists() and self.backup.exists():
            raise SourceUnusable(f"both {self.path} and {self.backup} are there; the old database can be only one")
        # Root imports for the user of the service, who opens the new one as the old one.
        give_as(self.finished, self.path if self.path.exists() else self.backup)
        # The log goes first: SQLite deletes one whose database is missing, and applies it to any that takes its place.
        for suffix in (*SIDE_FILES, ""):
            if _beside(self.path, suffix).exists():
                _rename(_beside(self.path, suffix), _beside(self.backup, suffix))
        _rename(self.finished, self.path)
        return True


@contextmanager
def workspace(database: Path) -> Iterator[Path]:
    """An empty folder beside `database` for this process alone; gone afterwards, and after a crash emptied again."""
    directory = _beside(database, ".import")
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), directory.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            raise SourceUnusable(f"another import is at work in {directory}") from None
        try:
            for left in directory.iterdir():
                left.unlink()
            yield directory
        finally:
            shutil.rmtree(directory)
    finally:
        os.close(descriptor)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _rename(source: Path, target: Path) -> None:
    source.rename(target)
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
