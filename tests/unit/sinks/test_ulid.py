"""ULIDs against vectors of other implementations, and what the uuid attribute relies on."""

import random
import re

import pytest

from pipeline.sinks.ulid import ulid
from tests.support.seeds import seeds

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def decode(text: str) -> int:
    """The number that 26 characters stand for, by the definition of base 32."""
    number = 0
    for character in text:
        number = number * 32 + CROCKFORD.index(character)
    return number


@pytest.mark.parametrize(
    ("time_ms", "entropy", "expected"),
    [
        (0, bytes(10), "0" * 26),
        (2**48 - 1, b"\xff" * 10, "7" + "Z" * 25),
        # The example of the specification, with the bytes that oklog/ulid gives for it.
        (0x01563E3AB5D3, bytes.fromhex("d6764c61efb99302bd5b"), "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        # The time part of the JavaScript implementation's test.
        (1_469_918_176_385, bytes(10), "01ARYZ6S41" + "0" * 16),
    ],
)
def test_vectors(time_ms: int, entropy: bytes, expected: str) -> None:
    assert ulid(time_ms, entropy) == expected


@pytest.mark.parametrize("seed", seeds(3))
def test_time_and_entropy_can_be_read_back(seed: int) -> None:
    """26 characters of the alphabet; sorted as their times are."""
    rng = random.Random(seed)
    made = []
    for _ in range(200):
        time_ms, entropy = rng.getrandbits(48), rng.randbytes(10)
        text = ulid(time_ms, entropy)
        assert re.fullmatch(f"[0-7][{CROCKFORD}]{{25}}", text)
        assert decode(text) == time_ms << 80 | int.from_bytes(entropy)
        made.append((time_ms, text))
    assert [text for _, text in sorted(made)] == sorted(text for _, text in made)


@pytest.mark.parametrize("time_ms", [2**48, (2**63 - 1) * 1000, 10**40])
def test_a_time_that_does_not_fit_still_gives_26_characters(time_ms: int) -> None:
    """`created_at` is whatever its author says."""
    assert re.fullmatch(f"[0-7][{CROCKFORD}]{{25}}", ulid(time_ms, b"0123456789"))
