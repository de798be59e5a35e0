"""The order in which relays deserve to be dialled."""

from pipeline.crawl.ranking import ranked, score
from pipeline.store.relay_candidates import FIRST_SEEN_HALF_LIFE_MS, RelayCandidate

NOW = 1_700_000_000_000
HOUR = 3_600_000
PLAIN = RelayCandidate(1, "wss://a.example", False, None, 0, 0, "{}", namers=2)


def order(*candidates: RelayCandidate) -> list[int]:
    numbered = [each._replace(relay=number) for number, each in enumerate(candidates)]
    return [each.relay for each in ranked(numbered, NOW)]


def test_the_operators_come_before_all_whatever_they_brought() -> None:
    best = PLAIN._replace(novel=1e6, novel_at=NOW, named_by_user=True, namers=16)
    assert order(best, PLAIN._replace(by_operator=True, failures=50)) == [1, 0]


def test_what_they_brought_lately_counts_most() -> None:
    brought = PLAIN._replace(novel=5_000.0, novel_at=NOW)
    named = PLAIN._replace(namers=16, named_by_user=True)
    long_ago = brought._replace(novel_at=NOW - 12 * FIRST_SEEN_HALF_LIFE_MS)
    assert order(PLAIN, named, brought, long_ago) == [2, 1, 3, 0]


def test_a_users_relay_comes_before_one_that_a_few_strangers_named() -> None:
    assert order(PLAIN._replace(namers=5), PLAIN._replace(namers=1, named_by_user=True)) == [1, 0]


def test_failed_relay_ranks_below_untried_until_it_answers() -> None:
    dead = PLAIN._replace(namers=16, named_by_user=True, failures=20)
    assert order(dead, PLAIN) == [1, 0]
    assert order(dead._replace(failures=0), PLAIN) == [0, 1]


def test_time_spent_away_counts_and_a_monitors_word_helps() -> None:
    away = PLAIN._replace(connected_ms=HOUR, disconnected_ms=9 * HOUR)
    there = PLAIN._replace(connected_ms=9 * HOUR, disconnected_ms=HOUR)
    seen_up = PLAIN._replace(seen_up_at=NOW - HOUR)
    assert order(away, PLAIN, there, seen_up) == [3, 1, 2, 0]
    assert score(seen_up._replace(seen_up_at=NOW + HOUR), NOW) == score(PLAIN, NOW), "a report from the future is none"


def test_connection_survives_small_rank_changes_and_equals_keep_order() -> None:
    assert order(PLAIN._replace(namers=3), PLAIN._replace(is_connected=True)) == [1, 0]
    assert order(PLAIN, PLAIN, PLAIN) == [0, 1, 2]


def test_relay_that_is_not_dialled_for_a_while_leaves_its_place_until_then() -> None:
    put_off = PLAIN._replace(named_by_user=True, namers=16, state_since=NOW - HOUR, next_dial_at=NOW + 240_000)
    assert order(put_off, PLAIN) == [1, 0]
    assert order(put_off._replace(next_dial_at=NOW + 5_000), PLAIN) == [0, 1], "it is dialled soon"
    assert order(put_off._replace(is_connected=True), PLAIN) == [0, 1]
    assert order(put_off._replace(by_operator=True), PLAIN) == [0, 1]
    proven = put_off._replace(productive_at=NOW - HOUR, connected_ms=HOUR, state_since=NOW - 60_000)
    assert order(proven, PLAIN) == [0, 1], "it brought what nobody else did"
