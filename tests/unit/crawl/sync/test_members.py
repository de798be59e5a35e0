"""Packed members: the same as a list of them, whatever is taken from it."""

import random
from weakref import ref

import pytest

from pipeline.crawl.sync.members import NO_MEMBERS, SIZE, Member, Members, has_at, place_of
from pipeline.crawl.sync.query import Query, Subject
from tests.support.seeds import seeds


def some(rng: random.Random, count: int) -> list[Member]:
    return [Member(rng.randbytes(32), rng.randrange(-5, 2**40), rng.randrange(2**40)) for _ in range(count)]


def taken(rng: random.Random, packed: Members, plain: list[Member]) -> tuple[Members, list[Member]]:
    """A part of both, in one of the ways that there are."""
    match rng.randrange(5):
        case 0:
            low, high = sorted(rng.choices(range(len(plain) + 1), k=2))
            return packed[low:high], plain[low:high]
        case 1:
            step = rng.choice([-1, 2])
            return packed[::step], plain[::step]
        case 2:
            generation = rng.randrange(2**40)
            return packed.after(generation), [each for each in plain if each.generation > generation]
        case 3:
            keys = {each.public_key for each in plain if rng.random() < 0.5}
            return packed.among(keys), [each for each in plain if each.public_key in keys]
        case _:
            keys = {each.public_key for each in plain if rng.random() < 0.2}
            return packed.split(keys)[1], [each for each in plain if each.public_key not in keys]


@pytest.mark.parametrize("seed", seeds(60))
def test_every_part_of_members_is_as_that_of_a_list(seed: int) -> None:
    rng = random.Random(seed)
    plain = some(rng, rng.choice([0, 1, 2, 40]))
    packed = Members.of(plain)
    for _ in range(8):
        assert [*packed] == plain
        assert [packed[place] for place in range(len(packed))] == plain
        assert len(packed) == len(plain)
        assert packed.keys == [each.public_key for each in plain]
        assert packed.records == b"".join(each.pack() for each in plain)
        assert packed.newest == max((each.generation for each in plain), default=0)
        assert packed.earliest == min((each.since for each in plain), default=None)
        least = rng.randrange(2**40)
        assert packed.generations_after(least) == [each.generation for each in plain if each.generation > least]
        assert packed == Members.of(plain)
        assert hash(packed) == hash(Members.of(plain))
        assert all(each in packed for each in plain)
        packed, plain = taken(rng, packed, plain)


def test_members_that_differ_in_one_number_are_not_equal() -> None:
    one, other = Member(bytes(32), 1, 2), Member(bytes(32), 1, 3)
    assert Members.of([one]) != Members.of([other])
    assert other not in Members.of([one])
    assert Members.of([one]) != [one]
    assert Members.of([one, other]) != Members.of([one])


def test_what_leaves_nothing_out_is_the_same_object() -> None:
    members = Members.of(some(random.Random(1), 9))
    assert Members.of(members) is members
    assert members.after(-1) is members
    assert members.split(set())[1] is members
    assert members.among(set()) is NO_MEMBERS


def test_a_part_shares_the_bytes_of_the_whole() -> None:
    members = Members.of(some(random.Random(1), 9))
    halves = members[:4], members[4:]
    assert all(half._records is members._records for half in halves)
    assert members.among({members.keys[3]})._records is members._records


def test_place_of_a_key_is_found_and_of_others_is_where_they_belong() -> None:
    rng = random.Random(2)
    keys = sorted(rng.randbytes(32) for _ in range(50))
    records = Members.of(Member(key, 0, 0) for key in keys).records
    for place, key in enumerate(keys):
        assert place_of(records, key) == place
        assert has_at(records, key, place)
        assert not has_at(records, key, place + 1)
    for key in (bytes(32), rng.randbytes(32), b"\xff" * 32):
        place = place_of(records, key)
        assert place == sum(each < key for each in keys)
        assert not has_at(records, key, place)
    assert place_of(b"", keys[0]) == 0
    assert not has_at(b"", keys[0], 0)
    assert SIZE == 48


def test_keys_are_the_same_set_to_all_as_long_as_somebody_has_it() -> None:
    members = Members.of(some(random.Random(7), 20))
    keys, in_hex = members.key_set, members.hex_keys
    assert keys == set(members.keys)
    assert in_hex == {key.hex() for key in members.keys}
    assert members.key_set is keys
    assert members.hex_keys is in_hex
    # Nobody has them any more, so that they take no memory.
    gone = ref(keys), ref(in_hex)
    del keys, in_hex
    assert [each() for each in gone] == [None, None]
    assert members.key_set == set(members.keys)


def test_relays_that_are_asked_the_same_share_the_keys_of_their_filters() -> None:
    query = Query(Subject.AUTHORS, "0", Members.of(some(random.Random(8), 20)))
    mentions = Query(Subject.MENTIONS, "0", query.members)
    assert query.filter(limit=0).authors is query.filter(limit=1).authors
    assert mentions.filter(limit=0).tags[0][1] is mentions.filter(limit=1).tags[0][1]
