import select
import threading

from pipeline.process.stop import Stop


def readable(stop: Stop, timeout_s: float) -> bool:
    return bool(select.select([stop], [], [], timeout_s)[0])


def test_first_reason_is_kept() -> None:
    stop = Stop()
    assert not stop.is_set()
    assert stop.reason == ""
    stop.set("SIGTERM")
    stop.set("later")
    assert stop.is_set()
    assert stop.reason == "SIGTERM"


def test_wait_tells_whether_it_is_set() -> None:
    stop = Stop()
    assert not stop.wait(0)
    stop.set()
    assert stop.wait(0)
    assert stop.wait()


def test_wakes_waiters_and_selectors_in_other_threads() -> None:
    stop = Stop()
    woken: list[str] = []
    waiters = [
        threading.Thread(target=lambda: woken.append("wait") if stop.wait(30) else None),
        threading.Thread(target=lambda: woken.append("select") if readable(stop, 30) else None),
    ]
    for waiter in waiters:
        waiter.start()
    stop.set()
    for waiter in waiters:
        waiter.join(30)
    assert sorted(woken) == ["select", "wait"]


def test_descriptor_stays_readable() -> None:
    stop = Stop()
    assert not readable(stop, 0)
    stop.set()
    assert readable(stop, 0)
    assert readable(stop, 0)


def test_descriptor_made_after_the_fact_is_readable() -> None:
    stop = Stop()
    stop.set()
    assert readable(stop, 0)
