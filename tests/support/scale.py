"""How large long tests are: small enough for every run, or in full with `TEST_FULL=1` in the environment."""

import os

FULL = bool(os.environ.get("TEST_FULL"))


def size(short: int, full: int) -> int:
    """The size of a test in this run."""
    return full if FULL else short
