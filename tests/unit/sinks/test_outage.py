"""Whether a sink is down, by what became of the calls to it."""

from pipeline.sinks.base import SinkDown
from pipeline.sinks.outage import LASTING_S, Answers, Outage

GONE = SinkDown("UNAVAILABLE", "nobody listens")
REFUSED = SinkDown("PERMISSION_DENIED", "no", "grant the role")


def fail(outage: Outage, *times: float, error: SinkDown = GONE) -> None:
    for time in times:
        outage.called(time)
        outage.failed(error, time)


def test_nothing_is_said_before_anything_was_offered() -> None:
    assert Outage("pubsub").trouble(1_000) == ""


def test_an_outage_is_told_once_it_lasts() -> None:
    """From the beginning of the first call that failed, whether or not another was made since."""
    outage = Outage("pubsub")
    fail(outage, 100, 101)
    assert outage.trouble(100 + LASTING_S - 0.1) == ""
    assert outage.trouble(100 + LASTING_S) == "sink pubsub is down: UNAVAILABLE: nobody listens"
    assert outage.failures == 2


def test_a_call_that_took_long_to_fail_began_the_outage() -> None:
    outage = Outage("relay")
    outage.called(100)
    outage.failed(GONE, 100 + LASTING_S)
    assert outage.trouble(100 + LASTING_S) != ""


def test_what_needs_an_operator_is_told_at_once() -> None:
    outage = Outage("pubsub")
    fail(outage, 100, error=REFUSED)
    assert outage.trouble(100) == "sink pubsub is down: PERMISSION_DENIED: grant the role"


def test_one_answer_ends_it() -> None:
    outage = Outage("pubsub")
    fail(outage, 100, 110)
    outage.called(120)
    assert outage.trouble(120) != "", "not known to be over while it is tried"
    outage.worked(121)
    assert outage.trouble(200) == ""
    fail(outage, 201)
    assert outage.failures == 1
    assert outage.trouble(202) == ""


def test_a_call_that_is_not_answered_is_told() -> None:
    outage = Outage("relay")
    outage.called(100)
    assert outage.trouble(100 + LASTING_S - 0.1) == ""
    assert outage.trouble(100 + LASTING_S) == "sink relay does not answer"
    outage.heard(107)
    assert outage.trouble(107 + LASTING_S - 0.1) == ""
    assert outage.trouble(107 + LASTING_S) == "sink relay does not answer"
    outage.over()
    assert outage.trouble(200) == ""


def test_what_another_thread_was_answered_counts() -> None:
    """Some calls fail, or one hangs, and others do not: the sink is there."""
    answers = Answers()
    outage, other = Outage("pubsub", answers), Outage("pubsub", answers)
    fail(outage, 100)
    hanging = Outage("pubsub", answers)
    hanging.called(100)
    other.called(104)
    other.worked(104)
    assert outage.trouble(106) == hanging.trouble(106) == other.trouble(106) == ""
    assert outage.trouble(104 + LASTING_S) != ""
    assert hanging.trouble(104 + LASTING_S) != ""


def test_the_words_of_an_outage_stay_while_its_reason_does() -> None:
    """So that its age is told and not that of the last words."""
    outage = Outage("pubsub")
    fail(outage, 100, 110)
    told = outage.trouble(111)
    fail(outage, 112, error=SinkDown("UNAVAILABLE", "another port"))
    assert outage.trouble(113) == told
    fail(outage, 114, error=SinkDown("INTERNAL", "trouble within"))
    assert outage.trouble(115) == "sink pubsub is down: INTERNAL: trouble within"
