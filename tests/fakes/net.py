"""Loopback addresses and ports for fakes."""

import errno
import itertools
import os
import random
import socket
import threading
from time import monotonic

from pipeline.nostr.ports import SERVICE_PORTS

_counter = itertools.count()
_random = random.SystemRandom()
# Below those that Linux gives to clients: one of them could have the port before a server listens on it. And none at
# which the service looks for no relay.
_PORTS: list[int] = sorted({*range(10_000, 30_000)} - SERVICE_PORTS)


def loopback_address() -> str:
    """An address in 127.0.0.0/8 that no other caller of this process gets, and hardly one of another process."""
    number = next(_counter)
    return f"127.{os.getpid() % 200 + 20}.{number // 250 % 250 + 1}.{number % 250 + 1}"


def free_port(address: str = "127.0.0.1") -> int:
    """A port without a listener at this moment, which the kernel gives to no client."""
    while True:
        port = _random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return port


def wait_listening(address: str, port: int, timeout_s: float, *, step_s: float = 0.05) -> None:
    """Return once something accepts connections there; raises `TimeoutError`."""
    deadline = monotonic() + timeout_s
    while True:
        began = monotonic()
        try:
            socket.create_connection((address, port), timeout=max(step_s, 1.0)).close()
            return
        except OSError:
            if monotonic() > deadline:
                raise TimeoutError(f"nothing listens on {address}:{port} after {timeout_s} s") from None
        pause(step_s - (monotonic() - began))


def pause(seconds: float) -> None:
    """Wait a moment between two looks at something outside this process that tells nobody when it changes."""
    if seconds > 0:
        threading.Event().wait(seconds)
