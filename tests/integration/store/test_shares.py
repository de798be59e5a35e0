"""Shares of the wanted authors: whole below the bound, and above it the newest and largest users yield."""

import random
from collections.abc import Iterable

import pytest

from pipeline.store import contacts, shares, users
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.database import Database, Tx
from tests.support.seeds import seeds
from tests.support.wanted_changes import changes_since
from tests.support.wanted_counts import check_wanted

NOW = 1_700_000_000_000
DAY = 86_400_000


@pytest.fixture(autouse=True)
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of everything."""
    monkeypatch.setattr(shares, "MAX_SHARE", 100)
    monkeypatch.setattr(shares, "MAX_LEVEL", 1_000)
    monkeypatch.setattr(shares, "MIN_LEVEL", 10)
    monkeypatch.setattr(shares, "EDGES_PER_STEP", 10)


def key(name: object) -> bytes:
    return str(name).encode().rjust(32, b"\0")


def follow(tx: Tx, user: object, followees: Iterable[object], *, at: int = 1, now: int = NOW) -> None:
    authors = Authors()
    numbers = tuple(authors.intern(tx, key(each)) for each in followees)
    assert contacts.replace(tx, ContactList(authors.intern(tx, key(user)), bytes(32), at, numbers), now)


def join(tx: Tx, user: object, followees: Iterable[object], *, now: int = NOW) -> None:
    follow(tx, user, followees, now=now)
    users.register(tx, key(user), now)
    while contacts.work_off(tx, Authors(), now):
        pass


def own(user: object, count: int, first: int = 0) -> list[str]:
    """Followees whom nobody else follows."""
    return [f"{user}-{number}" for number in range(first, first + count)]


def wanted_keys(tx: Tx) -> set[bytes]:
    return {change.public_key for change in changes_since(tx, 0).authors if change.wanted}


def had(tx: Tx, followees: Iterable[str]) -> list[str]:
    found = wanted_keys(tx)
    return [each for each in followees if key(each) in found]


def settle(tx: Tx, now: int = NOW) -> int:
    """Do what the sweeper does until there is nothing left to do."""
    for turn in range(5_000):
        steps = shares.next_steps(tx, now)
        if not steps:
            return turn
        for step in steps:
            shares.take_step(tx, step, now)
    raise AssertionError("it does not settle")


def check(tx: Tx) -> None:
    """The counts are those of the rows, and the reasons to want someone those that do not wait."""
    counted = "SELECT count(*) FROM wanted WHERE refs > 0"
    assert shares.budget(tx).authors == int(tx.execute(counted).get)
    check_wanted(tx)


def test_lists_of_any_length_are_whole_below_four_fifths_of_the_bound(db: Database) -> None:
    with db.write() as tx:
        shares.set_bound(tx, 1_000)
        join(tx, "user", own("user", 799))
        assert len(wanted_keys(tx)) == 800
        assert shares.waiting(tx) == shares.Waiting(0, 0)
        assert not shares.next_steps(tx, NOW)
        check(tx)


def test_above_it_the_newest_followees_of_each_user_come_first(db: Database) -> None:
    with db.write() as tx:
        shares.set_bound(tx, 1_000)
        join(tx, "first", own("first", 799))
        join(tx, "second", own("second", 130))
        assert had(tx, own("second", 130)) == own("second", 100, first=30)
        assert shares.waiting(tx) == shares.Waiting(1, 30)
        follow(tx, "second", own("second", 133), at=2)
        assert had(tx, own("second", 133)) == own("second", 100, first=33)
        follow(tx, "second", own("second", 120), at=3)
        assert had(tx, own("second", 133)) == own("second", 87, first=33)
        assert shares.waiting(tx) == shares.Waiting(1, 33)
        settle(tx)
        assert had(tx, own("second", 120)) == own("second", 100, first=20)
        assert not shares.next_steps(tx, NOW)
        check(tx)


def test_bound_holds_where_a_list_grows_after_the_registration(db: Database) -> None:
    with db.write() as tx:
        shares.set_bound(tx, 300)
        for user in range(10):
            users.register(tx, key(user), NOW)
        for size in (1, 30, 60, 90, 139):
            for user in range(10):
                follow(tx, user, own(user, size), at=size)
                assert shares.budget(tx).authors <= 300
        settle(tx)
        assert 10 < shares.budget(tx).authors <= 300
        check(tx)


def test_invented_keys_close_it_for_nobody(db: Database) -> None:
    """A hundredth of an attack of 146 registrations with lists of 13,900 keys each against the default bound."""
    with db.write() as tx:
        shares.set_bound(tx, 20_000)
        for user in range(20):
            join(tx, f"old{user}", own(f"old{user}", 90), now=NOW - 30 * DAY)
        for stranger in range(146):
            join(tx, f"stranger{stranger}", own(f"stranger{stranger}", 139))
            assert shares.budget(tx).authors <= 20_000
        settle(tx)
        for user in range(20):
            join(tx, f"new{user}", own(f"new{user}", 50))
            assert users.is_registered(tx, Authors().intern(tx, key(f"new{user}")))
        settle(tx)
        for user in range(20):
            assert len(had(tx, own(f"old{user}", 90))) == 90
            assert len(had(tx, own(f"new{user}", 50))) == 50
        assert shares.budget(tx).authors <= 20_000
        check(tx)


def test_new_and_large_users_yield_before_old_and_small_ones(db: Database) -> None:
    with db.write() as tx:
        shares.set_bound(tx, 2_000)
        for user in range(10):
            join(tx, f"old{user}", own(f"old{user}", 80), now=NOW - 30 * DAY)
        for stranger in range(60):
            join(tx, f"stranger{stranger}", own(f"stranger{stranger}", 100))
            settle(tx)
        join(tx, "late", own("late", 8))
        settle(tx)
        assert [len(had(tx, own(f"old{user}", 80))) for user in range(10)] == [80] * 10
        assert len(had(tx, own("late", 8))) == 8
        assert {len(had(tx, own(f"stranger{stranger}", 100))) for stranger in range(60)} <= set(range(5, 101))
        check(tx)


def test_waiting_followees_are_let_in_when_room_appears(db: Database) -> None:
    with db.write() as tx:
        shares.set_bound(tx, 600)
        join(tx, "first", own("first", 390))
        join(tx, "second", own("second", 139))
        settle(tx)
        assert shares.waiting(tx).users == 1
        users.remove(tx, key("first"), NOW)
        check(tx)
        settle(tx)
        assert shares.waiting(tx) == shares.Waiting(0, 0)
        assert had(tx, own("second", 139)) == own("second", 139)
        check(tx)


def test_higher_bound_lets_all_in_and_a_lower_one_makes_them_yield(db: Database) -> None:
    with db.write() as tx:
        for user in range(10):
            join(tx, user, own(user, 100))
        assert shares.budget(tx).authors == 1_010
        shares.set_bound(tx, 500)
        settle(tx)
        assert shares.budget(tx).authors < 500
        shares.set_bound(tx, 5_000)
        settle(tx)
        assert shares.budget(tx).authors == 1_010
        check(tx)


@pytest.mark.parametrize("seed", [*seeds(3), 1_720_276_540])
def test_counts_are_right_whatever_is_done(db: Database, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    lists: dict[int, list[str]] = {}
    now, at = NOW, 1
    with db.write() as tx:
        for _ in range(250):
            now, at = now + rng.randrange(DAY // 4), at + 1
            user = rng.randrange(12)
            match rng.randrange(10):
                case 0:
                    shares.set_bound(tx, rng.choice([0, 30, 100, 300]))
                case 1 | 2:
                    users.register(tx, key(user), now)
                case 3:
                    users.remove(tx, key(user), now)
                case 4 | 5 | 6:
                    for step in shares.next_steps(tx, now):
                        shares.take_step(tx, step, now)
                case _:
                    kept = [each for each in lists.get(user, []) if rng.random() < 0.9]
                    more = rng.sample([*own(user, 80), *own("all", 60), str(user)], rng.choice([0, 1, 20, 120]))
                    lists[user] = list(dict.fromkeys([*kept, *more]))
                    follow(tx, user, lists[user], at=at, now=now)
            check(tx)
        settle(tx, now)
        check(tx)
