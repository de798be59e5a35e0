"""Late queries, looked at some at a time."""

import math

from pipeline.crawl.sync.late_queries import AT_ONCE, LOOK_EVERY_S, LateQueries
from pipeline.crawl.sync.query import Query, Subject

MANY = 10 * AT_ONCE + 7


def queries(count: int) -> tuple[Query, ...]:
    return tuple(Query(Subject.AUTHORS, f"3.{number:b}") for number in range(count))


def following(count: int) -> tuple[LateQueries, tuple[Query, ...]]:
    late, all_of_them = LateQueries(), queries(count)
    late.follow(all_of_them)
    return late, all_of_them


def test_few_are_looked_at_together() -> None:
    late, all_of_them = following(AT_ONCE)
    assert late.take(0.0) == list(all_of_them)
    assert late.take(0.0) == []
    assert late.next_time(0.0) == math.inf


def test_each_of_many_has_its_turn_and_then_there_is_rest() -> None:
    late, all_of_them = following(MANY)
    turns = [late.take(0.0) for _ in range(12)]
    assert max(map(len, turns)) == AT_ONCE
    assert [each for turn in turns for each in turn] == list(all_of_them)
    assert turns[-1] == []


def test_while_some_were_not_looked_at_the_next_look_is_soon() -> None:
    late, _ = following(MANY)
    late.take(5.0)
    assert late.next_time(5.0) == 5.0 + LOOK_EVERY_S


def test_all_are_looked_at_again_when_the_first_comes_due() -> None:
    late, all_of_them = following(3)
    late.take(0.0)
    for due_at in (70.0, 60.0, 80.0):
        late.note(due_at)
    assert late.next_time(0.0) == 60.0
    assert late.take(59.9) == []
    assert late.take(60.0) == list(all_of_them)


def test_what_is_due_and_cannot_begin_is_not_looked_at_without_a_pause() -> None:
    late, _ = following(1)
    late.take(0.0)
    late.note(0.0)
    assert late.next_time(0.0) == LOOK_EVERY_S


def test_what_happens_makes_a_new_round_from_where_the_turn_is() -> None:
    late, all_of_them = following(MANY)
    late.take(0.0)
    late.look_again()
    seen = [each for _ in range(12) for each in late.take(0.0)]
    assert seen == [*all_of_them[AT_ONCE:], *all_of_them[:AT_ONCE]]


def test_other_queries_are_looked_at_from_the_first_on() -> None:
    late, _ = following(MANY)
    for _ in range(12):
        late.take(0.0)
    fewer = queries(2)
    late.follow(fewer)
    assert sorted(late.take(0.0), key=lambda query: query.key) == list(fewer)
    late.follow(())
    assert late.take(0.0) == []
