import signal

from pipeline.process.child import Child
from pipeline.process.drain import Drain
from pipeline.process.slots import Slot


class Dummy(Child):
    """A child whose process is only a flag."""

    alive = True

    def __init__(self, name: str, drain_order: int) -> None:
        super().__init__(Slot(name, 0), drain_order)
        self.received: list[signal.Signals] = []

    @property
    def running(self) -> bool:
        return self.alive

    def send(self, number: signal.Signals) -> None:
        self.received.append(number)


def test_groups_end_in_order() -> None:
    crawler, server, saver = Dummy("crawler", 0), Dummy("server", 0), Dummy("saver", 1)
    drain = Drain([saver, crawler, server], now_s=100, timeout_s=60)
    assert not drain.step(100)
    assert (crawler.received, server.received, saver.received) == ([signal.SIGTERM], [signal.SIGTERM], [])
    crawler.alive = False
    assert not drain.step(101)
    assert saver.received == []
    server.alive = False
    assert not drain.step(102)
    assert saver.received == [signal.SIGTERM]
    saver.alive = False
    assert drain.step(103)
    assert drain.clean


def test_group_has_its_share_of_the_time_and_leaves_the_rest() -> None:
    first, second, third = (Dummy("x", order) for order in range(3))
    drain = Drain([first, second, third], now_s=0, timeout_s=60)
    drain.step(0)
    assert drain.deadline_s == 20
    first.alive = False
    drain.step(2)
    assert drain.deadline_s == 2 + 58 / 2
    second.alive = False
    drain.step(10)
    assert drain.deadline_s == 60


def test_group_that_overstays_is_killed_and_the_next_asked() -> None:
    stubborn, quick, saver = Dummy("stubborn", 0), Dummy("quick", 0), Dummy("saver", 1)
    drain = Drain([stubborn, quick, saver], now_s=0, timeout_s=60)
    drain.step(0)
    quick.alive = False
    assert not drain.step(29.9)
    assert stubborn.received == [signal.SIGTERM]
    assert not drain.step(30)
    assert not drain.step(30.1)
    assert stubborn.received == [signal.SIGTERM, signal.SIGKILL]
    assert quick.received == [signal.SIGTERM]
    stubborn.alive = False
    assert not drain.step(31)
    assert saver.received == [signal.SIGTERM]
    saver.alive = False
    assert drain.step(32)
    assert not drain.clean


def test_what_no_kill_can_end_is_left_behind() -> None:
    stuck, saver = Dummy("stuck", 0), Dummy("saver", 1)
    drain = Drain([stuck, saver], now_s=0, timeout_s=10)
    drain.step(0)
    drain.step(5)
    assert not drain.step(drain.deadline_s)
    assert saver.received == [signal.SIGTERM]
    saver.alive = False
    assert drain.step(11)


def test_kill_all_ends_everything_at_once() -> None:
    crawler, saver = Dummy("crawler", 0), Dummy("saver", 1)
    drain = Drain([crawler, saver], now_s=0, timeout_s=60)
    drain.step(0)
    drain.kill_all(1)
    assert crawler.received == [signal.SIGTERM, signal.SIGKILL]
    assert saver.received == [signal.SIGKILL]
    assert not drain.step(1)
    crawler.alive = saver.alive = False
    assert drain.step(1.1)
    assert not drain.clean


def test_nothing_to_drain() -> None:
    assert Drain([], now_s=0, timeout_s=60).step(0)
