"""Memory that this process has freed and still holds."""

import ctypes


def give_back() -> None:
    """Return freed memory to the system, where the C library can: glibc keeps what is scattered.

    It takes some 20 ms for 100 MB, in which no thread allocates.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
