"""Seeds of random tests: some that never change, and a new one each time, told by the name of the test."""

import os
import random

# Workers of one run must collect the same tests, so they draw the same seeds; without workers there is no such name.
_new = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID"))


def seeds(count: int) -> list[int]:
    """`count` seeds for `parametrize`, the last of them new; `TEST_SEED` in the environment gives just that one."""
    chosen = os.environ.get("TEST_SEED")
    if chosen is not None:
        return [int(chosen)]
    return [*range(1, count), _new.randrange(1_000, 2**31)]
