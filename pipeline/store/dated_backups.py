"""Dated copies of a database in one folder, of which the newest are kept."""

import fcntl
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_PART: Final = ".part"
_TIME: Final = r"\d{8}T\d{6}Z"


def dated_path(folder: Path, database: Path, now: int) -> Path:
    """Return the path of a copy of `database` made at `now` (ms)."""
    at = datetime.fromtimestamp(now / 1000, UTC)
    return folder / f"{database.stem}-{at:%Y%m%dT%H%M%SZ}.db"


def remove_older(folder: Path, database: Path, keep: int) -> list[Path]:
    """Remove all dated copies of `database` in the folder but the newest, and what interrupted ones left; return them.

    No other file is touched.
    """
    name = re.compile(rf"{re.escape(database.stem)}-{_TIME}\.db({re.escape(_PART)})?")
    found = [
        each for each in folder.iterdir() if name.fullmatch(each.name) and each.is_file() and not each.is_symlink()
    ]
    copies = sorted(each for each in found if each.suffix != _PART)
    gone = [*copies[: max(0, len(copies) - keep)], *(each for each in found if each.suffix == _PART and _is_left(each))]
    for each in gone:
        each.unlink(missing_ok=True)
    return gone


def _is_left(part: Path) -> bool:
    """Return True unless a backup writes it now."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
