"""Users who leave: their followees are released in steps, and all is right at any time before the last of them."""

import random
from collections.abc import Sequence

import pytest

from pipeline.store import contact_slices, contacts, shares, users
from pipeline.store.authors import Authors
from pipeline.store.contacts import KeyedList
from pipeline.store.database import Database, Tx
from tests.support.seeds import seeds
from tests.support.wanted_changes import changes_since
from tests.support.wanted_counts import check_wanted

NOW = 1_700_000_000_000
MANY = 2_300
# Rows of `contacts`, `wanted` and a few more for each follow that changes.
MOST_CHANGES = 4 * contact_slices.SIZE + 100


def key(number: int) -> bytes:
    return number.to_bytes(32)


def follow(tx: Tx, user: int, followees: Sequence[int], *, at: int = 1, event_id: bytes = bytes(32)) -> None:
    authors = Authors()
    listed = KeyedList(authors.intern(tx, key(user)), event_id, at, tuple(map(key, followees)))
    assert contacts.replace_in_slices(tx, authors, listed, NOW)


def work_off(db: Database) -> None:
    """Do what is left of lists."""
    is_work = True
    while is_work:
        with db.write() as tx:
            is_work = contacts.work_off(tx, Authors(), NOW)


def step(db: Database, *, most: int = MOST_CHANGES) -> bool:
    """Do the next step of the sweeper; return False if there is none."""
    with db.read() as tx:
        steps = shares.next_steps(tx, NOW)
    if not steps:
        return False
    with db.write() as tx:
        before = tx.total_changes()
        shares.take_step(tx, steps[0], NOW)
        assert tx.total_changes() - before <= most
        check_wanted(tx)
    return True


def wanted(db: Database) -> set[int]:
    with db.read() as tx:
        changes = changes_since(tx, 0).authors
        return {int.from_bytes(change.public_key) for change in changes if change.wanted}


@pytest.fixture
def crowd(db: Database) -> range:
    """The followees of user 1."""
    followees = range(10, 10 + MANY)
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        follow(tx, 1, followees)
    work_off(db)
    assert wanted(db) == {1, *followees}
    return followees


@pytest.mark.parametrize("way", ["remove", "block"])
def test_no_transaction_changes_more_than_a_slice_when_a_user_leaves(db: Database, crowd: range, way: str) -> None:
    end = users.remove if way == "remove" else users.block
    with db.write() as tx:
        before = tx.total_changes()
        assert end(tx, key(1), NOW)
        assert tx.total_changes() - before <= MOST_CHANGES
        check_wanted(tx)
        assert users.count(tx) == 0
        assert shares.waiting(tx) == shares.NONE_WAITING
    assert wanted(db) < {*crowd}
    steps = 0
    while step(db):
        steps += 1
    assert steps == -(-MANY // contact_slices.SIZE) - 1
    assert wanted(db) == set()
    with db.read() as tx:
        assert contacts.counts(tx, key(1)).followees == MANY


def test_few_followees_are_released_at_once(db: Database) -> None:
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        follow(tx, 1, range(10, 200))
        users.remove(tx, key(1), NOW)
    assert wanted(db) == set()
    assert not step(db)


def test_what_another_follows_stays_wanted(db: Database, crowd: range) -> None:
    with db.write() as tx:
        users.register(tx, key(2), NOW)
        follow(tx, 2, crowd[-9:])
        users.remove(tx, key(1), NOW)
    while step(db):
        pass
    assert wanted(db) == {2, *crowd[-9:]}


def test_one_who_comes_back_before_the_end_has_all_again_in_slices(db: Database, crowd: range) -> None:
    with db.write() as tx:
        users.remove(tx, key(1), NOW)
    assert step(db)
    with db.write() as tx:
        before = tx.total_changes()
        assert users.register(tx, key(1), NOW)
        assert tx.total_changes() - before <= MOST_CHANGES
        check_wanted(tx)
    work_off(db)
    assert wanted(db) == {1, *crowd}
    assert not step(db)


def test_step_that_was_planned_before_a_return_is_not_taken(db: Database, crowd: range) -> None:
    with db.write() as tx:
        users.remove(tx, key(1), NOW)
    with db.read() as tx:
        steps = shares.next_steps(tx, NOW)
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        assert [shares.take_step(tx, each, NOW) for each in steps] == [0]
        check_wanted(tx)
    work_off(db)
    assert wanted(db) == {1, *crowd}


def test_newer_list_of_one_who_leaves_releases_whom_it_leaves_out(db: Database, crowd: range) -> None:
    with db.write() as tx:
        users.remove(tx, key(1), NOW)
        follow(tx, 1, [*crowd[:5], 9_000], at=2)
        check_wanted(tx)
    work_off(db)
    with db.read() as tx:
        check_wanted(tx)
    while step(db):
        pass
    assert wanted(db) == set()


def test_list_taken_back_by_one_who_leaves_is_gone_in_slices(db: Database, crowd: range) -> None:
    """As by a request to vanish, which does both."""
    with db.write() as tx:
        before = tx.total_changes()
        authors = Authors()
        contacts.retract(tx, authors, authors.intern(tx, key(1)), set(), 5, NOW)
        users.remove(tx, key(1), NOW)
        assert tx.total_changes() - before <= 2 * MOST_CHANGES
        check_wanted(tx)
    assert step(db)
    work_off(db)
    while step(db):
        pass
    assert wanted(db) == set()
    with db.read() as tx:
        assert contacts.counts(tx, key(1)).followees == 0


class Killed(Exception):
    """Thrown inside a transaction, in the place of a process that dies there."""


@pytest.mark.parametrize("seed", seeds(10))
def test_whatever_comes_between_steps_the_end_is_the_same(
    db: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users leave and come back, lists change, and processes die in the middle of a step."""
    monkeypatch.setattr(contact_slices, "SIZE", 3)
    monkeypatch.setattr(shares, "EDGES_PER_STEP", 2)
    rng = random.Random(seed)
    lists, registered = dict[int, Sequence[int]](), set[int]()
    with db.write() as tx:
        shares.set_bound(tx, 1_000)
    for at in range(150):
        person = rng.randrange(4)
        with db.write() as tx:
            match rng.randrange(8):
                case 0 | 1:
                    lists[person] = rng.sample(range(40), rng.choice((0, 2, 10, 30)))
                    follow(tx, person, lists[person], at=at)
                case 2:
                    users.register(tx, key(person), NOW)
                    registered.add(person)
                case 3 | 4:
                    users.remove(tx, key(person), NOW)
                    registered.discard(person)
                case 5:
                    contacts.work_off(tx, Authors(), NOW)
                case _:
                    for each in shares.next_steps(tx, NOW)[:1]:
                        shares.take_step(tx, each, NOW)
            check_wanted(tx)
        with pytest.raises(Killed), db.write() as tx:  # noqa: PT012  (it must come after the step)
            for each in shares.next_steps(tx, NOW)[:1]:
                shares.take_step(tx, each, NOW)
            raise Killed
        with db.read() as tx:
            check_wanted(tx)
    work_off(db)
    while step(db):
        pass
    with db.read() as tx:
        check_wanted(tx)
    assert wanted(db) == registered.union(*(lists[each] for each in registered if each in lists))
