import socket
import threading

import pytest

from pipeline.process.clock import SystemClock
from pipeline.relay.deadline import AttemptDeadline, Deadline
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.resolve import MAX_ADDRESSES, SocketAddress, endpoints, lookup

PATIENCE_S = 60.0


def attempt(seconds: float = PATIENCE_S) -> AttemptDeadline:
    return AttemptDeadline(Deadline(SystemClock(), seconds), lambda: False)


def addresses(*ips: str, allow_private: bool = False) -> list[str]:
    found: list[SocketAddress] = [(ip, 443, 0, 0) if ":" in ip else (ip, 443) for ip in ips]
    vetted = endpoints(
        "relay.example", 443, resolver=lambda _host, _port: found, allow_private=allow_private, attempt=attempt()
    )
    return [endpoint.address[0] for endpoint in vetted]


def reason_of(error: pytest.ExceptionInfo[DialError]) -> tuple[DialReason, bool]:
    return error.value.reason, error.value.permanent


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
        "::1", "::", "fe80::1", "fc00::1", "ff02::1", "200::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_address_outside_the_public_internet_is_refused(ip: str) -> None:
    with pytest.raises(DialError) as refused:
        addresses(ip)
    assert reason_of(refused) == (DialReason.PRIVATE, True)
    assert addresses(ip, allow_private=True) == [ip]


def test_private_ones_among_several_answers_are_left_out() -> None:
    assert addresses("127.0.0.1", "8.8.8.8", "::1", "8.8.4.4") == ["8.8.8.8", "8.8.4.4"]


def test_families_take_turns_repeats_go_and_the_number_is_bounded() -> None:
    assert addresses("2600::1", "2600::2", "8.8.8.8", "2600::1") == ["2600::1", "8.8.8.8", "2600::2"]
    assert len(addresses(*(f"8.8.8.{number}" for number in range(100)))) == MAX_ADDRESSES


@pytest.mark.parametrize("literal", ["8.8.8.8", "2600::1"])
def test_literal_is_not_looked_up(literal: str) -> None:
    def resolver(_host: str, _port: int) -> list[SocketAddress]:
        raise AssertionError("asked")

    found = endpoints(literal, 80, resolver=resolver, allow_private=False, attempt=attempt())
    assert [(endpoint.address[0], endpoint.address[1]) for endpoint in found] == [(literal, 80)]


@pytest.mark.parametrize(
    ("failure", "permanent"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), True),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), False),
        (OSError("strange"), False),
        (UnicodeError("label too long"), True),
    ],
)
def test_failed_lookup_says_whether_the_name_is_wrong(failure: Exception, permanent: bool) -> None:
    def resolver(_host: str, _port: int) -> list[SocketAddress]:
        raise failure

    with pytest.raises(DialError) as failed:
        lookup("relay.example", 443, resolver, attempt())
    assert reason_of(failed) == (DialReason.DNS, permanent)


def test_name_without_addresses_is_an_error() -> None:
    with pytest.raises(DialError) as failed:
        addresses()
    assert reason_of(failed) == (DialReason.DNS, True)


def test_hanging_lookups_are_left_behind_and_bounded() -> None:
    free, hanging = threading.Event(), threading.Barrier(3)
    slots = threading.BoundedSemaphore(2)

    def resolver(_host: str, _port: int) -> list[SocketAddress]:
        hanging.wait(PATIENCE_S)
        free.wait(PATIENCE_S)
        return []

    reasons: list[tuple[DialReason, str]] = []

    def look_up() -> None:
        with pytest.raises(DialError) as late:
            lookup("relay.example", 443, resolver, attempt(0.3), slots)
        reasons.append((late.value.reason, late.value.detail))

    callers = [threading.Thread(target=look_up) for _ in range(2)]
    for caller in callers:
        caller.start()
    hanging.wait(PATIENCE_S)
    with pytest.raises(DialError) as exhausted:
        lookup("other.example", 443, resolver, attempt(0.1), slots)
    assert exhausted.value.reason is DialReason.DNS
    assert exhausted.value.detail == "too many lookups hang"
    for caller in callers:
        caller.join(PATIENCE_S)
    assert reasons == [(DialReason.TIMEOUT, "name lookup")] * 2
    free.set()
    assert lookup("third.example", 443, lambda _host, _port: [("8.8.8.8", 1)], attempt(), slots) == [("8.8.8.8", 1)]
