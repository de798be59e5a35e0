"""What the kernel knows of a path, over a real one that goes dead: two network namespaces, and frames that get lost."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from pipeline.relay import tcp_path
from pipeline.relay.tcp_path import TcpPath, keep_alive, path_of
from tests.integration.delivery.support import wait_until

_NOWHERE = "02:00:00:00:00:99"


def test_path_of_a_connection_is_well_and_of_another_socket_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        keep_alive(ours)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        path = path_of(ours)
        assert (path.probes, path.unacknowledged, path.resent) == (0, 0, 0)
    first, second = socket.socketpair()
    with first, second:
        assert path_of(first) == TcpPath()


class Telling(socket.socket):
    """A socket of which the kernel says what a test has it say."""

    info = b""

    def getsockopt(self, *_: object) -> bytes:  # type: ignore[override]
        return self.info


@pytest.mark.parametrize("ages_ms", [(40, 90_000), (90_000, 40)])
def test_host_of_which_data_or_acknowledgements_come_is_not_silent(ages_ms: tuple[int, int]) -> None:
    with Telling() as ours:
        ours.info = tcp_path._TCP_INFO.pack(*[0] * 19, *ages_ms)
        assert path_of(ours) == TcpPath(silent_s=0.04)


def test_kernel_that_says_less_than_is_asked_leaves_the_path_unknown() -> None:
    with Telling() as ours:
        ours.info = bytes(tcp_path._TCP_INFO.size - 4)
        assert path_of(ours) == TcpPath()


def test_silence_of_a_host_that_is_gone_shows_and_ends_when_it_is_back(dead_end: "DeadEnd") -> None:
    with dead_end.connected() as ours:
        dead_end.lose()
        wait_until(lambda: path_of(ours).probes > 0, "a probe without an answer", 60)
        assert path_of(ours).silent_s > 0
        ours.sendall(b"ping")
        wait_until(lambda: path_of(ours).resent > 1, "data resent", 60)
        assert path_of(ours).unacknowledged > 0
        dead_end.find()
        wait_until(lambda: path_of(ours).resent == path_of(ours).unacknowledged == 0, "data acknowledged", 60)


@dataclass(frozen=True, slots=True)
class DeadEnd:
    """A host behind a cable that can be made to lose everything."""

    namespace: str
    near: str
    far: str
    host: str
    peer: str

    def lose(self) -> None:
        """Send all frames to an address that no one has."""
        self._address_frames(_NOWHERE, _NOWHERE)

    def find(self) -> None:
        """Send frames where they belong."""
        near = _run("cat", f"/sys/class/net/{self.near}/address").strip()
        far = _run("ip", "netns", "exec", self.namespace, "cat", f"/sys/class/net/{self.far}/address").strip()
        self._address_frames(near, far)

    def _address_frames(self, near: str, far: str) -> None:
        neighbour = ("neigh", "replace")
        _run("ip", *neighbour, self.peer, "lladdr", far, "dev", self.near, "nud", "permanent")
        _run("ip", "-n", self.namespace, *neighbour, self.host, "lladdr", near, "dev", self.far, "nud", "permanent")

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A connection to the host, kept alive as those to relays are."""
        program = (
            f"import socket; s = socket.create_server(('{self.peer}', 7)); print(flush=True); s.accept()[0].recv(9)"
        )
        command = ["ip", "netns", "exec", self.namespace, sys.executable, "-c", program]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                server.stdout.readline()
                with socket.create_connection((self.peer, 7)) as ours:
                    keep_alive(ours)
                    yield ours
            finally:
                server.kill()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def dead_end() -> Iterator[DeadEnd]:
    if shutil.which("ip") is None:
        pytest.skip("no network namespaces here: no command ip")
    name = f"es{os.getpid()}"
    # Of this process alone, as its devices are.
    network = f"10.250.{os.getpid() % 250}"
    made = DeadEnd(name, f"{name}a", f"{name}b", f"{network}.1", f"{network}.2")
    try:
        try:
            _lay(made)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield made
    finally:
        for command in (("ip", "link", "del", made.near), ("ip", "netns", "del", name)):
            with suppress(subprocess.CalledProcessError):
                _run(*command)


def _lay(dead_end: DeadEnd) -> None:
    """Lay the cable."""
    near, far, name = dead_end.near, dead_end.far, dead_end.namespace
    _run("ip", "netns", "add", name)
    _run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
    _run("ip", "link", "set", far, "netns", name)
    for prefix, device, address in (((), near, dead_end.host), (("-n", name), far, dead_end.peer)):
        _run("ip", *prefix, "addr", "add", f"{address}/30", "dev", device)
        _run("ip", *prefix, "link", "set", device, "up")
    dead_end.find()
