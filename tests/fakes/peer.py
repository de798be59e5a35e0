"""What the fakes that run as processes of their own have in common: a child that is started, awaited and ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from tests.fakes.child import Child


class Peer:
    """One child process at a time; a context manager that starts it and, at the end, kills it."""

    _child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def child(self) -> Child:
        """The running process."""
        assert self._child is not None, "not started"
        return self._child

    def start(self) -> None:
        """Start it and wait until it serves."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._child is not None:
            self._child.close()
            self._child = None

    @contextmanager
    def _starting(self, child: Child) -> Iterator[Child]:
        """Hold `child`, and end it should the block that waits for it fail."""
        self._child = child
        try:
            yield child
        except BaseException:
            self.kill()
            raise
