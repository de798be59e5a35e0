import pytest

from pipeline.process.clock import ManualClock
from pipeline.relay.deadline import WAIT_SLICE_S, AttemptDeadline, Deadline
from pipeline.relay.errors import DialError, DialReason


def test_deadline_counts_down_to_nothing_and_no_further() -> None:
    clock = ManualClock()
    deadline = Deadline(clock, 10.0)
    clock.advance(4.0)
    assert deadline.remaining() == 6.0
    assert not deadline.expired
    clock.advance(7.0)
    assert deadline.remaining() == 0.0
    assert deadline.expired


def test_share_divides_what_is_left() -> None:
    clock = ManualClock()
    deadline = Deadline(clock, 10.0)
    clock.advance(4.0)
    assert deadline.share(3).remaining() == 2.0


def test_attempt_waits_in_slices_and_never_beyond_its_deadline() -> None:
    clock = ManualClock()
    attempt = AttemptDeadline(Deadline(clock, 1.0), lambda: False)
    assert attempt.wait_s("step") == WAIT_SLICE_S
    clock.advance(0.9)
    assert attempt.wait_s("step") == pytest.approx(0.1)


def test_attempt_that_is_over_says_why() -> None:
    clock = ManualClock()
    cancelled = False
    attempt = AttemptDeadline(Deadline(clock, 1.0), lambda: cancelled)
    clock.advance(1.0)
    with pytest.raises(DialError, match="the step") as late:
        attempt.wait_s("the step")
    assert late.value.reason is DialReason.TIMEOUT
    cancelled = True
    with pytest.raises(DialError) as called_off:
        attempt.share(2).wait_s("the step")
    assert called_off.value.reason is DialReason.CANCELLED
