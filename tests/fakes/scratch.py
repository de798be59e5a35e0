"""Temporary files of fakes that were not told where to keep theirs; gone when the interpreter ends."""

import atexit
import functools
import itertools
import tempfile
from pathlib import Path

_number = itertools.count(1)


@functools.cache
def _directory() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="event-service-tests-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


def scratch_path(name: str) -> Path:
    """A path in the scratch folder that nobody else gets, ending in `name`; nothing is there yet."""
    return _directory() / f"{next(_number)}-{name}"
