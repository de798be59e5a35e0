"""`hub.hand_over_v1` and its kin, on a real PostgreSQL."""

from collections.abc import Iterator

import psycopg
import pytest

from pipeline.hub.connection import HubConnection
from pipeline.hub.installer import migrate
from pipeline.hub.parcel import chained
from tests.fakes.postgres import Hub

STREAM = "0" * 32
OTHER_STREAM = "1" * 32
NOTHING: tuple[list[str], ...] = ([], [], [], [], [], [])


@pytest.fixture
def edge(hub: Hub) -> Iterator[HubConnection]:
    with HubConnection.open(hub.add_host("fra1")) as connection:
        yield connection


def open_stream(edge: HubConnection, name: str = STREAM, predecessor: str = "") -> tuple[object, ...]:
    ((*answer, _),) = edge.call("open_stream_v1", name, predecessor)
    return tuple(answer)


def hand_over(
    edge: HubConnection, number: int, before: bytes = b"", body: bytes = b"x", stream: str = STREAM
) -> tuple[object, ...]:
    ((answer, last, digest, *_),) = edge.call("hand_over_v1", stream, number, before, body, b"{}", *NOTHING)
    return answer, last, digest


def test_migration_twice_applies_nothing_more(hub: Hub) -> None:
    assert migrate(hub.owner) == []


def test_parcel_with_next_number_is_taken_once(edge: HubConnection) -> None:
    assert open_stream(edge) == (0, b"", True, True)
    first = chained(b"", b"x", b"{}")
    assert hand_over(edge, 1) == ("taken", 1, first)
    assert hand_over(edge, 1, body=b"again") == ("other", 1, first)
    assert hand_over(edge, 3, first) == ("other", 1, first)
    second = chained(first, b"y", b"{}")
    assert hand_over(edge, 2, first, b"y") == ("taken", 2, second)
    assert open_stream(edge) == (2, second, False, True)


def test_parcel_of_another_past_is_not_taken(edge: HubConnection) -> None:
    open_stream(edge)
    answer, _, first = hand_over(edge, 1)
    assert answer == "taken"
    assert hand_over(edge, 2, b"other past") == ("other", 1, first)


def test_stream_that_a_newer_one_closed_still_hands_over(edge: HubConnection) -> None:
    open_stream(edge)
    assert open_stream(edge, OTHER_STREAM) == (0, b"", True, True)
    assert open_stream(edge) == (0, b"", False, False)
    assert hand_over(edge, 1)[0] == "taken"
    assert hand_over(edge, 1, stream=OTHER_STREAM)[0] == "taken"


def test_successor_of_a_closed_stream_closes_none(edge: HubConnection) -> None:
    open_stream(edge)
    open_stream(edge, OTHER_STREAM)
    assert open_stream(edge, "2" * 32, STREAM) == (0, b"", True, False)
    assert open_stream(edge, OTHER_STREAM) == (0, b"", False, True)
    assert open_stream(edge, "3" * 32, OTHER_STREAM) == (0, b"", True, True)


def test_closed_stream_stays_known_when_its_parcels_are_gone(hub: Hub, edge: HubConnection) -> None:
    """An old disk that comes back after days must not be taken for a new one, which would close the live stream."""
    open_stream(edge)
    _, _, digest = hand_over(edge, 1)
    open_stream(edge, OTHER_STREAM)
    with HubConnection.open(hub.home) as home:
        home.call("taken_v1", [STREAM], [1])
        assert home.call("prune_log_v1", -1, -1, 0, 1_000) == [(1, 1)]
    assert open_stream(edge) == (1, digest, False, False)


def test_names_of_closed_streams_are_bounded(hub: Hub, edge: HubConnection) -> None:
    for number in range(1_010):
        open_stream(edge, f"{number:032x}")
    assert hub.rows("SELECT count(*) FROM hub.streams") == [(1_000,)]
    assert open_stream(edge, f"{1009:032x}") == (0, b"", False, True)


def test_newest_parcels_stay_whatever_the_clock_says(hub: Hub, edge: HubConnection) -> None:
    open_stream(edge)
    digest = b""
    for number in range(1, 121):
        ((_, _, digest, *_),) = edge.call("hand_over_v1", STREAM, number, digest, b"x", b"", *NOTHING)
    with HubConnection.open(hub.home) as home:
        home.call("taken_v1", [STREAM], [120])
        assert home.call("prune_log_v1", -1, -1, 1 << 40, 1_000) == [(20, 20)]


def test_parcels_are_confirmed_by_their_digests(hub: Hub, edge: HubConnection) -> None:
    open_stream(edge)
    _, _, first = hand_over(edge, 1)
    assert isinstance(first, bytes)
    _, _, second = hand_over(edge, 2, first)
    assert isinstance(second, bytes)
    found = edge.call("confirm_v1", [STREAM] * 3, [1, 2, 2], [first, second, first])
    assert sorted(found) == [(STREAM, 1), (STREAM, 2)]


def noted(edge: HubConnection, number: int, before: bytes, *notes: list[object]) -> tuple[object, bytes]:
    """Hand over notes; how many were refused, and the digest."""
    ((answer, _, digest, refused, _),) = edge.call("hand_over_v1", STREAM, number, before, b"x", b"", *notes)
    assert answer == "taken"
    return refused, digest


def test_notes_beyond_their_bounds_are_refused_and_counted(hub: Hub, edge: HubConnection) -> None:
    with psycopg.connect(hub.owner) as owner:
        owner.execute(
            "CREATE OR REPLACE FUNCTION hub.most_noted() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 3::bigint'"
        )
    open_stream(edge)
    long = ["q" * 257]
    refused, digest = noted(edge, 1, b"", ["r", "r"], ["q", *long], [5, 5], [1, 1], ["r" * 1025], ["{}"])
    assert refused == 2
    refused, digest = noted(edge, 2, digest, ["r", "s"], ["q", "q"], [6, 5], [1, 1], ["r"], ["{}"])
    assert refused == 0
    refused, digest = noted(edge, 3, digest, ["r", "t"], ["q", "q"], [7, 5], [1, 1], ["r", "t"], ["{ }", "{}"])
    assert refused == 2, "it has three"
    assert hub.rows("SELECT relay, complete_until FROM hub.cursors ORDER BY 1") == [("r", 7), ("s", 5)]
    assert hub.rows("SELECT relay, limits FROM hub.limits") == [("r", "{ }")], "what is known still changes"
    assert hub.rows("SELECT noted, refused_notes FROM hub.hosts") == [(3, 4)]


def test_cursor_of_a_host_behind_the_plan_moves_no_newer_claim(hub: Hub, edge: HubConnection) -> None:
    """Its later time says nothing of the authors of the newer generation, and its parcel may come late."""
    open_stream(edge)
    _, digest = noted(edge, 1, b"", ["r"], ["q"], [50], [10], [], [])
    _, digest = noted(edge, 2, digest, ["r"], ["q"], [100], [5], [], [])
    assert hub.rows("SELECT complete_until, generation FROM hub.cursors") == [(50, 10)]
    _, digest = noted(edge, 3, digest, ["r"], ["q"], [40], [11], [], [])
    assert hub.rows("SELECT complete_until, generation FROM hub.cursors") == [(40, 11)]
    noted(edge, 4, digest, ["r", "r"], ["q", "q"], [70, 60], [11, 12], [], [])
    assert hub.rows("SELECT complete_until, generation FROM hub.cursors") == [(60, 12)]
