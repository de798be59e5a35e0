"""The relevance rules, and how the memory of who is wanted follows changes."""

import pytest

from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.rules.relevance import MAX_MENTIONS, Relevance, Rule
from pipeline.store.wanted_authors import Change
from tests.support.plans import changes, event, key

USER, FRIEND, STRANGER = key(1), key(2), key(3)


def relevance() -> Relevance:
    known = Relevance()
    known.apply(changes(1, [Change(USER, True, 0, 1), Change(FRIEND, True, 0, 1)], [Change(USER, True, 0, 1)]))
    return known


@pytest.mark.parametrize("kind", sorted(GLOBAL_KINDS))
def test_global_kinds_are_wanted_of_anybody(kind: int) -> None:
    assert relevance().rule(event(1, STRANGER, kind)) is Rule.GLOBAL
    assert Relevance().rule(event(1, STRANGER, kind)) is Rule.GLOBAL


@pytest.mark.parametrize("kind", [1, 4, 5, 7, 1059, 6666, 10_000, 20_001, 30_023])
def test_any_kind_of_users_followees_and_mentions_of_users_is_relevant(kind: int) -> None:
    known = relevance()
    assert known.rule(event(1, USER, kind)) is Rule.USER
    assert known.rule(event(1, FRIEND, kind)) is Rule.FOLLOWEE
    assert known.rule(event(1, STRANGER, kind, mentions=[STRANGER, USER])) is Rule.MENTION
    assert known.rule(event(1, STRANGER, kind, mentions=[FRIEND])) is None
    assert known.rule(event(1, STRANGER, kind)) is None
    assert Relevance().rule(event(1, USER, kind, mentions=[USER])) is None


def test_those_who_are_no_longer_wanted_are_forgotten_and_it_is_said() -> None:
    known = relevance()
    assert known.apply(changes(2, [Change(FRIEND, False, 0, 2)])) is True
    assert (known.generation, known.authors, known.registered) == (2, {USER}, {USER})
    assert known.apply(changes(3, [Change(STRANGER, False, 0, 3)])) is False, "was never wanted here"
    assert known.apply(changes(4, [Change(FRIEND, True, 0, 4)])) is False
    assert known.apply(changes(5, (), [Change(USER, False, 0, 5)])) is True
    assert known.registered == set()


def test_one_who_went_and_came_back_between_two_readings_was_gone() -> None:
    """Events of the time between were dropped without a trace by whoever read more often; they must come in again."""
    known = relevance()
    assert known.apply(changes(3, [Change(FRIEND, True, 9, 3)])) is True
    assert FRIEND in known.authors


def test_the_first_reading_removes_nobody() -> None:
    assert Relevance().apply(changes(7, [Change(USER, True, 0, 6), Change(FRIEND, False, 0, 7)])) is False


@pytest.mark.parametrize(
    ("author", "kind", "mentions", "is_followed", "rules"),
    [
        (USER, 1, [], False, {Rule.USER}),
        (USER, 1, [], True, {Rule.USER, Rule.FOLLOWEE}),
        (FRIEND, 1, [STRANGER], False, {Rule.FOLLOWEE}),
        (STRANGER, 1, [USER], False, {Rule.MENTION}),
        (STRANGER, 0, [], False, {Rule.GLOBAL}),
        (FRIEND, 3, [STRANGER, USER], False, {Rule.FOLLOWEE, Rule.MENTION, Rule.GLOBAL}),
        (USER, 3, [USER], True, set(Rule)),
        (STRANGER, 1, [FRIEND], False, set()),
    ],
)
def test_match_names_every_rule(
    author: bytes, kind: int, mentions: list[bytes], is_followed: bool, rules: set[Rule]
) -> None:
    """Not only the first, and one at least for whatever is relevant."""
    known = relevance()
    each = event(1, author, kind, mentions=mentions)
    match = known.match(each, is_followed_user=is_followed)
    assert set(match.rules) == rules
    assert len(match.rules) == len(rules)
    assert match.mentions == ((USER.hex(),) if USER in mentions else ())
    assert (known.rule(each) in match.rules) is bool(rules)


def test_match_lists_mentioned_users_in_order_once_up_to_a_bound() -> None:
    known, users = Relevance(), [key(number) for number in range(10, 40)]
    known.apply(changes(1, [], [Change(user, True, 0, 1) for user in users]))
    twice = [users[3], STRANGER, users[1], users[3]]
    match = known.match(event(1, STRANGER, 1, mentions=twice), is_followed_user=False)
    assert match.mentions == (users[3].hex(), users[1].hex())
    match = known.match(event(1, STRANGER, 1, mentions=users), is_followed_user=False)
    assert match.mentions == tuple(user.hex() for user in users[:MAX_MENTIONS])


def test_match_knows_no_user_who_is_gone() -> None:
    known = relevance()
    known.apply(changes(2, (), [Change(USER, False, 0, 2)]))
    match = known.match(event(1, USER, 1, mentions=[USER]), is_followed_user=False)
    assert match == ((Rule.FOLLOWEE,), ()), "still wanted, as whom another follows"
