"""Kinds: every kind belongs to exactly one class, with NIP-01's borders."""

import pytest

from pipeline.nostr import kinds
from pipeline.nostr.event import MAX_KIND
from pipeline.nostr.kinds import is_addressable, is_ephemeral, is_regular, is_replaceable

CLASSES = [is_regular, is_replaceable, is_ephemeral, is_addressable]


def test_every_kind_is_of_exactly_one_class() -> None:
    assert all(sum(is_of(kind) for is_of in CLASSES) == 1 for kind in range(MAX_KIND + 1))


@pytest.mark.parametrize(
    ("is_of", "members"),
    [
        (is_replaceable, [0, 3, 10_000, 10_002, 19_999]),
        (is_ephemeral, [20_000, 22_242, 29_999]),
        (is_addressable, [30_000, 30_023, 39_999]),
        (is_regular, [1, 2, 4, 5, 6, 41, 62, 1059, 6666, 9_999, 40_000, 65_535]),
    ],
)
def test_the_borders_of_the_classes(is_of: object, members: list[int]) -> None:
    for kind in members:
        assert [candidate for candidate in CLASSES if candidate(kind)] == [is_of], kind


def test_the_numbers_of_the_kinds() -> None:
    """As the NIPs assign them, and 6666 as this service does."""
    numbers = {name: value for name, value in vars(kinds).items() if isinstance(value, int)}
    assert numbers == {
        "FIRST_ADDRESSABLE": 30_000,
        "METADATA": 0,
        "TEXT_NOTE": 1,
        "RECOMMENDED_RELAY": 2,
        "CONTACTS": 3,
        "ENCRYPTED_DIRECT_MESSAGE": 4,
        "DELETION": 5,
        "REPOST": 6,
        "REACTION": 7,
        "GENERIC_REPOST": 16,
        "VANISH": 62,
        "GIFT_WRAP": 1059,
        "REPORT": 1984,
        "REGISTRATION": 6666,
        "RELAY_LIST": 10_002,
        "BLOCKED_RELAYS": 10_006,
        "SEARCH_RELAYS": 10_007,
        "SIMPLE_GROUPS": 10_009,
        "RELAY_FEEDS": 10_012,
        "DIRECT_MESSAGE_RELAYS": 10_050,
        "AUTH": 22_242,
        "RELAY_SET": 30_002,
        "RELAY_DISCOVERY": 30_166,
    }


def test_the_kinds_replicated_for_everybody() -> None:
    assert sorted(kinds.GLOBAL_KINDS) == [0, 2, 3, 10_002]
