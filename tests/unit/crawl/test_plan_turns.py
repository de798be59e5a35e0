"""Connections follow a long plan one after the other, a short one at once."""

from pipeline.crawl.plan_turns import FEW_QUERIES, ROUNDS, PlanTurns


def test_short_plan_is_followed_by_all_at_once() -> None:
    turns = PlanTurns()
    turns.add(range(1_000))
    assert turns.take(FEW_QUERIES) == list(range(1_000))
    assert turns.take(FEW_QUERIES) == []


def test_long_plan_is_followed_in_turns_and_by_all_in_time() -> None:
    for relays in (1, 5, 19, 20, 21, 1_000):
        turns = PlanTurns()
        turns.add(range(relays))
        taken = [turns.take(FEW_QUERIES + 1) for _ in range(ROUNDS)]
        assert [each for turn in taken for each in turn] == list(range(relays))
        assert max(map(len, taken)) <= relays / ROUNDS + 1


def test_relay_that_waits_keeps_its_place_whatever_comes() -> None:
    turns, taken = PlanTurns(), list[int]()
    for _ in range(ROUNDS):
        turns.add(range(100))
        taken += turns.take(FEW_QUERIES + 1)
    assert sorted(taken) == list(range(100))


def test_turns_are_over_once_all_had_theirs() -> None:
    assert PlanTurns().are_over
    turns = PlanTurns()
    turns.add(range(3 * ROUNDS))
    over = []
    for _ in range(ROUNDS):
        over.append(turns.are_over)
        turns.take(FEW_QUERIES + 1)
    assert not any(over)
    assert turns.are_over
