"""Events: the form of each field, the hashed bytes, and that writing and reading are inverse."""

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import EventServiceError
from pipeline.nostr.event import (
    Event,
    InvalidEvent,
    Reason,
    canonical,
    event_from_json,
    event_from_stored,
    event_id,
    parse_event,
    sign,
    verify,
)
from tests.support.seeds import told_seed
from tests.unit.nostr.strategies import (
    SECRET,
    a_value,
    json_values,
    naive_canonical,
    naive_form_is_right,
    naive_id,
    property_test,
    tag_lists,
    text_with_surrogates,
    unsigned_events,
    value_of,
    verdict,
)

FIELDS = ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"]


def fault(value: object) -> Reason:
    with pytest.raises(InvalidEvent) as caught:
        parse_event(value)
    assert isinstance(caught.value, EventServiceError)
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_missing_or_of_another_type_is_named(name: str) -> None:
    value = a_value()
    del value[name]
    assert fault(value) == name
    of_no_field: list[Any] = [None, True, False, 1.0, 1.5, -1, {}, [1], [[1]], 2**63]
    texts = [] if name == "content" else ["", "1"]
    lists: list[Any] = [] if name == "tags" else [[], [["t"]]]
    for wrong in of_no_field + texts + lists:
        assert fault(a_value(**{name: wrong})) == name, wrong


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "x", [], [{}]])
def test_what_is_no_object_has_the_wrong_shape(value: object) -> None:
    assert fault(value) is Reason.SHAPE


@pytest.mark.parametrize(("name", "length"), [("id", 64), ("pubkey", 64), ("sig", 128)])
def test_hexadecimal_is_lowercase_and_of_exact_length(name: str, length: int) -> None:
    right = a_value()[name]
    upper = right.upper()
    assert upper != right
    wrong = [right[:-1], right[:-2], right + "00", f"0x{right[2:]}", f" {right[:-1]}", right[:-2] + " \n"]
    wrong += [
        "é" * length,
        "\u212a" * length,
        "\ud800" * length,
        "g" * length,
        "٣" * length,
        right[:-2] + "  ",
        "ab " * (length // 3),
    ]
    for text in wrong if name == "sig" else [upper, *wrong]:
        assert fault(a_value(**{name: text})) == name, text


def test_capitals_in_a_signature_leave_in_lowercase() -> None:
    value = a_value()
    assert value_of(parse_event(value | {"sig": value["sig"].upper()})) == value


@pytest.mark.parametrize("kind", [65_536, 2**31, 2**53, 2**64, -1])
def test_a_kind_out_of_range(kind: int) -> None:
    assert fault(a_value(kind=kind)) is Reason.KIND


@pytest.mark.parametrize("created_at", [2**63, 2**64 - 1, 2**64, 10**400, -1])
def test_a_time_out_of_range(created_at: int) -> None:
    assert fault(a_value(created_at=created_at)) is Reason.CREATED_AT


@pytest.mark.parametrize(("name", "most"), [("kind", 65_535), ("created_at", 2**63 - 1)])
def test_the_limits_themselves_are_legal(name: str, most: int) -> None:
    assert getattr(parse_event(a_value(**{name: most})), name) == most
    assert getattr(parse_event(a_value(**{name: 0})), name) == 0


@pytest.mark.parametrize(
    "tags",
    [
        [[], 1],
        [["a", 1]],
        [["a", "b", 1]],
        [["a", None]],
        [[1]],
        [["a", ["b"]]],
        [["a", {"b": "c"}]],
        ["a"],
        [{"a": "b"}],
        [None],
        {"a": "b"},
        "ab",
        [["a", True]],
        [["a", 1.5]],
    ],
)
def test_tags_are_arrays_of_strings(tags: Any) -> None:
    assert fault(a_value(tags=tags)) is Reason.TAGS


@pytest.mark.parametrize(
    "tags",
    [
        [],
        [[]],
        [["a"], []],
        [["-"]],
        [[""]],
        [["p"]],
        [["p", "junk"]],
        [["e", ""]],
        [["a"] * 300],
        [["expiration", "soon"]],
    ],
)
def test_odd_tags_are_legal(tags: list[list[str]]) -> None:
    assert parse_event(a_value(tags=tags)).tags == tags


def test_unknown_members_are_dropped_and_order_does_not_matter() -> None:
    value = a_value()
    reordered = dict(sorted({**value, "relay_id": "r1", "ots": {"deep": [[]]}}.items(), reverse=True))
    event = parse_event(reordered)
    assert event == parse_event(value)
    assert list(value_of(event)) == FIELDS


def test_of_equal_keys_the_last_counts() -> None:
    """strfry refuses these; here what is verified, kept and handed on is one and the same reading."""
    raw = parse_event(a_value()).to_json()
    doubled = raw.replace(b'"content":', b'"content":"something else","content":')
    event = event_from_json(doubled)
    assert verdict(event) is None
    assert event.to_json() == raw
    first_right = raw[:-1] + b',"content":"something else"}'
    assert verdict(event_from_json(first_right)) is Reason.HASH


def test_text_that_is_no_json_has_its_own_reason() -> None:
    with pytest.raises(InvalidEvent) as caught:
        event_from_json(b'{"id":')
    assert caught.value.reason is Reason.JSON


def test_parsing_keeps_the_tags_and_changes_nothing() -> None:
    value = a_value(tags=[["p", "x"], ["-"]])
    before = copy.deepcopy(value)
    event = parse_event(value)
    assert event.tags is value["tags"]
    assert value == before


def test_an_event_is_a_value_whose_text_hides_the_content() -> None:
    event = parse_event(a_value())
    assert hash(event) == hash(parse_event(a_value()))
    assert len({event, parse_event(a_value())}) == 1
    assert "hello" not in repr(event)
    assert event.id.hex() in repr(event)
    with pytest.raises(AttributeError):
        event.kind = 2  # type: ignore[misc]  # the point of the test


def test_every_reason_has_words() -> None:
    assert len({str(InvalidEvent(reason)) for reason in Reason}) == len(Reason)


@property_test
@given(unsigned_events)
def test_the_hashed_bytes_are_those_of_the_standard_library(event: Event) -> None:
    value = value_of(event)
    assert canonical(event) == naive_canonical(value)
    assert event_id(event).hex() == naive_id(value)


@property_test
@given(unsigned_events)
def test_reading_is_the_inverse_of_writing(event: Event) -> None:
    raw = event.to_json()
    assert event_from_json(raw) == event
    assert event_from_json(raw).to_json() == raw
    assert event_from_json(json.dumps(json.loads(raw), indent=1).encode()) == event
    assert event_from_stored(raw) == event


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"null", b"{}", b'{"id":"x"}', b'"id"'])
def test_what_was_never_stored_as_an_event_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidEvent):
        event_from_stored(raw)


@property_test
@given(content=text_with_surrogates, tags=tag_lists(text_with_surrogates))
def test_lone_surrogates_survive_and_hash_as_in_javascript(content: str, tags: list[list[str]]) -> None:
    event = sign(SECRET, created_at=1, kind=1, tags=tags, content=content)
    verify(event)
    assert canonical(event) == naive_canonical(value_of(event))
    assert event_from_json(event.to_json()) == event_from_stored(event.to_json()) == event
    event.to_json().decode("utf-8")


@property_test
@given(json_values)
def test_any_value_is_an_event_or_invalid(value: Any) -> None:
    try:
        parse_event(value)
    except InvalidEvent:
        assert not naive_form_is_right(value)
    else:
        assert naive_form_is_right(value)


@property_test
@given(
    unsigned_events,
    st.sampled_from(FIELDS),
    json_values | st.lists(st.lists(json_values, max_size=3), max_size=3),
)
def test_an_event_with_one_field_replaced_is_judged_as_the_rules_spell_it(event: Event, name: str, item: Any) -> None:
    value = {**value_of(event), name: item}
    if naive_form_is_right(value):
        assert value_of(parse_event(value)) == value
    else:
        assert fault(value) == name


def test_every_truncation_is_refused() -> None:
    raw = parse_event(a_value()).to_json()
    for end in range(len(raw)):
        with pytest.raises(InvalidEvent):
            event_from_json(raw[:end])


def test_any_changed_byte_is_refused_or_read_without_another_error() -> None:
    """With a surrogate, so that both readers are tried; a mutation verifies only if it reads as the same event."""
    rng = random.Random(told_seed())
    original = sign(SECRET, created_at=1, kind=1, tags=[["t", "\ud800"]], content='a\\"b')
    raw = original.to_json()
    for _ in range(3000):
        mutated = bytearray(raw)
        for _ in range(rng.randint(1, 3)):
            mutated[rng.randrange(len(mutated))] = rng.choice([rng.randrange(256), *b'"\\{}[]:,u0'])
        try:
            event = event_from_json(bytes(mutated))
            verify(event)
        except InvalidEvent:
            continue
        assert event == original
