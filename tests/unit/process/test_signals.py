import os
import select
import signal
from collections.abc import Iterator

import pytest

from pipeline.process.clock import ManualClock
from pipeline.process.signals import REPEAT_AFTER_S, SignalPipe, StopRequest, StopRequests


@pytest.fixture
def default_handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
    former = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("default_handlers")
def test_signals_come_out_of_the_pipe_and_closing_restores_all() -> None:
    former_wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(former_wakeup)
    pipe = SignalPipe([signal.SIGTERM, signal.SIGUSR2])
    assert pipe.read() == []
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert select.select([pipe], [], [], 10)[0] == [pipe]
    assert sorted(pipe.read()) == sorted([signal.SIGTERM, signal.SIGUSR2])
    assert pipe.read() == []
    pipe.close()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == former_wakeup
    signal.set_wakeup_fd(former_wakeup)


@pytest.mark.usefixtures("default_handlers")
def test_ignored_hangup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    pipe = SignalPipe([signal.SIGHUP])
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGHUP)
    assert pipe.read() == []
    pipe.close()


@pytest.mark.usefixtures("default_handlers")
def test_ignored_hangup_is_taken_where_it_does_not_end_the_process() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    pipe = SignalPipe([signal.SIGHUP], hangup_ends=False)
    os.kill(os.getpid(), signal.SIGHUP)
    assert select.select([pipe], [], [], 10)[0] == [pipe]
    assert pipe.read() == [signal.SIGHUP]
    pipe.close()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_signals_within_a_moment_are_one_wish() -> None:
    clock = ManualClock()
    wishes = StopRequests(clock)
    assert wishes.on_signal(signal.SIGCHLD) is StopRequest.NOTHING
    assert wishes.on_signal(signal.SIGTERM) is StopRequest.STOP
    assert wishes.on_signal(signal.SIGTERM) is StopRequest.NOTHING
    clock.advance(REPEAT_AFTER_S - 0.01)
    assert wishes.on_signal(signal.SIGTERM) is StopRequest.NOTHING
    clock.advance(0.02)
    assert wishes.on_signal(signal.SIGINT) is StopRequest.STOP_AT_ONCE
    assert wishes.on_signal(signal.SIGTERM) is StopRequest.STOP_AT_ONCE


def test_hangup_asks_to_stop_but_never_at_once() -> None:
    clock = ManualClock()
    wishes = StopRequests(clock)
    assert wishes.on_signal(signal.SIGHUP) is StopRequest.STOP
    clock.advance(60)
    assert wishes.on_signal(signal.SIGHUP) is StopRequest.NOTHING
    assert wishes.on_signal(signal.SIGTERM) is StopRequest.STOP_AT_ONCE
