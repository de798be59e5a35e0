"""The search for the most that is taken."""

import pytest

from pipeline.probe.exchange import Ask, End, Reply
from pipeline.probe.questions.search import Taken, most_taken

FEW_QUESTIONS = 16


def search(limit: int, top: int, words: str = "") -> tuple[Taken, int]:
    """Search at a relay that takes `limit`; returns what was found, and in how many questions."""
    steps = most_taken(lambda size: Ask((str(size),), "q"), lambda answer, _: answer.end is End.EOSE, top)
    asked = 0
    try:
        ask = next(steps)
        while True:
            asked += 1
            taken = int(ask.frames[0]) <= limit
            ask = steps.send(Reply(End.EOSE) if taken else Reply(End.CLOSED, words))
    except StopIteration as end:
        found: Taken = end.value
    return found, asked


@pytest.mark.parametrize("top", [12, 210, 1_000])
def test_most_is_found_exactly_whatever_it_is(top: int) -> None:
    for limit in range(top):
        found, asked = search(limit, top)
        assert (found.most, found.refused_at) == (limit or None, limit + 1)
        assert asked <= FEW_QUESTIONS


@pytest.mark.parametrize("limit", [10, 20, 100, 256, 500])
def test_round_limit_takes_few_questions(limit: int) -> None:
    assert search(limit, 1_000)[1] <= 8


def test_all_that_is_asked_takes_one_question() -> None:
    assert search(5_000, 1_000) == (Taken(1_000), 1)


def test_number_that_the_relay_names_is_tried_first() -> None:
    found, asked = search(137, 1_000, 'invalid: must be less than or equal to 137 authors at "[2].authors"')
    assert (found.most, asked) == (137, 3)


def test_wrong_number_that_the_relay_names_is_not_believed() -> None:
    found, _ = search(100, 1_000, 'invalid: must be less than or equal to 137 authors at "[2].authors"')
    assert found.most == 100
