"""Filters: matching against a naive model, normal form, and strict reading."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter, InvalidFilter, parse_filter
from tests.unit.nostr.strategies import (
    few_keys,
    filters,
    json_values,
    keys,
    meeting_events,
    property_test,
    text,
    unsigned_events,
    value_of,
)

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


def naive_matches(condition: dict[str, Any], event: dict[str, Any]) -> bool:
    """NIP-01, sentence by sentence, on decoded JSON."""

    def fulfilled(name: str, wanted: Any) -> bool:
        if name.startswith("#"):
            return any(tag[1] in wanted for tag in event["tags"] if len(tag) >= 2 and tag[0] == name[1:])
        if name in ("since", "until"):
            return bool(wanted <= event["created_at"] if name == "since" else event["created_at"] <= wanted)
        field = {"ids": "id", "authors": "pubkey", "kinds": "kind"}.get(name)
        return field is None or event[field] in wanted

    return all(fulfilled(name, wanted) for name, wanted in condition.items())


@property_test
@given(filters, meeting_events)
def test_matches_as_the_naive_model_does(condition: Filter, event: Event) -> None:
    assert condition.matches(event) == naive_matches(condition.to_value(), value_of(event))


@property_test
@given(filters)
def test_reading_is_the_inverse_of_writing(condition: Filter) -> None:
    assert parse_filter(condition.to_value()) == condition
    assert parse_filter(json.loads(condition.encode())) == condition
    assert hash(parse_filter(condition.to_value())) == hash(condition)


@property_test
@given(st.lists(keys, max_size=5), st.lists(text, max_size=5), st.lists(keys, max_size=3), st.randoms())
def test_equal_filters_give_equal_bytes(authors: list[bytes], topics: list[str], named: list[bytes], rng: Any) -> None:
    def built(shuffled: bool) -> Filter:
        order = rng.sample if shuffled else lambda items, _: list(items)
        tags = [("t", frozenset(order(topics, len(topics)))), ("p", frozenset(key.hex() for key in named))]
        return Filter(authors=frozenset(order(authors, len(authors))), tags=tuple(order(tags, 2)))

    assert built(True) == built(False)
    assert built(True).encode() == built(False).encode()
    assert hash(built(True)) == hash(built(False))
    assert parse_filter(json.loads(built(True).encode())) == built(False)


@property_test
@given(unsigned_events)
def test_an_event_matches_the_filter_that_describes_it(event: Event) -> None:
    named = {tag[0]: tag[1] for tag in event.tags if len(tag) > 1}
    condition = Filter(
        ids=frozenset({event.id}),
        authors=frozenset({event.pubkey}),
        kinds=frozenset({event.kind}),
        tags=tuple((name, frozenset({value})) for name, value in named.items()),
        since=event.created_at,
        until=event.created_at,
        limit=0,
    )
    assert condition.matches(event)
    assert Filter().matches(event)


@pytest.mark.parametrize(
    "condition",
    [
        Filter(ids=frozenset()),
        Filter(authors=frozenset()),
        Filter(kinds=frozenset()),
        Filter(tags=(("t", frozenset()),)),
    ],
)
@given(meeting_events)
def test_an_empty_list_matches_nothing(condition: Filter, event: Event) -> None:
    assert not condition.matches(event)
    assert "[]" in condition.encode().decode()


def test_only_a_tags_first_value_counts() -> None:
    event = Event(ONE, ONE, 1, 1, [["t", "a", "b"], ["t"], ["b", "c"]], "", bytes(64))
    assert Filter(tags=(("t", frozenset({"a", "z"})),)).matches(event)
    assert not Filter(tags=(("t", frozenset({"b", "c", "t"})),)).matches(event)


def test_tags_are_sorted_and_named_once() -> None:
    one, other = ("a", frozenset({"1"})), ("b", frozenset({"2"}))
    assert Filter(tags=(other, one)) == Filter(tags=(one, other))
    with pytest.raises(ValueError, match="two conditions"):
        Filter(tags=(one, other, ("a", frozenset())))


def test_the_written_form() -> None:
    condition = Filter(
        ids=frozenset({TWO, ONE}),
        authors=frozenset({ONE}),
        kinds=frozenset({10002, 0, 3}),
        tags=(("t", frozenset({"b", "a"})), ("p", frozenset({ONE.hex()}))),
        since=1,
        until=2,
        limit=500,
    )
    assert (
        condition.encode()
        == (
            f'{{"ids":["{ONE.hex()}","{TWO.hex()}"],"authors":["{ONE.hex()}"],"kinds":[0,3,10002],'
            f'"#p":["{ONE.hex()}"],"#t":["a","b"],"since":1,"until":2,"limit":500}}'
        ).encode()
    )
    assert Filter().encode() == b"{}"


def test_the_limits_themselves_are_legal() -> None:
    least = {"kinds": [0], "since": 0, "until": 0, "limit": 0}
    most = {"kinds": [65_535], "since": 2**63 - 1, "until": 2**63 - 1, "limit": 2**63 - 1}
    for value in (least, most):
        assert parse_filter(value).to_value() == value


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {"ids": ONE.hex()},
        {"ids": [ONE.hex().upper().replace("0", "A")]},
        {"ids": ["00"]},
        {"ids": [1]},
        {"authors": None},
        {"authors": [ONE.hex() + "0"]},
        {"kinds": [True]},
        {"kinds": [1.0]},
        {"kinds": [-1]},
        {"kinds": [65_536]},
        {"kinds": 1},
        {"since": -1},
        {"since": "1"},
        {"until": 2**63},
        {"limit": None},
        {"limit": True},
        {"search": "x"},
        {"#tt": ["a"]},
        {"#": ["a"]},
        {"#é": ["a"]},
        {"#1": ["a"]},
        {"t": ["a"]},
        {"": []},
        {"#t": "a"},
        {"#t": [1]},
        {"#t": [None]},
        {"#e": ["a"]},
        {"#p": [ONE.hex()[:-1]]},
    ],
)
def test_what_strfry_refuses_is_refused(value: Any) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(value)
    assert str(caught.value)


@property_test
@given(
    json_values
    | st.dictionaries(
        st.sampled_from(["ids", "authors", "kinds", "since", "until", "limit", "#t", "#e", "#T"]),
        json_values | st.lists(few_keys.map(bytes.hex)) | st.lists(st.integers(0, 9)),
    )
)
def test_any_value_is_a_filter_or_invalid(value: Any) -> None:
    try:
        condition = parse_filter(value)
    except InvalidFilter:
        return
    again = condition.to_value()
    assert set(again) == set(value)
    for name, item in value.items():
        assert sorted(set(item)) == again[name] if isinstance(item, list) else item == again[name]
