"""Copies of the folder in which the service ran."""

import shutil
from pathlib import Path

# Processes leave their doorbells behind; a FIFO cannot be copied.
_NOT_COPIED = shutil.ignore_patterns("*.bell")


def copy_run(folder: Path, copy: Path) -> None:
    """Copy what the service left in `folder`, as files for other eyes or for another run; it must not run now.

    Closed by its last user, a database is one file.
    """
    shutil.copytree(folder, copy, ignore=_NOT_COPIED, dirs_exist_ok=True)
