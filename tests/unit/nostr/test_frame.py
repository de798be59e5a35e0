"""Frames: ids in hexadecimal, and what is left of a malformed event."""

from typing import Any

import pytest
from hypothesis import given

from pipeline.nostr.frame import bytes_32, id_and_time
from tests.unit.nostr.strategies import json_values, keys, property_test

ID = "ab" * 32


@property_test
@given(keys)
def test_32_bytes_in_either_case(data: bytes) -> None:
    assert bytes_32(data.hex()) == bytes_32(data.hex().upper()) == data


@pytest.mark.parametrize(
    "text",
    [None, 1, [], b"ab" * 32, "", ID[:-1], ID[:-2], ID + "00", ID[:-2] + "  ", "ab " * 21 + "a", "g" * 64, "é" * 64],
)
def test_what_is_no_id(text: Any) -> None:
    assert bytes_32(text) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, (None, None)),
        ([ID, 1], (None, None)),
        ({}, (None, None)),
        ({"id": ID, "created_at": 0}, (0, b"\xab" * 32)),
        ({"id": ID, "created_at": 2**63 - 1}, (2**63 - 1, b"\xab" * 32)),
        ({"id": ID, "created_at": 2**63}, (None, b"\xab" * 32)),
        ({"id": "x", "created_at": 5}, (5, None)),
        ({"id": ID, "created_at": -1}, (None, b"\xab" * 32)),
        ({"id": ID, "created_at": True}, (None, b"\xab" * 32)),
        ({"id": ID, "created_at": 1.0}, (None, b"\xab" * 32)),
    ],
)
def test_what_is_left_of_a_malformed_event(value: Any, expected: tuple[int | None, bytes | None]) -> None:
    assert id_and_time(value) == expected


@property_test
@given(json_values)
def test_any_value_leaves_something_or_nothing(value: Any) -> None:
    created_at, event_id = id_and_time(value)
    assert created_at is None or type(created_at) is int
    assert event_id is None or len(event_id) == 32
