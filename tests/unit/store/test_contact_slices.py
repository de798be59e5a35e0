"""Contact lists of thousands, done in slices: in the end the same as all at once, and right at any time before."""

import random
from collections.abc import Iterable, Iterator, Sequence

import pytest

from pipeline.store import contact_slices, contacts, shares, users
from pipeline.store.authors import Authors
from pipeline.store.contacts import KeyedList
from pipeline.store.database import Database, Tx
from tests.support.seeds import seeds
from tests.support.wanted_changes import changes_since
from tests.support.wanted_counts import check_wanted

NOW = 1_700_000_000_000
SIZE = 3


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_slices, "SIZE", SIZE)


def key(number: int) -> bytes:
    return number.to_bytes(32)


def follow(tx: Tx, user: int, followees: Iterable[int], *, at: int = 1, event_id: bytes = bytes(32)) -> bool:
    authors = Authors()
    listed = KeyedList(authors.intern(tx, key(user)), event_id, at, tuple(map(key, followees)))
    return contacts.replace_in_slices(tx, authors, listed, NOW)


def work_off(db: Database) -> Iterator[int]:
    """Do one slice after the other, each in a transaction of its own."""
    number = 0
    while True:
        with db.write() as tx:
            if not contacts.work_off(tx, Authors(), NOW):
                return
        number += 1
        yield number


def followed(tx: Tx, user: int) -> list[int]:
    """Whom `user` follows, in the order of places."""
    rows = """
    SELECT public_key FROM contacts JOIN authors ON id = followee
     WHERE follower = (SELECT id FROM authors WHERE public_key = ?) ORDER BY place
    """
    return [int.from_bytes(followee) for (followee,) in tx.execute(rows, (key(user),))]


def wanted(tx: Tx) -> set[int]:
    changes = changes_since(tx, 0).authors
    return {int.from_bytes(change.public_key) for change in changes if change.wanted}


def test_newest_followees_are_wanted_at_once_and_the_others_slice_by_slice(db: Database) -> None:
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        assert follow(tx, 1, range(10, 18))
        assert wanted(tx) == {1, 15, 16, 17}
    for number in work_off(db):
        with db.read() as tx:
            check_wanted(tx)
            assert len(wanted(tx)) == min(9, 4 + SIZE * number)
    with db.read() as tx:
        assert followed(tx, 1) == [*range(10, 18)]
        assert contact_slices.count(tx) == 0


def test_short_difference_of_a_long_list_is_done_at_once(db: Database) -> None:
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        follow(tx, 1, range(10, 30))
    assert list(work_off(db))
    with db.write() as tx:
        assert follow(tx, 1, [*range(11, 30), 99], at=2)
        assert contact_slices.count(tx) == 0
        assert followed(tx, 1) == [*range(11, 30), 99]
        check_wanted(tx)


def test_newer_list_takes_the_place_of_what_is_left_of_an_older_one(db: Database) -> None:
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        follow(tx, 1, range(10, 30))
        assert contact_slices.count(tx) > 0
        follow(tx, 1, [12, 29, 50], at=2)
    list(work_off(db))
    with db.read() as tx:
        assert set(followed(tx, 1)) == {12, 29, 50}
        assert wanted(tx) == {1, 12, 29, 50}


def test_older_list_leaves_what_is_left_of_a_newer_one(db: Database) -> None:
    with db.write() as tx:
        follow(tx, 1, range(10, 30), at=5)
        assert not follow(tx, 1, range(40, 80), at=4)
    list(work_off(db))
    with db.read() as tx:
        assert followed(tx, 1) == [*range(10, 30)]


def test_list_that_is_taken_back_is_gone_with_what_is_left_of_it(db: Database) -> None:
    event_id = b"\7" * 32
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        follow(tx, 1, range(10, 30), event_id=event_id)
        authors = Authors()
        contacts.retract(tx, authors, authors.intern(tx, key(1)), {event_id}, None, NOW)
    list(work_off(db))
    with db.read() as tx:
        assert followed(tx, 1) == []
        assert wanted(tx) == {1}


def test_user_who_registers_with_a_long_list_has_the_newest_at_once(db: Database) -> None:
    with db.write() as tx:
        follow(tx, 1, range(10, 30))
    list(work_off(db))
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        assert wanted(tx) == {1, 27, 28, 29}
        check_wanted(tx)
    list(work_off(db))
    with db.read() as tx:
        assert wanted(tx) == {1, *range(10, 30)}
        check_wanted(tx)


def test_users_lists_come_before_those_of_strangers(db: Database) -> None:
    with db.write() as tx:
        follow(tx, 2, range(100, 130))
        users.register(tx, key(1), NOW)
        follow(tx, 1, range(10, 16))
    next(work_off(db))
    with db.read() as tx:
        assert wanted(tx) == {1, *range(10, 16)}


def test_followees_beyond_a_users_share_wait(db: Database) -> None:
    with db.write() as tx:
        shares.set_bound(tx, 20)
        users.register(tx, key(1), NOW)
        follow(tx, 1, range(100, 140))
    for _ in work_off(db):
        with db.read() as tx:
            check_wanted(tx)
            assert len(wanted(tx)) <= 20
    with db.read() as tx:
        assert len(followed(tx, 1)) == 40


def test_difference_is_reckoned_again_where_it_is_out_of_date(db: Database) -> None:
    """Another process may have saved another list since."""
    authors = Authors()
    with db.write() as tx:
        follower = authors.intern(tx, key(1))
        follow(tx, 1, [10, 11], at=1)
    with db.read() as tx:
        outdated = contacts.difference(tx, follower, [key(10), key(12)])
    with db.write() as tx:
        follow(tx, 1, [10, 11, 13], at=2)
        newest = KeyedList(follower, bytes(32), 3, (key(10), key(12)))
        assert contacts.replace_in_slices(tx, authors, newest, NOW, changes=outdated)
        assert set(followed(tx, 1)) == {10, 12}


class Crash(Exception):
    """Thrown inside a transaction, in the place of a process that dies there."""


@pytest.mark.parametrize("seed", seeds(8))
def test_whatever_comes_between_slices_the_end_is_that_of_whole_lists(db: Database, seed: int) -> None:
    rng = random.Random(seed)
    lists, registered = dict[int, tuple[int, Sequence[int]]](), set[int]()
    with db.write() as tx:
        shares.set_bound(tx, 1_000)
    for step in range(120):
        person, action = rng.randrange(5), rng.random()
        with db.write() as tx:
            if action < 0.3:
                followees = rng.sample(range(40), rng.choice((0, 2, 10, 30)))
                assert follow(tx, person, followees, at=step)
                lists[person] = step, followees
            elif action < 0.45:
                users.register(tx, key(person), NOW)
                registered.add(person)
            elif action < 0.55:
                users.remove(tx, key(person), NOW)
                registered.discard(person)
            else:
                contacts.work_off(tx, Authors(), NOW)
        with pytest.raises(Crash), db.write() as tx:  # noqa: PT012  (it must come after the slice)
            contacts.work_off(tx, Authors(), NOW)
            raise Crash
        with db.read() as tx:
            check_wanted(tx)
    list(work_off(db))
    with db.write() as tx:
        # What a list that came meanwhile left waiting is let in by the sweeper.
        while steps := shares.next_steps(tx, NOW):
            for each in steps:
                shares.take_step(tx, each, NOW)
    with db.read() as tx:
        check_wanted(tx)
        assert all(set(followed(tx, person)) == set(each) for person, (_, each) in lists.items())
        assert wanted(tx) == registered.union(*(lists[each][1] for each in registered if each in lists))
