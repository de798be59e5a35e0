"""Which connections are taken for lost, by what the kernel knows of their paths."""

from pipeline.crawl.path_watch import CHECK_EVERY_S, GRACE_S, LOST_AFTER_S, PROBE_EVERY_S, PathVerdict, PathWatch
from pipeline.relay.tcp_path import KEEPALIVE_IDLE_S, TcpPath

HEARD = TcpPath(silent_s=KEEPALIVE_IDLE_S)
PROBED = TcpPath(silent_s=KEEPALIVE_IDLE_S + CHECK_EVERY_S, probes=1)
PINGED = TcpPath(silent_s=KEEPALIVE_IDLE_S + CHECK_EVERY_S, probes=1, unacknowledged=1)
DEAD = TcpPath(silent_s=LOST_AFTER_S, probes=1, unacknowledged=1, resent=2)
FINE, PING, LOST = PathVerdict.FINE, PathVerdict.PING, PathVerdict.LOST
WELL = [HEARD] * 3


def test_path_without_answer_to_probes_is_pinged_once_then_lost() -> None:
    assert PathWatch().judge([PROBED, PINGED, DEAD, *WELL], 100.0) == [PING, FINE, LOST, FINE, FINE, FINE]


def test_probe_that_was_only_just_sent_is_no_reason_to_ping() -> None:
    just_sent = TcpPath(silent_s=KEEPALIVE_IDLE_S, probes=1)
    assert PathWatch().judge([just_sent], 100.0) == [FINE]


def test_silence_with_one_resent_segment_or_with_none_is_no_loss() -> None:
    once, closed_window = TcpPath(LOST_AFTER_S, 0, 1, 1), TcpPath(LOST_AFTER_S, 0, 0, 0)
    assert PathWatch().judge([once, closed_window, *WELL], 100.0) == [FINE] * 5


def test_few_connections_say_nothing_about_the_line_and_are_lost() -> None:
    assert PathWatch().judge([DEAD] * 3, 100.0) == [LOST] * 3


def test_connections_are_kept_while_the_line_is_down_but_for_a_probe() -> None:
    watch, down = PathWatch(), [DEAD] * 5
    assert watch.judge(down, 100.0) == [LOST, *[FINE] * 4]
    assert watch.judge(down[1:], 101.0) == [FINE] * 4
    assert watch.judge(down[1:], 100.0 + PROBE_EVERY_S) == [LOST, *[FINE] * 3]


def test_connections_that_do_not_go_on_after_the_line_is_back_are_lost() -> None:
    watch, back = PathWatch(), [HEARD, *[DEAD] * 4]
    watch.judge([DEAD] * 5, 100.0)
    assert watch.judge(back, 101.0) == [FINE] * 5
    assert watch.judge(back, 100.0 + GRACE_S) == [FINE, *[LOST] * 4]


def test_paths_are_looked_at_every_second() -> None:
    watch = PathWatch()
    watch.judge([], 100.0)
    assert not watch.is_due(100.0 + CHECK_EVERY_S / 2)
    assert watch.is_due(100.0 + CHECK_EVERY_S)
