"""Which connection yields to a newcomer."""

from pipeline.server.eviction import Occupant, first_to_yield

LATEST = 10.0
SILENT = Occupant("a", 0, is_session=False, is_served=False, waiting_since=None)
BUSY = Occupant("a", 0, is_session=True, is_served=True, waiting_since=None)


def waiting(network: str | None, reach: int = 0, since: float = LATEST) -> Occupant:
    return Occupant(network, reach, is_session=True, is_served=True, waiting_since=since)


def yields(
    occupants: list[Occupant], *, network: str = "new", reach: int = 0, sessions_only: bool = False
) -> int | None:
    return first_to_yield(occupants, max, network=network, reach=reach, latest=LATEST, sessions_only=sessions_only)


def test_oldest_that_is_not_served_yields_first() -> None:
    assert yields([waiting("a"), BUSY, SILENT, SILENT]) == 2


def test_whoever_is_served_never_yields() -> None:
    assert yields([BUSY, BUSY, BUSY]) is None


def test_network_with_the_most_websockets_yields_its_oldest_that_waits() -> None:
    occupants = [waiting("b"), BUSY, waiting("a"), waiting("a"), waiting("c")]
    assert yields(occupants, sessions_only=True) == 2


def test_any_waiting_one_is_evicted_among_equals_and_small_networks() -> None:
    assert yields([waiting("b"), waiting("a"), waiting("a"), BUSY], network="a", sessions_only=True) == 2
    assert yields([waiting("a"), waiting("c"), waiting("b")], sessions_only=True) == 2


def test_whoever_has_just_come_is_spared_where_others_wait() -> None:
    assert yields([waiting("a", since=9.0), waiting("b"), waiting("c")], sessions_only=True) == 0


def test_neighbours_yield_to_no_stranger() -> None:
    near = waiting(None, reach=1)
    assert yields([near, near, near]) is None
    assert yields([near, near, BUSY], reach=1) == 1


def test_only_websockets_yield_to_a_websocket() -> None:
    assert yields([SILENT, waiting("a")], sessions_only=True) == 1
