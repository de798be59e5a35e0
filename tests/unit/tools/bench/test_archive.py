"""The bench's relay of stored events answers filters as relays do."""

import json
from typing import Any

import pytest

from tests.factories.events import authors
from tests.tools.bench.archive import StoredEvents

ALICE, BOB = authors(1, 2)
EVENTS = [
    ALICE.sign("first", created_at=10, tags=[("p", BOB.pubkey)]),
    BOB.sign("second", created_at=20),
    ALICE.sign("third", created_at=30),
]
STORE = StoredEvents([each.raw.encode() for each in reversed(EVENTS)])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [30, 20, 10]),
        ({"since": 20, "until": 30}, [30, 20]),
        ({"authors": [ALICE.pubkey]}, [30, 10]),
        ({"#p": [BOB.pubkey]}, [10]),
        ({"ids": [EVENTS[1].id, "0" * 64]}, [20]),
        ({"kinds": [0, 3]}, []),
    ],
)
def test_stored_events_that_match_come_newest_first(wanted: dict[str, Any], found: list[int]) -> None:
    assert [json.loads(line)["created_at"] for line in STORE.matching(wanted)] == found
