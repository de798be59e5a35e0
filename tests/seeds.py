"""Seeds of random tests: some that never change, and a new one each time, told by the name of the test."""

import os
import random


def seeds(count: int) -> list[int]:
    """`count` seeds for `parametrize`, the last of them new; `TEST_SEED` in the environment gives just that one."""
    chosen = os.environ.get("TEST_SEED")
    if chosen is not None:
        return [int(chosen)]
    return [*range(1, count), random.SystemRandom().randrange(1_000, 2**31)]
