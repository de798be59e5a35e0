"""Which connection yields to a newcomer."""

from pipeline.server.eviction import Occupant, first_to_yield

LATEST = 10.0
SILENT = Occupant("a", 0, is_session=False, is_served=False, waiting_since=None)
BUSY = Occupant("a", 0, is_session=True, is_served=True, waiting_since=None)


def waiting(network: str | None, since: float = LATEST, reach: int = 0) -> Occupant:
    return Occupant(network, reach, is_session=True, is_served=True, waiting_since=since)


def yields(
    occupants: list[Occupant], *, network: str = "new", reach: int = 0, sessions_only: bool = False
) -> int | None:
    return first_to_yield(occupants, network=network, reach=reach, latest=LATEST, sessions_only=sessions_only)


def test_oldest_that_is_not_served_yields_first() -> None:
    assert yields([waiting("a", 0.0), BUSY, SILENT, SILENT]) == 2


def test_whoever_is_served_never_yields() -> None:
    assert yields([BUSY, BUSY, BUSY]) is None


def test_network_with_the_most_websockets_yields_its_oldest_that_waits() -> None:
    occupants = [waiting("b"), BUSY, waiting("a"), waiting("a"), waiting("c")]
    assert yields(occupants, sessions_only=True) == 2


def test_network_with_the_most_does_not_drive_out_others() -> None:
    assert yields([waiting("b"), waiting("a"), waiting("a")], network="a", sessions_only=True) is None
    assert yields([waiting("b", 9.0), waiting("a"), waiting("a")], network="a", sessions_only=True) == 0


def test_among_equals_only_the_long_silent_yields() -> None:
    assert yields([waiting("a"), waiting("b", 9.9), waiting("c", 9.0)], sessions_only=True) == 1
    assert yields([waiting("a"), waiting("b"), waiting("c")], sessions_only=True) is None


def test_neighbours_yield_to_no_stranger() -> None:
    near = waiting(None, 0.0, reach=1)
    assert yields([near, near, near]) is None
    assert yields([near, near, near], reach=1) == 0


def test_only_websockets_yield_to_a_websocket() -> None:
    assert yields([SILENT, waiting("a", 0.0)], sessions_only=True) == 1
