"""Names to addresses that may be dialled: the lookup bounded in time, every answer vetted."""

import ipaddress
import itertools
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from pipeline.nostr.ip import is_global_ip
from pipeline.relay.deadline import AttemptDeadline
from pipeline.relay.errors import DialError, DialReason
from pipeline.settings.values import HostPort

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
Resolver = Callable[[str, int], Sequence[SocketAddress]]

# getaddrinfo cannot be interrupted: a dead name server holds a thread for as long as the C library likes (5 to 30 s).
MAX_LOOKUPS = 32
# A name may have hundreds of addresses; each gets a share of the time, and less than 2 s of 15 helps nobody.
MAX_ADDRESSES = 8

_EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  (compared, not listened on)

_UNKNOWN_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
_slots = threading.BoundedSemaphore(MAX_LOOKUPS)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that may be dialled: `family` of the socket, and what `connect` takes."""

    family: socket.AddressFamily
    address: SocketAddress


def system_resolver(host: str, port: int) -> list[SocketAddress]:
    """The TCP addresses of `host` by the machine's own resolver; blocks, raises `OSError` or `UnicodeError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [cast("SocketAddress", address) for *_, address in found]  # other families have no TCP


def endpoints(
    host: str, port: int, *, resolver: Resolver, allow_private: bool, attempt: AttemptDeadline
) -> list[Endpoint]:
    """Where `host` may be dialled, best first, one to `MAX_ADDRESSES`; raises `DialError` when there is nothing.

    Whoever connects uses these addresses and asks no resolver again: a second answer may differ.
    """
    try:
        found: Sequence[SocketAddress] = [(str(ipaddress.ip_address(host)), port)]
    except ValueError:
        found = lookup(host, port, resolver, attempt)
    vetted: dict[Endpoint, None] = {}
    for address in found:
        ip = ipaddress.ip_address(address[0])
        if allow_private or is_global_ip(ip):
            vetted[Endpoint(socket.AF_INET if ip.version == 4 else socket.AF_INET6, address)] = None
    if vetted:
        return _interleaved(list(vetted))[:MAX_ADDRESSES]
    if found:
        raise DialError(DialReason.PRIVATE, f"{host} is {found[0][0]}", permanent=True)
    raise DialError(DialReason.DNS, f"{host} has no address", permanent=True)


def is_own(endpoint: Endpoint, listening: HostPort) -> bool:
    """Return True if `endpoint` is one of this machine's addresses with the port of what is `listening` here."""
    host, port = endpoint.address[:2]
    if port != listening.port:
        return False
    if listening.host not in _EVERY_ADDRESS:
        return host == listening.host
    with socket.socket(endpoint.family, socket.SOCK_DGRAM) as sock:
        try:
            # Sends nothing; a machine speaks to an address of its own from that address.
            sock.connect(endpoint.address)
        except OSError:
            return False
        return bool(sock.getsockname()[0] == host)


def lookup(
    host: str, port: int, resolver: Resolver, attempt: AttemptDeadline, slots: threading.Semaphore = _slots
) -> Sequence[SocketAddress]:
    """Ask `resolver` in a thread of its own, which is left behind when the attempt ends first.

    At most as many threads as there are `slots` are under way at once; a lookup waits for one within its attempt.
    """
    while True:
        try:
            wait_s = attempt.wait_s("name lookup")
        except DialError as error:
            if error.reason is DialReason.TIMEOUT:
                raise DialError(DialReason.DNS, "too many lookups hang") from None
            raise
        if slots.acquire(timeout=wait_s):
            break
    thread = _Lookup(host, port, resolver, slots)
    try:
        thread.start()
    except RuntimeError as error:
        slots.release()
        raise DialError(DialReason.LOCAL, str(error)) from error
    while thread.is_alive():
        thread.join(attempt.wait_s("name lookup"))
    if isinstance(thread.failure, socket.gaierror):
        unknown = thread.failure.errno in _UNKNOWN_NAME
        raise DialError(DialReason.DNS, thread.failure.strerror or "failed", permanent=unknown) from thread.failure
    if thread.failure is not None:
        malformed = isinstance(thread.failure, UnicodeError)
        raise DialError(DialReason.DNS, str(thread.failure), permanent=malformed) from thread.failure
    return thread.found


class _Lookup(threading.Thread):
    def __init__(self, host: str, port: int, resolver: Resolver, slots: threading.Semaphore) -> None:
        super().__init__(name=f"lookup {host}", daemon=True)
        self._arguments = (host, port)
        self._resolver = resolver
        self._slots = slots
        self.found: Sequence[SocketAddress] = ()
        self.failure: OSError | UnicodeError | None = None

    def run(self) -> None:
        try:
            self.found = self._resolver(*self._arguments)
        except (OSError, UnicodeError) as error:
            self.failure = error
        finally:
            self._slots.release()


def _interleaved(found: list[Endpoint]) -> list[Endpoint]:
    """Both families in turn, the resolver's favourite first: one broken family costs half of the time, not all."""
    first = [endpoint for endpoint in found if endpoint.family is found[0].family]
    second = [endpoint for endpoint in found if endpoint.family is not found[0].family]
    pairs = itertools.zip_longest(first, second)
    return [endpoint for pair in pairs for endpoint in pair if endpoint is not None]
