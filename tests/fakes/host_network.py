"""Networks for hosts of a test: each host has a line of its own to the hub, and one to the relays, that can be cut.

Where root allows, a host is a network namespace with two veth pairs, so that a cut line loses what is sent and says
nothing. Elsewhere it shares the machine's loopback, and a proxy is its line to the hub: a cut ends connections.
Everything is gone with the processes that hold it.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import urlsplit, urlunsplit

from tests.fakes.child import Child
from tests.fakes.net import loopback_address, pause
from tests.fakes.procs import session_members
from tests.fakes.proxy import CountingProxy

Address = tuple[str, int]
_ESTABLISHED = "01"
_NETWORKS = 100
_READY_S = 30.0
_STEP_S = 0.01


class HostPlace(Protocol):
    """Where one host runs."""

    command: tuple[str, ...]
    """What a command begins with that is to run there."""
    listen: str
    """An address for the host's own server, which this process reaches."""

    def hub_url(self, url: str) -> str:
        """Return the hub's address as the host sees it."""
        ...

    def cut(self, *, relays: bool = False) -> AbstractContextManager[None]:
        """Cut the line to the hub, and to the relays if asked, for the time of the block."""
        ...

    def connected(self, session: int) -> set[Address]:
        """Return where processes of the host, all in this session, have open connections to, the hub aside."""
        ...


class HostNetwork(Protocol):
    """The network of all hosts; a context manager."""

    hub: str
    """Where the hub's server must listen."""
    clients: str
    """The addresses from which hosts come, with their mask."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def relay_address(self) -> str:
        """Return an address for one more relay."""
        ...

    def add_host(self) -> HostPlace:
        """Return the place of one more host."""
        ...


def best_network() -> HostNetwork:
    """Return namespaces where there can be some, else the loopback."""
    return NamespaceNetwork() if can_make_namespaces() else LoopbackNetwork()


def can_make_namespaces() -> bool:
    """Return True if this process may make network namespaces and has the programs for it."""
    if os.geteuid() != 0 or any(shutil.which(name) is None for name in ("ip", "nsenter", "unshare")):
        return False
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


@dataclass
class LoopbackPlace:
    """A host on the machine's loopback."""

    stack: ExitStack
    command: tuple[str, ...] = ()
    proxy: CountingProxy | None = None

    def __post_init__(self) -> None:
        self.listen = loopback_address()

    def hub_url(self, url: str) -> str:
        """See `HostPlace`."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.proxy = self.stack.enter_context(CountingProxy(parts.hostname, parts.port))
        return _at(url, self.proxy.url.removeprefix("ws://"))

    @contextmanager
    def cut(self, *, relays: bool = False) -> Iterator[None]:
        """See `HostPlace`; the relays stay in reach."""
        assert self.proxy is not None
        with self.proxy.cut():
            yield

    def connected(self, session: int) -> set[Address]:
        """See `HostPlace`."""
        sockets: set[str] = set()
        for one in session_members(session):
            for path in Path(f"/proc/{one.pid}/fd").glob("*"):
                try:
                    sockets.add(str(path.readlink()))
                except OSError:
                    continue
        return {remote for remote, inode in _established(Path("/proc/self/net/tcp")) if f"socket:[{inode}]" in sockets}


class LoopbackNetwork:
    """Hosts that share the machine's loopback."""

    hub = "127.0.0.1"
    clients = "127.0.0.0/8"

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def relay_address(self) -> str:
        """See `HostNetwork`."""
        return loopback_address()

    def add_host(self) -> HostPlace:
        """See `HostNetwork`."""
        return LoopbackPlace(self._stack)


@dataclass
class _Link:
    """One veth pair: `name` is its end here, `inner` the end in the namespace; `subnet` is reached through it."""

    inner: str
    ours: str
    theirs: str
    subnet: str


class NamespacePlace:
    """A host in a network namespace of its own, which ends with `holder`."""

    def __init__(self, holder: Child, hub: str, links: Sequence[_Link]) -> None:
        self.command: tuple[str, ...] = ("nsenter", f"--net=/proc/{holder.pid}/ns/net", "--")
        self.listen = links[0].theirs
        self._hub = hub
        self._holder = holder
        self._relays, self._to_hub = links

    def hub_url(self, url: str) -> str:
        """See `HostPlace`."""
        return _at(url, f"{self._hub}:{urlsplit(url).port}")

    @contextmanager
    def cut(self, *, relays: bool = False) -> Iterator[None]:
        """See `HostPlace`."""
        links = [self._to_hub, self._relays] if relays else [self._to_hub]
        for each in links:
            _run(*self.command, "ip", "link", "set", each.inner, "down")
        try:
            yield
        finally:
            for each in links:
                self.raise_link(each)

    def raise_link(self, link: _Link) -> None:
        """Let the link carry frames, and be the way to its subnet."""
        _run(*self.command, "ip", "link", "set", link.inner, "up")
        _run(*self.command, "ip", "route", "replace", link.subnet, "via", link.ours)

    def connected(self, session: int) -> set[Address]:
        """See `HostPlace`."""
        found = {remote for remote, inode in _established(Path(f"/proc/{self._holder.pid}/net/tcp")) if inode != "0"}
        return {remote for remote in found if remote[0] != self._hub}


class NamespaceNetwork:
    """Hosts in network namespaces. Relays and hub listen here, at addresses that only these hosts reach."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._relays = 0
        self._hosts = 0

    def __enter__(self) -> Self:
        try:
            holder = self._stack.enter_context(_holder())
            # Of the numbers that no other run has at this moment.
            for number in random.SystemRandom().sample(range(_NETWORKS), _NETWORKS):
                self._name, self._base = f"eh{number}", f"10.{100 + number}"
                if _try("ip", "link", "add", self._anchor, "type", "veth", "peer", "anchor", "netns", str(holder.pid)):
                    break
            else:
                raise AssertionError("no network is free")
            self.hub, self.clients = f"{self._base}.127.1", f"{self._base}.0.0/16"
            # What is still sent when hosts are gone must not leave this machine.
            _run("ip", "route", "replace", "blackhole", self.clients)
            self._stack.callback(_try, "ip", "route", "del", "blackhole", self.clients)
            _run("ip", "link", "set", self._anchor, "up")
            # Every address of these subnets is this machine's.
            for subnet in (self._relay_subnet, self._hub_subnet):
                _run("ip", "route", "add", "local", subnet, "dev", self._anchor)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _anchor(self) -> str:
        return f"{self._name}-0"

    @property
    def relays(self) -> str:
        """The first half of the addresses of relays: `….128.0` to `….255.255`."""
        return self._base

    @property
    def _relay_subnet(self) -> str:
        return f"{self._base}.128.0/17"

    @property
    def _hub_subnet(self) -> str:
        return f"{self._base}.127.0/24"

    def relay_address(self) -> str:
        """See `HostNetwork`."""
        self._relays += 1
        return f"{self._base}.128.{self._relays}"

    def add_host(self) -> HostPlace:
        """See `HostNetwork`."""
        self._hosts += 1
        holder = self._stack.enter_context(_holder())
        links = [
            self._add_link(holder, "relays", 0, self._relay_subnet),
            self._add_link(holder, "hub", 4, self._hub_subnet),
        ]
        place = NamespacePlace(holder, self.hub, links)
        _run(*place.command, "ip", "link", "set", "lo", "up")
        for each in links:
            place.raise_link(each)
        return place

    def _add_link(self, holder: Child, inner: str, first: int, subnet: str) -> _Link:
        net = f"{self._base}.{self._hosts}"
        link = _Link(inner, f"{net}.{first + 1}", f"{net}.{first + 2}", subnet)
        name = f"{self._name}-{self._hosts}{inner[0]}"
        _run("ip", "link", "add", name, "type", "veth", "peer", inner, "netns", str(holder.pid))
        _run("ip", "addr", "add", f"{link.ours}/30", "dev", name)
        _run("ip", "link", "set", name, "up")
        _run(
            "nsenter", f"--net=/proc/{holder.pid}/ns/net", "--", "ip", "addr", "add", f"{link.theirs}/30", "dev", inner
        )
        return link


@contextmanager
def _holder() -> Iterator[Child]:
    """A process that does nothing in a network namespace of its own."""
    ours = Path("/proc/self/ns/net").readlink()
    with Child(["unshare", "--net", "--", "sleep", "infinity"]) as child:
        for _ in range(round(_READY_S / _STEP_S)):
            if Path(f"/proc/{child.pid}/ns/net").readlink() != ours:
                break
            pause(_STEP_S)
        else:
            raise TimeoutError("no network namespace")
        yield child


def _established(path: Path) -> Iterator[tuple[Address, str]]:
    """Yield the other end of each open connection of a namespace, and its socket's inode: 0 if its owner closed it."""
    for line in path.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _ESTABLISHED:
            address, _, port = fields[2].partition(":")
            raw = bytes.fromhex(address)[::-1]
            yield (".".join(map(str, raw)), int(port, 16)), fields[9]


def _at(url: str, where: str) -> str:
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login}@{where}"))


def _try(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
