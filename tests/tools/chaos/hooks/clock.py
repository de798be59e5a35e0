"""Another time of day than the machine's; the monotonic clock stays what it is."""

import mmap
import struct
import time
from pathlib import Path

from . import clock_in


def install(folder: Path) -> None:
    """Let `time.time` and `time.time_ns` be wrong by what the file says at the moment."""
    with clock_in(folder).open("rb") as file:
        view = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    real = time.time_ns

    def time_ns() -> int:
        return real() + int(struct.unpack_from("=q", view)[0])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
