"""Who crawls which share of the relays."""

from pipeline.crawl.crew import SETTLED_AFTER_S, Crew, Share


def test_crawler_alone_takes_everything_whatever_its_slot() -> None:
    for index in (0, 1, 7):
        assert Crew(index).share((index,), None, 0.0) == Share(0, 1)


def test_shares_follow_who_runs_once_nothing_has_changed_for_a_while() -> None:
    crew = Crew(2)
    assert crew.share((2,), None, 0.0) == Share(0, 1)
    assert crew.share((0, 2), None, 5.0) == Share(0, 1)
    assert crew.share((0, 2, 3), None, 5.0 + SETTLED_AFTER_S - 1) == Share(0, 1), "it changed again"
    assert crew.share((0, 2, 3), None, 4.0 + 2 * SETTLED_AFTER_S) == Share(1, 3)


def test_crawler_that_is_restarted_moves_no_relay() -> None:
    crew = Crew(0)
    assert crew.share((0, 1), None, 0.0) == Share(0, 2)
    assert crew.share((0,), None, 5.0) == Share(0, 2)
    assert crew.share((0, 1), None, 6.0) == Share(0, 2)
    assert crew.share((0, 1), None, 99.0) == Share(0, 2)


def test_supervised_crawlers_take_everything() -> None:
    """However many of them are away for a moment; one by hand beyond them idles."""
    assert Crew(1).share((1,), 4, 0.0) == Share(1, 4)
    assert Crew(4).share((0, 1, 2, 3, 4), 4, 0.0) is None


def test_every_share_is_taken_once() -> None:
    held = (0, 3, 9)
    shares = {Crew(index).share(held, None, 0.0) for index in held}
    assert shares == {Share(0, 3), Share(1, 3), Share(2, 3)}
