"""Numbers by author, packed: the same as a dictionary of them."""

import random

import pytest

from pipeline.crawl.sync import packed_uses
from pipeline.crawl.sync.packed_uses import PackedUses, pack_number
from tests.support.seeds import seeds


@pytest.mark.parametrize("mask", [0, 3, packed_uses._MASK])
@pytest.mark.parametrize("seed", seeds(6))
def test_numbers_are_those_of_a_dictionary(seed: int, mask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_uses, "_MASK", mask)
    rng, packed = random.Random(seed), PackedUses()
    plain: dict[bytes, tuple[int, ...]] = {}
    people = [rng.randbytes(32) for _ in range(60)]
    for _ in range(400):
        key = rng.choice(people)
        numbers = tuple(rng.choices([*range(12), 2**31, 2**32 - 1], k=rng.choice([0, 0, 1, 2, 7, 20])))
        packed.put(key, numbers)
        if numbers:
            plain[key] = numbers
        else:
            plain.pop(key, None)
        assert len(packed) == len(plain)
        for each in (key, *rng.sample(people, 5)):
            assert packed.get(each) == plain.get(each, ())
            for number in (0, 5, 2**32 - 1):
                assert packed.has(each, pack_number(number)) == (number in plain.get(each, ()))
    for key in people:
        assert packed.get(key) == plain.get(key, ())
        packed.put(key, ())
    assert len(packed) == 0
    assert {*packed._buckets} == {packed_uses._EMPTY}


def test_hash_at_a_place_of_no_author_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are those of the end of one and the beginning of the next."""
    hashes = {b"a": 0x1111111122222222, b"b": 0x3333333344444444, b"c": 0x4444444411111111}
    monkeypatch.setattr(packed_uses, "_MASK", 0)
    monkeypatch.setattr(packed_uses, "hash", hashes.__getitem__, raising=False)
    packed = PackedUses()
    packed.put(b"a", (1,))
    packed.put(b"b", (2,))
    assert packed.get(b"c") == ()
    packed.put(b"c", (3,))
    assert [packed.get(key) for key in (b"a", b"b", b"c")] == [(1,), (2,), (3,)]


def test_as_many_numbers_as_fit_are_kept() -> None:
    packed = PackedUses()
    packed.put(b"a", range(1_000))
    assert packed.get(b"a") == tuple(range(255))
