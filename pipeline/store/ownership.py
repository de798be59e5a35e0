"""Whose files these are: what root makes or replaces here must stay usable for the service's own user."""

import contextlib
import os
import pwd
import stat
from pathlib import Path

_ROOT = 0
_MODE = 0o600


def create_private(path: Path) -> None:
    """Make the missing file at `path`, which only its owner may read; as root, for the owner of its folder.

    A command of an operator may be what first opens the database of a service that has a user of its own.
    """
    if is_there(path):
        return
    # The opening of the file reports what could not be made.
    with contextlib.suppress(OSError):
        owner = path.parent.stat()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            if os.geteuid() == _ROOT:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        finally:
            os.close(descriptor)


def is_there(path: Path) -> bool | None:
    """Return True if there is such a file, False if not, None if this user may not look into its folder."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    return True


def give_as(path: Path, model: Path) -> None:
    """Let the file at `path` have the owner and mode of `model`, as far as this user may."""
    found = model.stat()
    if os.geteuid() == _ROOT:
        os.chown(path, found.st_uid, found.st_gid)
    path.chmod(stat.S_IMODE(found.st_mode))


def describe_owner(path: Path) -> str:
    """What may keep this user from the file: its place, or whose it is and who asks; empty where that is not known."""
    try:
        if _is_read_only(path.parent):
            return "the file system is mounted read-only"
        found = path.stat()
    except PermissionError:
        return f"this is {_user(os.geteuid())}, who may not look into its folder"
    except OSError:
        return ""
    if stat.S_ISDIR(found.st_mode):
        return "it is a directory"
    mode = stat.S_IMODE(found.st_mode)
    return f"it belongs to {_user(found.st_uid)} with mode {mode:04o}, and this is {_user(os.geteuid())}"


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
