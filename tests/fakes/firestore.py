"""Google's own Firestore emulator, where the Cloud SDK has it: started and ended by tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.child import Child
from tests.fakes.emulator import READY_TIMEOUT_S, emulator_program
from tests.fakes.net import free_port, loopback_address, wait_listening
from tests.fakes.peer import Peer

_PROGRAM = Path("platform/cloud-firestore-emulator/cloud_firestore_emulator")


class FirestoreEmulator(Peer):
    """One running emulator, empty at its start."""

    def __init__(self) -> None:
        self.host = loopback_address()
        self.port = 0

    @property
    def address(self) -> str:
        """`host:port`, for `FIRESTORE_EMULATOR_HOST`."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        program = emulator_program(_PROGRAM)
        assert program is not None, "the Firestore emulator is not installed"
        self.port = self.port or free_port(self.host)
        with self._starting(Child([str(program), "start", f"--host={self.host}", f"--port={self.port}"])):
            wait_listening(self.host, self.port, READY_TIMEOUT_S)


@pytest.fixture
def firestore_emulator() -> Iterator[FirestoreEmulator]:
    """A fresh emulator; skips where it is not installed."""
    if emulator_program(_PROGRAM) is None:
        pytest.skip("the Firestore emulator is not installed")
    with FirestoreEmulator() as emulator:
        yield emulator
