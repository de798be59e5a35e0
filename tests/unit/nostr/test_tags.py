"""Tags: what they name, when an event expires, whether it is protected, and which version of two counts."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.nostr.event import Event
from pipeline.nostr.tags import expiration, first_values, identifier, is_protected, public_keys, supersedes
from tests.unit.nostr.strategies import property_test

KEY = bytes(range(32))


def tagged(*tags: list[str], created_at: int = 0, event_id: bytes = bytes(32)) -> Event:
    return Event(event_id, KEY, created_at, 1, tags, "", bytes(64))


def test_first_values_skip_tags_without_one() -> None:
    event = tagged(["t", "a", "x"], ["t"], ["T", "b"], ["t", ""], ["t", "a"], ["-"], [""])
    assert list(first_values(event, "t")) == ["a", "", "a"]
    assert list(first_values(event, "")) == []


def test_public_keys_are_distinct_and_well_formed() -> None:
    good, other = KEY.hex(), "00" * 32
    bad = ["", "junk", good.upper(), good[:-1], good + "0", good + "\n", f" {good}", "é" * 64, "٣" * 64]
    event = tagged(["p", good], ["p", good, "wss://x"], ["p"], ["P", "11" * 32], ["p", other], *(["p", x] for x in bad))
    assert public_keys(event) == {KEY, bytes(32)}


@pytest.mark.parametrize(
    ("tags", "value"),
    [
        ([], ""),
        ([["d"]], ""),
        ([["d", ""]], ""),
        ([["e", "x"], ["d", "a:b"], ["d", "c"]], "a:b"),
        ([["d"], ["d", "c"]], "c"),
    ],
)
def test_the_identifier_is_the_first_d_value(tags: list[list[str]], value: str) -> None:
    assert identifier(tagged(*tags)) == value


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("1700000000", 1_700_000_000),
        ("0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ("9" * 5000, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e9", None),
        (" 1", None),
        ("1\n", None),
        ("1_000", None),
        ("٣", None),
        ("soon", None),
    ],
)
def test_only_a_plain_number_is_an_expiration(value: str, time: int | None) -> None:
    assert expiration(tagged(["expiration", value])) == time


def test_the_first_expiration_counts() -> None:
    assert expiration(tagged()) is None
    assert expiration(tagged(["expiration"])) is None
    assert expiration(tagged(["expiration", "5"], ["expiration", "3"])) == 5
    assert expiration(tagged(["expiration", "soon"], ["expiration", "3"])) is None


@pytest.mark.parametrize(
    ("tags", "protected"), [([], False), ([["-"]], True), ([["p", "-"]], False), ([["t", "x"], ["-", "x"]], True)]
)
def test_a_dash_protects(tags: list[list[str]], protected: bool) -> None:
    assert is_protected(tagged(*tags)) is protected


def test_later_supersedes_and_among_equals_the_lower_id() -> None:
    low, high = bytes(32), b"\xff" * 32
    late = tagged(created_at=2, event_id=high)
    early_low, early_high = tagged(created_at=1, event_id=low), tagged(created_at=1, event_id=high)
    assert supersedes(late, early_low)
    assert not supersedes(early_low, late)
    assert supersedes(early_low, early_high)
    assert not supersedes(early_high, early_low)
    assert not supersedes(early_low, early_low)


@property_test
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([b"\0", b"a", b"b"])), min_size=1, max_size=4))
def test_the_winner_does_not_depend_on_the_order_of_arrival(versions: list[tuple[int, bytes]]) -> None:
    winners = set()
    for order in permutations(tagged(created_at=time, event_id=name * 32) for time, name in versions):
        kept = order[0]
        for new in order[1:]:
            kept = new if supersedes(new, kept) else kept
        winners.add((kept.created_at, kept.id))
    latest = max(time for time, _ in versions)
    assert winners == {(latest, min(name for time, name in versions if time == latest) * 32)}
