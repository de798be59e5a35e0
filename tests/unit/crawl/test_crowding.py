"""Relays of one key, domain, address or network crowd out no honest ones."""

import functools
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.crawl.crowding import PROVEN_FOR_MS
from pipeline.crawl.ranking import ranked
from pipeline.crawl.selection import Chosen, Selection, Skipped, choose, tried_anew
from pipeline.process.clock import ManualClock
from pipeline.store import relay_candidates, relay_mentions, relay_pruning, relay_status, relays, users
from pipeline.store.authors import Authors
from pipeline.store.database import Tx
from pipeline.store.known_mentions import KnownMentions
from pipeline.store.relay_candidates import RelayCandidate
from pipeline.store.relay_mentions import Mention
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.schema import open_database

NOW = 1_800_000_000_000
HOUR = 3_600_000
ATTACKER = 90
STRANGERS = range(100, 115)


def selection(relays: int = 1_000, per_host: int = 3) -> Selection:
    return Selection(relays, per_host, (), allow_private=False)


def candidate(number: int, host: str, **more: object) -> RelayCandidate:
    return RelayCandidate(number, f"wss://{host}", False, None, 0, 0, "{}", namers=2)._replace(**more)  # type: ignore[arg-type]


def incumbent(number: int, host: str, novel: float = 3.0) -> RelayCandidate:
    return candidate(
        number, host, is_connected=True, connected_ms=HOUR, novel=novel, novel_at=NOW - HOUR, productive_at=NOW - HOUR
    )


def hosts(chosen: Chosen, *, trials: bool = True) -> set[str]:
    return {each.address.host for each in chosen.selected if trials or not each.is_trial}


def of_one_author(author: int) -> list[Mention]:
    return [Mention(author, False, False), Mention(author + 1, False, False)]


# In the store, as the attack goes.


def name_all(tx: Tx, author: int, addresses: Iterable[str], *, is_user: bool = False) -> None:
    number = Authors().intern(tx, author.to_bytes(32))
    for address in addresses:
        relay_mentions.record_mention(tx, address, source="relay-list", author=number, is_user=is_user, now=NOW)


def connect(tx: Tx, addresses: Iterable[str], *, productive: bool) -> None:
    for address in addresses:
        number = relays.find(tx, address)
        assert number is not None
        relay_status.start_crawling(tx, [number], NOW - HOUR)
        relay_status.put_statuses(tx, [RelayStatus(number, address, RelayState.CONNECTED, NOW - HOUR, 1, 0, 0, 0, "")])
        if productive:
            relay_candidates.add_first_seen(tx, {number: 1.0}, NOW - HOUR, productive=[number])


HONEST = [f"wss://r{number}.honest{number % 7}.example" for number in range(20)]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with 205 relay lists of one key, and with 15 other keys that name the same."""
    path = tmp_path_factory.mktemp("attacked") / "events.db"
    evil = [f"wss://evil{number}.example" for number in range(2_050)]
    with open_database(path, ManualClock(NOW)) as db, db.write() as tx:
        for author in range(1, 9):
            name_all(tx, author, HONEST[author % 4 :: 4])
        for author in (ATTACKER, *STRANGERS):
            name_all(tx, author, evil)
    return path


@pytest.mark.parametrize("productive", [True, False], ids=["productive", "idle"])
def test_lists_of_one_key_and_its_friends_drop_no_connected_relay(
    attacked: Path, tmp_path: Path, productive: bool
) -> None:
    """One registers, too; 40 relays may be dialled."""
    shutil.copy(attacked, tmp_path)
    with open_database(tmp_path / attacked.name, ManualClock(NOW)) as db, db.write() as tx:
        connect(tx, HONEST, productive=productive)
        users.register(tx, ATTACKER.to_bytes(32), NOW)
        while crowded := relay_pruning.crowded(tx):
            for each in crowded:
                relay_pruning.prune_mentions(tx, each, 10_000)
        found = relay_candidates.candidates(tx, discovered=True, limit=20_040)
        assert sum(each.named_by_user for each in found) >= 500
        chosen = choose(ranked(found, NOW), selection(40), NOW, functools.partial(KnownMentions().of, tx))
    assert {url.removeprefix("wss://") for url in HONEST} <= hosts(chosen)
    assert len(hosts(chosen)) == 40


# By candidates alone.


def test_strangers_keys_drop_no_productive_relay_at_the_default_size() -> None:
    """Of a thousand honest relays all keep the places that the operator's own leave."""
    own = [candidate(number, f"own{number}.example", by_operator=True) for number in range(7)]
    honest = [incumbent(100 + number, f"h{number}.hoster{number % 3}.example") for number in range(1_000)]
    evil = [
        candidate(5_000 + number, f"evil{number}.example", named_by_user=True, namers=16) for number in range(1_000)
    ]
    namers = {each.relay: [Mention(key, False, key == ATTACKER) for key in (ATTACKER, *STRANGERS)] for each in evil}
    found = ranked([*own, *honest, *evil], NOW)
    chosen = choose(found, selection(), NOW, lambda each: namers.get(each.relay, of_one_author(each.relay)))
    kept = hosts(chosen)
    assert sum(each.address.host in kept for each in chosen.selected) == 1_000
    assert sum(f"h{number}.hoster{number % 3}.example" in kept for number in range(1_000)) == 993


def test_recently_lost_relay_keeps_its_place_one_long_gone_does_not() -> None:
    there = incumbent(1, "a.example")
    away = there._replace(relay=2, address="wss://b.example", is_connected=False, state_since=NOW - HOUR)
    gone = away._replace(relay=3, address="wss://c.example", state_since=NOW - 10 * HOUR, failures=9)
    stale = there._replace(relay=4, address="wss://d.example", productive_at=NOW - PROVEN_FOR_MS, novel=0.0)
    better = [candidate(10 + n, f"n{n}.example", named_by_user=True, namers=3) for n in range(5)]
    users = {each.relay: [Mention(each.relay, False, True)] for each in better}
    chosen = choose(
        ranked([gone, stale, *better, away, there], NOW), selection(5), NOW, lambda each: users.get(each.relay, [])
    )
    assert hosts(chosen, trials=False) == {"a.example", "b.example", "n0.example", "n1.example", "n2.example"}


@pytest.mark.parametrize(
    ("same", "reason", "most"),
    [
        ({"domain": True}, Skipped.DOMAIN, 20),
        ({"resolved": True}, Skipped.ADDRESS, 10),
        ({"prefix": True}, Skipped.PREFIX, 20),
        ({"namer": True}, Skipped.NAMER, 20),
        ({"monitor": True}, Skipped.NAMER, 50),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_relays_with_something_in_common_get_few_places_and_a_few_trials(
    same: dict[str, bool], reason: Skipped, most: int
) -> None:
    def made(number: int) -> RelayCandidate:
        host = f"r{number}.crowd.example" if "domain" in same else f"crowd{number}.example"
        resolved = f"198.51.{number // 250}.{number % 250}"
        if "resolved" in same:
            resolved = "203.0.113.9"
        elif "prefix" in same:
            resolved = f"203.0.113.{number % 250}"
        return candidate(number, host, resolved=resolved if same.keys() & {"resolved", "prefix"} else "")

    def namers(each: RelayCandidate) -> list[Mention]:
        if "namer" in same:
            return [Mention(1, False, False), Mention(2, False, False)]
        return [Mention(1, True, False), Mention(1_000 + each.relay, False, False)] if "monitor" in same else []

    crowd = [made(number) for number in range(200)]
    chosen = choose(ranked(crowd, NOW), selection(), NOW, namers)
    assert len(hosts(chosen, trials=False)) == most
    assert 1 <= len(hosts(chosen)) - most <= most // 5, "some of the others are tried in turn"
    assert chosen.crowded == {reason: 200 - most}
    tried = set(tried_anew(chosen.selected, NOW))
    later = [each._replace(tried_at=NOW) if each.relay in tried else each for each in crowd]
    again = choose(ranked(later, NOW + 2 * HOUR), selection(), NOW + 2 * HOUR, namers)
    assert not tried & {each.candidate.relay for each in again.selected if each.is_trial}


def test_productive_relays_of_one_host_and_users_relays_are_not_counted() -> None:
    productive = [
        incumbent(number, f"r{number}.hoster.example")._replace(resolved="203.0.113.9") for number in range(300)
    ]
    of_users = [
        candidate(1_000 + number, f"u{number}.hoster.example", resolved="203.0.113.9", named_by_user=True)
        for number in range(300)
    ]
    fresh = [candidate(2_000 + number, f"f{number}.hoster.example", resolved="203.0.113.9") for number in range(3)]
    chosen = choose(
        ranked([*productive, *of_users, *fresh], NOW), selection(), NOW,
        lambda each: [
            Mention(each.relay // 2, False, each.named_by_user),
            Mention(each.relay // 2 + 9_999, False, False),
        ],
    )  # fmt: skip
    assert len(hosts(chosen)) == 603
    assert not chosen.crowded


def test_user_counts_for_few_relays_and_those_that_come_first_of_these() -> None:
    named = [candidate(number, f"n{number}.example", named_by_user=True, namers=1) for number in range(100)]
    chosen = choose(ranked(named, NOW), selection(), NOW, lambda _: [Mention(7, False, True)])
    assert hosts(chosen, trials=False) == {f"n{number}.example" for number in range(20)}
    assert chosen.crowded == {Skipped.NAMER: 80}


def test_operators_relays_and_addresses_of_hidden_services_are_not_counted() -> None:
    own = [candidate(number, f"o{number}.one.example", by_operator=True) for number in range(100)]
    assert len(hosts(choose(own, selection(), NOW))) == 100


def test_new_users_relay_has_its_turn_behind_a_crowd_that_is_put_off() -> None:
    """The gate does not dial names of one machine for minutes. There are few places, and far more names."""
    honest = [incumbent(number, f"honest{number}.example") for number in range(21)]
    names = [candidate(100 + number, f"victim{number}.example", named_by_user=True) for number in range(700)]
    newcomer = candidate(900, "newcomer.example", named_by_user=True)
    mentions = {each.relay: [Mention(each.relay // 100, False, True)] for each in (*names, newcomer)}
    looks, dialled = 0, set[int]()
    while newcomer.relay not in dialled:
        looks += 1
        assert looks <= 7, "before it come ten names of each of seven users, nineteen at each look"
        names = [
            each._replace(state_since=NOW - 1_000, next_dial_at=NOW + 200_000) if each.relay in dialled else each
            for each in names
        ]
        ranking = ranked([*honest, *names, newcomer], NOW)
        chosen = choose(ranking, selection(40), NOW, lambda each: mentions.get(each.relay, []))
        assert {each.address.host for each in chosen.selected} >= {f"honest{number}.example" for number in range(21)}
        dialled = {each.candidate.relay for each in chosen.selected}
    assert looks > 1
