"""From a relay's address to an open websocket: resolve, vet, connect, TLS, handshake, all within one deadline."""

import errno
import functools
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.nostr.address import Network, RelayAddress
from pipeline.process.clock import Clock
from pipeline.relay.deadline import AttemptDeadline, Deadline
from pipeline.relay.dial_gate import DialGate
from pipeline.relay.errors import DialError, DialReason
from pipeline.relay.frames import MAX_MESSAGE_BYTES
from pipeline.relay.handshake import CompressionRefused, Upgraded, upgrade
from pipeline.relay.resolve import Endpoint, Resolver, endpoints, is_own, system_resolver
from pipeline.relay.socks import connect_through
from pipeline.relay.tcp_path import keep_alive
from pipeline.relay.timed_socket import wait_for
from pipeline.relay.websocket import WebSocket
from pipeline.settings.values import HostPort

# Long enough for a slow name server, a lost SYN and TLS over half the world.
DIAL_TIMEOUT_S = 15.0
# For a relay that was connected a moment ago: two SYNs, each with its answer from the other side of the world.
QUICK_CONNECT_S = 2.0
# More than are crawled; to be asked twice costs a relay little.
MAX_REFUSING_RELAYS = 65_536

_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL})
# When several addresses fail, the error that says most is reported: the last of these.
_TELLING = (
    DialReason.CROWDED, DialReason.UNREACHABLE, DialReason.REFUSED, DialReason.TIMEOUT, DialReason.TLS,
)  # fmt: skip


class Compression:
    """To which relays compression is offered: to all but those that answered the offer with terms of their own.

    May be shared by threads that dial.
    """

    __slots__ = ("_refused",)

    def __init__(self) -> None:
        self._refused: set[str] = set()

    def is_offered_to(self, address: RelayAddress) -> bool:
        """Return True if the next dial of `address` offers it."""
        return address.url not in self._refused

    def refused_by(self, address: RelayAddress) -> None:
        """Offer it to this relay no more while the process lives."""
        if len(self._refused) >= MAX_REFUSING_RELAYS:
            self._refused.clear()
        self._refused.add(address.url)


@dataclass(frozen=True, slots=True)
class DialPolicy:
    """How relays are dialled. `timeout_s` covers everything from the name lookup to the handshake,
    `connect_timeout_s` what TCP takes at each address.

    `allow_private`: addresses outside the public Internet may be dialled. `socks_proxy`: for onion relays, which are
    refused without one. `tls_context`: None means the machine's certificate authorities. `max_message_bytes`: the
    largest message that the channel takes; it skips others. `compression`: None means that it is offered to no relay.
    `gate`: bounds how often one address, network or domain is dialled; None bounds nothing.
    `own`: where this service listens, which is not dialled under any of this machine's addresses.
    """

    allow_private: bool = False
    timeout_s: float = DIAL_TIMEOUT_S
    connect_timeout_s: float = DIAL_TIMEOUT_S
    user_agent: str = "event-service"
    socks_proxy: HostPort | None = None
    resolver: Resolver = system_resolver
    tls_context: ssl.SSLContext | None = None
    max_message_bytes: int = MAX_MESSAGE_BYTES
    compression: Compression | None = None
    gate: DialGate | None = None
    own: HostPort | None = None

    def quick(self) -> "DialPolicy":
        """Return the policy for a relay that was connected a moment ago: its host answers soon or not at all."""
        return replace(self, connect_timeout_s=min(self.connect_timeout_s, QUICK_CONNECT_S))


def never() -> bool:
    """The `cancelled` of a dial that nobody calls off."""
    return False


def dial(address: RelayAddress, policy: DialPolicy, clock: Clock, cancelled: Callable[[], bool] = never) -> WebSocket:
    """An open websocket to `address`; raises `DialError`, within `policy.timeout_s` and a little.

    `cancelled` is asked at least every quarter of a second, from this thread; once true, the dial ends.
    """
    attempt = AttemptDeadline(Deadline(clock, policy.timeout_s), cancelled)
    compression = policy.compression
    if compression is not None and compression.is_offered_to(address):
        try:
            return _websocket(address, policy, clock, attempt, offers_compression=True)
        except CompressionRefused:
            channel = _websocket(address, policy, clock, attempt)
            compression.refused_by(address)
            return channel
    return _websocket(address, policy, clock, attempt)


def _websocket(
    address: RelayAddress,
    policy: DialPolicy,
    clock: Clock,
    attempt: AttemptDeadline,
    *,
    offers_compression: bool = False,
) -> WebSocket:
    sock = connect(address, policy, attempt)
    try:
        upgraded = upgrade(
            sock, address, policy.user_agent, attempt,
            now_s=clock.now_ms() // 1000, offers_compression=offers_compression,
        )  # fmt: skip
        return _channel(sock, upgraded, policy, clock)
    except BaseException:
        sock.close()
        raise


def _channel(sock: socket.socket, upgraded: Upgraded, policy: DialPolicy, clock: Clock) -> WebSocket:
    return WebSocket(
        sock, clock,
        initial=upgraded.initial, max_message_bytes=policy.max_message_bytes, inflates=upgraded.inflates,
    )  # fmt: skip


def connect(address: RelayAddress, policy: DialPolicy, attempt: AttemptDeadline) -> socket.socket:
    """A non-blocking socket connected to `address`, through TLS for wss; raises `DialError`.

    Every address of the host is vetted and connected to as it was vetted: no name is resolved twice.
    """
    through_proxy = address.network is Network.ONION and policy.socks_proxy is not None
    if address.network is not Network.CLEARNET and not through_proxy:
        raise DialError(DialReason.NETWORK, f"no way into {address.network}", permanent=True)
    if address.is_private and not policy.allow_private:
        raise DialError(DialReason.PRIVATE, f"{address.host} is no public address", permanent=True)
    if through_proxy and policy.socks_proxy is not None:
        return _connect_by_proxy(address, policy.socks_proxy, policy, attempt)
    candidates = endpoints(
        address.host, address.port, resolver=policy.resolver, allow_private=policy.allow_private, attempt=attempt
    )
    candidates = [each for each in candidates if policy.own is None or not is_own(each, policy.own)]
    if not candidates:
        raise DialError(DialReason.OWN, f"{address.host} is this service itself", permanent=True)
    gate = policy.gate

    def admit(endpoint: Endpoint) -> None:
        ip = endpoint.address[0]
        if gate is not None and not gate.admits(address.host, ip):
            raise DialError(DialReason.CROWDED, f"{ip} or its network or domain was dialled too often lately")

    return _first_of(
        candidates, attempt, lambda sock, share: _secured(sock, address, policy, share), admit,
        connect_timeout_s=policy.connect_timeout_s,
    )  # fmt: skip


def _connect_by_proxy(
    address: RelayAddress, proxy: HostPort, policy: DialPolicy, attempt: AttemptDeadline
) -> socket.socket:
    # The operator names the proxy, usually on this machine; strangers have no say in it.
    candidates = endpoints(proxy.host, proxy.port, resolver=policy.resolver, allow_private=True, attempt=attempt)
    try:
        sock = _first_of(candidates, attempt, lambda sock, _share: sock)
    except DialError as error:
        if error.reason in (DialReason.CANCELLED, DialReason.LOCAL):
            raise
        raise DialError(DialReason.PROXY, f"{proxy}: {error}") from error
    try:
        connect_through(sock, address.host, address.port, attempt)
        return _secured(sock, address, policy, attempt)
    except BaseException:
        sock.close()
        raise


def _first_of(
    candidates: list[Endpoint],
    attempt: AttemptDeadline,
    prepare: Callable[[socket.socket, AttemptDeadline], socket.socket],
    admit: Callable[[Endpoint], None] = lambda _: None,
    *,
    connect_timeout_s: float = DIAL_TIMEOUT_S,
) -> socket.socket:
    """Return what `prepare` makes of the first candidate that connects, each given its share of the time that is left.

    `admit` raises for those that may not be dialled now.
    """
    failures: list[DialError] = []
    for index, endpoint in enumerate(candidates):
        share = attempt.share(len(candidates) - index)
        sock = None
        try:
            admit(endpoint)
            sock = _connected(endpoint, share.within(connect_timeout_s))
            return prepare(sock, share)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, DialError) or error.reason not in _TELLING or error.permanent:
                raise
            failures.append(error)
    raise max(failures, key=lambda failure: _TELLING.index(failure.reason))


def _connected(endpoint: Endpoint, attempt: AttemptDeadline) -> socket.socket:
    try:
        sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    except OSError as error:
        raise DialError(DialReason.LOCAL, error.strerror or str(error)) from error
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(sock)
        # The name look-up may have taken long.
        attempt.check("connecting")
        code = sock.connect_ex(endpoint.address)
        if code == errno.EINPROGRESS:
            wait_for(sock, select.POLLOUT, attempt, f"connecting to {endpoint.address[0]}")
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            reason = DialReason.UNREACHABLE if code in _UNREACHABLE else DialReason.REFUSED
            reason = DialReason.TIMEOUT if code == errno.ETIMEDOUT else reason
            raise DialError(reason, f"connecting to {endpoint.address[0]}: {errno.errorcode.get(code, code)}")
    except BaseException:
        sock.close()
        raise
    return sock


def _secured(sock: socket.socket, address: RelayAddress, policy: DialPolicy, attempt: AttemptDeadline) -> socket.socket:
    """`sock` itself for ws, for wss the TLS socket that takes its place, its certificate verified for the host."""
    if address.scheme != "wss":
        return sock
    context = policy.tls_context or _default_tls_context()
    try:
        secured = context.wrap_socket(sock, server_hostname=address.host, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:
        raise DialError(DialReason.TLS, str(error)) from error
    try:
        _handshake(secured, attempt)
    except ssl.SSLCertVerificationError as error:
        secured.close()
        raise DialError(DialReason.TLS, error.verify_message, permanent=True) from error
    except OSError as error:
        secured.close()
        raise DialError(DialReason.TLS, error.strerror or str(error)) from error
    except BaseException:
        secured.close()
        raise
    return secured


def _handshake(secured: ssl.SSLSocket, attempt: AttemptDeadline) -> None:
    while True:
        attempt.check("TLS handshake")
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            wait_for(secured, select.POLLIN, attempt, "TLS handshake")
        except ssl.SSLWantWriteError:
            wait_for(secured, select.POLLOUT, attempt, "TLS handshake")
        else:
            return


@functools.lru_cache(maxsize=1)
def _default_tls_context() -> ssl.SSLContext:
    """One for the process: loading the authorities takes milliseconds and megabytes."""
    return ssl.create_default_context()
