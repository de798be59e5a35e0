"""Who counts as one client, and how many places there are."""

from dataclasses import replace

import pytest

from pipeline.server.clients import Gate, Peer, client_behind, peer_of
from pipeline.server.limits import Limits, Refusal, Refused

FAR = Peer("8.8.8.8", False)
NEAR = Peer("127.0.0.1", True)
LIMITS = Limits(connections=10, connections_per_client=2, sessions=1)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("8.8.8.8", 1), FAR),
        (("127.0.0.1", 1), NEAR),
        (("192.168.1.2", 1), Peer("192.168.1.2", True)),
        (("::ffff:8.8.8.8", 1, 0, 0), FAR),
        (("::ffff:127.0.0.1", 1, 0, 0), NEAR),
        (("::1", 1, 0, 0), Peer("::/64", True)),
        (("fe80::1%eth0", 1, 0, 2), Peer("fe80::/64", True)),
        (("2606:4700:1:2:3:4:5:6", 1, 0, 0), Peer("2606:4700:1:2::/64", False)),
        (None, Peer("unknown", False)),
        ("", Peer("unknown", False)),
        ((), Peer("unknown", False)),
    ],
)
def test_a_peer_is_named_by_its_address(address: object, peer: Peer) -> None:
    assert peer_of(address) == peer


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (None, "127.0.0.1"),
        ("", "127.0.0.1"),
        ("8.8.8.8", "8.8.8.8"),
        ("1.1.1.1, 8.8.8.8", "8.8.8.8"),
        ("8.8.8.8:4711", "8.8.8.8"),
        ("2606:4700:1:2::1", "2606:4700:1:2::/64"),
        ("[2606:4700:1:2::1]:4711", "2606:4700:1:2::/64"),
        ("unknown", "127.0.0.1"),
        ("8.8.8.8,", "127.0.0.1"),
        ("1" * 100_000, "127.0.0.1"),
    ],
)
def test_a_proxy_names_its_client_by_the_last_entry(header: str | None, client: str) -> None:
    assert client_behind(NEAR, header) == client


def test_nobody_far_away_speaks_for_another() -> None:
    assert client_behind(FAR, "1.1.1.1") == "8.8.8.8"


def refused(gate: Gate, peer: Peer) -> Refusal:
    with pytest.raises(Refused) as error:
        gate.enter(peer)
    return error.value.reason


def test_a_far_client_is_bounded_as_it_connects() -> None:
    gate = Gate(LIMITS)
    first, _ = gate.enter(FAR), gate.enter(FAR)
    assert refused(gate, FAR) is Refusal.CLIENT_CONNECTIONS
    gate.enter(replace(FAR, client="9.9.9.9"))
    gate.leave(first)
    gate.enter(FAR)


def test_a_near_peer_is_bounded_by_whom_it_speaks_for() -> None:
    gate = Gate(LIMITS)
    places = [gate.enter(NEAR) for _ in range(7)]
    for place, header in zip(places, ["8.8.8.8", "8.8.8.8", "9.9.9.9", None, None], strict=False):
        gate.identify(place, header)
    for place, header in zip(places[5:], ["8.8.8.8", None], strict=True):
        with pytest.raises(Refused):
            gate.identify(place, header)
    for place in places:
        gate.leave(place)
    for header in ("8.8.8.8", "8.8.8.8", None, None):
        gate.identify(gate.enter(NEAR), header)


def test_a_client_is_counted_once_however_often_it_is_identified() -> None:
    gate = Gate(LIMITS)
    place = gate.enter(FAR)
    for _ in range(5):
        gate.identify(place, "1.1.1.1")
    gate.enter(FAR)
    assert refused(gate, FAR) is Refusal.CLIENT_CONNECTIONS


def test_all_places_together_are_bounded_and_come_back() -> None:
    gate = Gate(LIMITS)
    places = [gate.enter(NEAR) for _ in range(LIMITS.connections)]
    assert refused(gate, NEAR) is Refusal.CONNECTIONS
    gate.open_session(places[0])
    with pytest.raises(Refused) as error:
        gate.open_session(places[1])
    assert error.value.reason is Refusal.SESSIONS
    gate.leave(places[0])
    gate.open_session(gate.enter(NEAR))
