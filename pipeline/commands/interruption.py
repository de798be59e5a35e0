"""Signals that end a command as Ctrl-C does, so that it leaves nothing behind wherever it is ended."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `KeyboardInterrupt`, once; those that follow must not end what cleans up then."""
    former = {number: signal.getsignal(number) for number in _ENDING}
    is_ending = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal is_ending
        if not is_ending:
            is_ending = True
            raise KeyboardInterrupt

    for number in _ENDING:
        # nohup(1) ignores SIGHUP, and means that it must not end us.
        if former[number] is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number in _ENDING:
            signal.signal(number, former[number])
