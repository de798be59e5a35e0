"""Who counts as one client, and how many places there are."""

import contextlib
from dataclasses import replace

import pytest

from pipeline.server.clients import ClientAddress, ConnectionLimiter, client_behind, peer_of
from pipeline.server.limits import Rejected, RejectReason, ServerLimits
from pipeline.settings.values import networks

FAR = ClientAddress("8.8.8.8", False)
NEAR = ClientAddress("10.1.1.1", True)
HERE = ClientAddress("127.0.0.1", True, is_here=True)
PROXY = ClientAddress("10.0.0.7", True, is_proxy=True)
PROXIES = networks("10.0.0.0/8")
LIMITS = ServerLimits(connections=10, connections_per_client=2, sessions=1, reserved=0)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("8.8.8.8", 1), FAR),
        (("127.0.0.1", 1), HERE),
        (("192.168.1.2", 1), ClientAddress("192.168.1.2", True)),
        (("::ffff:8.8.8.8", 1, 0, 0), FAR),
        (("::ffff:127.0.0.1", 1, 0, 0), HERE),
        (("::1", 1, 0, 0), ClientAddress("::/64", True, is_here=True)),
        (("fe80::1%eth0", 1, 0, 2), ClientAddress("fe80::/64", True)),
        (("2606:4700:1:2:3:4:5:6", 1, 0, 0), ClientAddress("2606:4700:1:2::/64", False)),
        (None, ClientAddress("unknown", False)),
        ("", ClientAddress("unknown", False)),
        ((), ClientAddress("unknown", False)),
    ],
)
def test_a_peer_is_named_by_its_address(address: object, peer: ClientAddress) -> None:
    assert peer_of(address) == peer


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (None, None),
        ("", None),
        ("8.8.8.8", "8.8.8.8"),
        ("1.1.1.1, 8.8.8.8", "8.8.8.8"),
        ("8.8.8.8:4711", "8.8.8.8"),
        ("2606:4700:1:2::1", "2606:4700:1:2::/64"),
        ("[2606:4700:1:2::1]:4711", "2606:4700:1:2::/64"),
        ("unknown", None),
        ("8.8.8.8,", None),
        ("1" * 100_000, None),
        ("1.1.1.1, 8.8.8.8, 10.0.0.7", "8.8.8.8"),
        ("8.8.8.8, rubbish, 10.0.0.7", None),
        ("10.0.0.7, 10.0.0.8", None),
        ("192.168.1.2", "192.168.1.2"),
    ],
)
def test_proxy_names_its_client_by_the_last_entry_that_is_no_proxy(header: str | None, client: str | None) -> None:
    assert client_behind(header, PROXIES) == client


def test_peer_is_a_proxy_by_the_setting_alone() -> None:
    assert peer_of(("10.0.0.7", 1), PROXIES).is_proxy
    assert peer_of(("::ffff:10.0.0.7", 1, 0, 0), PROXIES).is_proxy
    assert not peer_of(("127.0.0.1", 1), PROXIES).is_proxy
    assert not peer_of(("10.0.0.7", 1)).is_proxy


def test_far_proxy_counts_under_its_clients_or_itself() -> None:
    gate, proxy = ConnectionLimiter(LIMITS, PROXIES), ClientAddress("8.8.4.4", False, is_proxy=True)
    for header in ("1.1.1.1", "1.1.1.1", None, "rubbish"):
        gate.identify(gate.enter(proxy), header)
    for header in ("1.1.1.1", None):
        with pytest.raises(Rejected):
            gate.identify(gate.enter(proxy), header)


def refused(gate: ConnectionLimiter, peer: ClientAddress) -> RejectReason:
    with pytest.raises(Rejected) as error:
        gate.enter(peer)
    return error.value.reason


def test_a_far_client_is_bounded_as_it_connects() -> None:
    gate = ConnectionLimiter(LIMITS)
    first, _ = gate.enter(FAR), gate.enter(FAR)
    assert refused(gate, FAR) is RejectReason.CLIENT_CONNECTIONS
    gate.enter(replace(FAR, client="9.9.9.9"))
    gate.leave(first)
    gate.enter(FAR)


def test_a_proxy_is_bounded_by_whom_it_speaks_for() -> None:
    gate = ConnectionLimiter(LIMITS, PROXIES)
    places = [gate.enter(PROXY) for _ in range(7)]
    for place, header in zip(places, ["8.8.8.8", "8.8.8.8", "9.9.9.9", None, None, None], strict=False):
        gate.identify(place, header)
    with pytest.raises(Rejected):
        gate.identify(places[6], "8.8.8.8")
    for place in places:
        gate.leave(place)
    for header in ("8.8.8.8", "8.8.8.8"):
        gate.identify(gate.enter(PROXY), header)


def test_a_near_peer_is_bounded_with_all_others_only() -> None:
    gate = ConnectionLimiter(LIMITS)
    for _ in range(LIMITS.connections):
        gate.identify(gate.enter(NEAR), "8.8.8.8")
    assert refused(gate, NEAR) is RejectReason.CONNECTIONS


def test_a_client_is_counted_once_however_often_it_is_identified() -> None:
    gate = ConnectionLimiter(LIMITS)
    place = gate.enter(FAR)
    for _ in range(5):
        gate.identify(place, "1.1.1.1")
    gate.enter(FAR)
    assert refused(gate, FAR) is RejectReason.CLIENT_CONNECTIONS


def test_all_places_together_are_bounded_and_come_back() -> None:
    gate = ConnectionLimiter(LIMITS)
    places = [gate.enter(NEAR) for _ in range(LIMITS.connections)]
    assert refused(gate, NEAR) is RejectReason.CONNECTIONS
    gate.open_session(places[0])
    with pytest.raises(Rejected) as error:
        gate.open_session(places[1])
    assert error.value.reason is RejectReason.SESSIONS
    gate.leave(places[0])
    gate.open_session(gate.enter(NEAR))


def test_places_are_reserved_for_neighbours_and_more_for_this_machine() -> None:
    gate = ConnectionLimiter(replace(LIMITS, reserved=2, connections_per_client=100), PROXIES)
    for _ in range(6):
        gate.enter(FAR)
    assert refused(gate, FAR) is RejectReason.CONNECTIONS
    for _ in range(2):
        gate.enter(NEAR)
    assert refused(gate, NEAR) is RejectReason.CONNECTIONS
    proxied = gate.enter(PROXY)
    with pytest.raises(Rejected):
        gate.identify(proxied, "8.8.8.8")
    gate.enter(HERE)
    assert refused(gate, HERE) is RejectReason.CONNECTIONS


def test_places_of_this_machine_take_none_of_those_that_strangers_have() -> None:
    gate = ConnectionLimiter(replace(LIMITS, reserved=2, connections_per_client=100), PROXIES)
    for _ in range(8):
        gate.enter(HERE)
    assert gate.admits(0)
    for _ in range(2):
        gate.enter(FAR)
    assert refused(gate, FAR) is RejectReason.CONNECTIONS


def test_place_of_a_proxy_becomes_a_strangers_when_it_is_identified() -> None:
    gate = ConnectionLimiter(replace(LIMITS, reserved=4, connections_per_client=100), PROXIES)
    places = [gate.enter(PROXY) for _ in range(3)]
    for place in places[:2]:
        gate.identify(place, "8.8.8.8")
    assert not gate.admits(0)
    with pytest.raises(Rejected):
        gate.identify(places[2], "9.9.9.9")
    gate.leave(places[0])
    gate.identify(places[2], "9.9.9.9")
    for place in places[1:]:
        gate.leave(place)
    assert gate.admits(0)


def test_one_network_of_ipv6_does_not_take_all_places() -> None:
    """A customer has a /56 or a /48, and so 256 or 65,536 clients."""
    gate = ConnectionLimiter(replace(LIMITS, connections=1000))

    def entered(networks: list[str]) -> int:
        count = 0
        for network in networks:
            with contextlib.suppress(Rejected):
                gate.enter(peer_of((f"{network}::1", 1, 0, 0)))
                count += 1
        return count

    assert entered([f"2606:4700:1:{number:x}" for number in range(16)]) == 2 * LIMITS.connections_per_client
    assert entered([f"2606:4700:1:{number:x}00" for number in range(1, 16)]) == 2 * LIMITS.connections_per_client
    assert entered(["2606:4700:2:1"]) == 1


def test_places_of_one_network_come_back() -> None:
    gate = ConnectionLimiter(replace(LIMITS, connections_per_client=1))
    for number in range(20):
        gate.leave(gate.enter(peer_of((f"2606:4700:1:{number:x}::1", 1, 0, 0))))


def test_requests_of_strangers_leave_places_for_registrations() -> None:
    gate = ConnectionLimiter(replace(LIMITS, connections_per_client=100, sessions=4))
    places = [gate.enter(FAR) for _ in range(7)]
    for place in places[:6]:
        gate.open_request(place)
    with pytest.raises(Rejected):
        gate.open_request(places[6])
    gate.open_session(places[6])
    gate.open_request(gate.enter(HERE))
    gate.leave(places[0])
    gate.open_request(gate.enter(FAR))
