"""Seeds of random tests, the same in every run, so that a commit that passed once passes again.

`TEST_NEW_SEEDS=1` adds seeds that no run had before, `TEST_SEED=N` repeats one. Each test tells its seed.
"""

import os
import random

FINDS_NEW = os.environ.get("TEST_NEW_SEEDS") == "1"
"""Whether random tests are to go where none went before."""

# Workers of one run must collect the same tests, so they draw the same seeds; without workers there is no such name.
_new = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID"))


def seeds(count: int) -> list[int]:
    """`count` seeds for `parametrize`; of new ones the last."""
    chosen = os.environ.get("TEST_SEED")
    if chosen is not None:
        return [int(chosen)]
    return [*range(1, count), _drawn() if FINDS_NEW else count]


def told_seed() -> int:
    """One seed, for a test that draws by itself; it is printed, which pytest shows of a test that fails."""
    chosen = os.environ.get("TEST_SEED")
    seed = int(chosen) if chosen is not None else _drawn() if FINDS_NEW else 1
    print(f"seed {seed}")
    return seed


def _drawn() -> int:
    return _new.randrange(1_000, 2**31)
