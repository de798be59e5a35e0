"""`hub.hand_over_v1` and its kin, on a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from pipeline.hub.connection import HubConnection, HubRefused
from pipeline.hub.installer import migrate
from tests.fakes.postgres import Hub

STREAM = "0" * 32
OTHER_STREAM = "1" * 32
NOTHING: tuple[list[str], ...] = ([], [], [], [], [], [])


@pytest.fixture
def edge(hub: Hub) -> Iterator[HubConnection]:
    with HubConnection.open(hub.add_host("fra1")) as connection:
        yield connection


def hand_over(edge: HubConnection, number: int, body: bytes = b"x", stream: str = STREAM) -> tuple[object, ...]:
    (row,) = edge.call("hand_over_v1", stream, number, body, *NOTHING)
    return row


def test_migration_twice_applies_nothing_more(hub: Hub) -> None:
    assert migrate(hub.owner) == []


def test_parcel_with_next_number_is_taken_once(edge: HubConnection) -> None:
    assert edge.call("open_stream_v1", STREAM) == [(0,)]
    assert hand_over(edge, 1) == ("taken", 1)
    assert hand_over(edge, 1, b"again") == ("other", 1)
    assert hand_over(edge, 3) == ("other", 1)
    assert hand_over(edge, 2) == ("taken", 2)
    assert edge.call("open_stream_v1", STREAM) == [(2,)]


def test_stream_is_closed_by_a_newer_one_of_its_host(edge: HubConnection) -> None:
    edge.call("open_stream_v1", STREAM)
    edge.call("open_stream_v1", OTHER_STREAM)
    with pytest.raises(HubRefused, match="not open"):
        hand_over(edge, 1)
    with pytest.raises(HubRefused, match="closed by a newer one"):
        edge.call("open_stream_v1", STREAM)
    assert hand_over(edge, 1, stream=OTHER_STREAM) == ("taken", 1)
