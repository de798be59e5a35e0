"""Standard input, output and error, which may be closed when a process starts."""

import os
import sys
from pathlib import Path
from typing import TextIO, cast

_LAST_STANDARD = 2


def open_closed_streams() -> None:
    """Give the standard streams that are closed the null device.

    Otherwise the next file or socket gets their number, and what a library writes to standard error goes there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or _null("r")
    sys.stdout = sys.stdout or _null("w")
    sys.stderr = sys.stderr or _null("w")


def _null(mode: str) -> TextIO:
    return cast("TextIO", Path(os.devnull).open(mode, encoding="utf-8"))
