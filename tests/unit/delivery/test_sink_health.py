"""Whether a sink is down, by what became of the calls to it."""

from pipeline.delivery.sink_health import LASTING_S, LastAnswer, SinkHealth
from pipeline.sinks.base import SinkDown

GONE = SinkDown("UNAVAILABLE", "nobody listens")
REFUSED = SinkDown("PERMISSION_DENIED", "no", "grant the role")


def fail(health: SinkHealth, *times: float, error: SinkDown = GONE) -> None:
    for time in times:
        health.on_call(time)
        health.on_failure(error, time)


def test_nothing_is_said_before_anything_was_offered() -> None:
    assert SinkHealth("pubsub").problem(1_000) == ""


def test_an_outage_is_told_once_it_lasts() -> None:
    """From the beginning of the first call that failed, whether or not another was made since."""
    health = SinkHealth("pubsub")
    fail(health, 100, 101)
    assert health.problem(100 + LASTING_S - 0.1) == ""
    assert health.problem(100 + LASTING_S) == "sink pubsub is down: UNAVAILABLE: nobody listens"
    assert health.failures == 2


def test_a_call_that_took_long_to_fail_began_the_outage() -> None:
    health = SinkHealth("relay")
    health.on_call(100)
    health.on_failure(GONE, 100 + LASTING_S)
    assert health.problem(100 + LASTING_S) != ""


def test_what_needs_an_operator_is_told_at_once() -> None:
    health = SinkHealth("pubsub")
    fail(health, 100, error=REFUSED)
    assert health.problem(100) == "sink pubsub is down: PERMISSION_DENIED: grant the role"


def test_one_answer_ends_it() -> None:
    health = SinkHealth("pubsub")
    fail(health, 100, 110)
    health.on_call(120)
    assert health.problem(120) != "", "not known to be over while it is tried"
    health.on_success(121)
    assert health.problem(200) == ""
    fail(health, 201)
    assert health.failures == 1
    assert health.problem(202) == ""


def test_a_call_that_is_not_answered_is_told() -> None:
    health = SinkHealth("relay")
    health.on_call(100)
    assert health.problem(100 + LASTING_S - 0.1) == ""
    assert health.problem(100 + LASTING_S) == "sink relay does not answer"
    health.on_activity(107)
    assert health.problem(107 + LASTING_S - 0.1) == ""
    assert health.problem(107 + LASTING_S) == "sink relay does not answer"
    health.reset()
    assert health.problem(200) == ""


def test_what_another_thread_was_answered_counts() -> None:
    """Some calls fail, or one hangs, and others do not: the sink is there."""
    last_answer = LastAnswer()
    health, other = SinkHealth("pubsub", last_answer), SinkHealth("pubsub", last_answer)
    fail(health, 100)
    hanging = SinkHealth("pubsub", last_answer)
    hanging.on_call(100)
    other.on_call(104)
    other.on_success(104)
    assert health.problem(106) == hanging.problem(106) == other.problem(106) == ""
    assert health.problem(104 + LASTING_S) != ""
    assert hanging.problem(104 + LASTING_S) != ""


def test_the_words_of_an_outage_stay_while_its_reason_does() -> None:
    """So that its age is told and not that of the last words."""
    health = SinkHealth("pubsub")
    fail(health, 100, 110)
    told = health.problem(111)
    fail(health, 112, error=SinkDown("UNAVAILABLE", "another port"))
    assert health.problem(113) == told
    fail(health, 114, error=SinkDown("INTERNAL", "trouble within"))
    assert health.problem(115) == "sink pubsub is down: INTERNAL: trouble within"
