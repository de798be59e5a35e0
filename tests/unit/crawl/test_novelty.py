"""Events that relays brought first: in full only those of wanted authors, and of each only so many."""

from pipeline.crawl.novelty import CREDITS_FOR_S, FULL_CREDITS, Novelty

ALICE, BOB = b"a" * 32, b"b" * 32


def test_events_of_wanted_authors_count_in_full_and_prove_the_relay() -> None:
    novelty = Novelty()
    novelty.note_wanted(1, ALICE, 0.0)
    novelty.note_wanted(1, BOB, 0.0)
    for _ in range(64):
        novelty.note_other(2, is_mention=False)
        novelty.note_other(3, is_mention=True)
    taken = novelty.take()
    assert (taken[1].worth, taken[1].is_productive) == (2.0, True)
    assert (taken[2].worth, taken[2].is_productive) == (2.0, False)
    assert (taken[3].worth, taken[3].is_productive) == (8.0, False)
    assert not novelty
    assert not novelty.take()


def test_one_author_counts_in_full_only_so_many_times_an_hour() -> None:
    novelty = Novelty()
    for _ in range(1_000):
        novelty.note_wanted(1, ALICE, 5.0)
    novelty.note_wanted(2, ALICE, 6.0)
    novelty.note_wanted(3, BOB, 6.0)
    taken = novelty.take()
    assert FULL_CREDITS <= taken[1].worth < FULL_CREDITS + 1_000 / 30
    assert not taken[2].is_productive
    assert taken[3].is_productive
    novelty.note_wanted(2, ALICE, 5.0 + CREDITS_FOR_S)
    assert novelty.take()[2].is_productive
