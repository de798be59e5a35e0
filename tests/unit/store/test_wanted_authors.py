"""Contacts, registered users and wanted authors against a naive model, under random lists and registrations."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from pipeline.store import contacts, users, wanted_authors
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList, Counts
from pipeline.store.database import Database, Row, Tx
from pipeline.store.wanted_authors import Change, WantedChanges
from tests.support.seeds import seeds
from tests.support.wanted_changes import changes_since

NOW = 1_700_000_000_000


def key(number: int) -> bytes:
    return number.to_bytes(32)


def list_of(tx: Tx, follower: int, followees: Iterable[int], *, at: int, event_id: bytes = bytes(32)) -> ContactList:
    authors = Authors()
    numbers = frozenset(authors.intern_all(tx, map(key, followees)))
    return ContactList(authors.intern(tx, key(follower)), event_id, at, numbers)


@dataclass
class Model:
    """What should hold, said as plainly as can be: the newest list of each author, and who is registered."""

    lists: dict[int, tuple[int, bytes, frozenset[int]]] = field(default_factory=dict)
    registered: set[int] = field(default_factory=set)

    def replace(self, follower: int, at: int, event_id: bytes, followees: frozenset[int]) -> bool:
        known = self.lists.get(follower)
        if known is not None and (-at, event_id) >= (-known[0], known[1]):
            return False
        self.lists[follower] = (at, event_id, followees)
        return True

    def followees(self, follower: int) -> frozenset[int]:
        return self.lists.get(follower, (0, b"", frozenset[int]()))[2]

    def wanted(self) -> set[int]:
        return self.registered.union(*(self.followees(user) for user in self.registered))

    def refs(self, author: int) -> int:
        followers = sum(author in self.followees(user) for user in self.registered - {author})
        return followers + (author in self.registered)

    def counts(self, author: int) -> Counts:
        followers = sum(author in followees for _, _, followees in self.lists.values())
        return Counts(followers, len(self.followees(author)))


class Reader:
    """Somebody who follows the changes, as crawlers and the saver do."""

    def __init__(self) -> None:
        self.generation = 0
        self.authors: dict[bytes, Change] = {}
        self.registered: dict[bytes, Change] = {}

    def read(self, tx: Tx) -> WantedChanges:
        changes = changes_since(tx, self.generation)
        for state, changed in ((self.authors, changes.authors), (self.registered, changes.registered)):
            for change in changed:
                assert self.generation < change.generation <= changes.generation
                if change.wanted:
                    state[change.public_key] = change
                else:
                    state.pop(change.public_key, None)
        self.generation = changes.generation
        return changes


class Crash(Exception):
    """Thrown inside a transaction, in the place of a process that dies there."""


class Machine:
    """Does random steps to the store and to the model, and compares them after each."""

    PEOPLE = 24

    def __init__(self, db: Database, rng: random.Random) -> None:
        self.db, self.rng, self.now = db, rng, NOW
        self.model = Model()
        self.often, self.seldom = Reader(), Reader()
        self.since: dict[bytes, int] = {}
        self.replaced = self.refused = 0

    def run(self, steps: int) -> None:
        for step in range(steps):
            self.now += self.rng.randrange(1, 5_000)
            with self.db.write() as tx:
                self.step(tx, self.model)
            if self.rng.random() < 0.2:
                self.crash()
            with self.db.read() as tx:
                self.compare(tx)
                if step % 17 == 0:
                    self.compare_reader(tx, self.seldom)

    def step(self, tx: Tx, model: Model) -> None:
        person = self.rng.randrange(self.PEOPLE)
        action = self.rng.random()
        if action < 0.55:
            self.step_list(tx, model, person)
        elif action < 0.8:
            assert users.register(tx, key(person), self.now) == (person not in model.registered)
            model.registered.add(person)
        else:
            assert users.remove(tx, key(person), self.now) == (person in model.registered)
            model.registered.discard(person)

    def step_list(self, tx: Tx, model: Model, person: int) -> None:
        """Few distinct times and ids, so that ties and lists out of order are common; self-follows are, too."""
        at, event_id = self.rng.randrange(1, 30), bytes([self.rng.randrange(4)]) * 32
        followees = frozenset(self.rng.sample(range(self.PEOPLE), self.rng.choice((0, 1, 3, 12))))
        taken = contacts.replace(tx, list_of(tx, person, followees, at=at, event_id=event_id), self.now)
        assert taken == model.replace(person, at, event_id, followees)
        if taken:
            self.replaced += 1
        else:
            self.refused += 1

    def crash(self) -> None:
        """Steps of a transaction that is never committed."""
        throwaway = Model(dict(self.model.lists), set(self.model.registered))
        with pytest.raises(Crash), self.db.write() as tx:  # noqa: PT012  (it must come after the steps)
            for _ in range(3):
                self.step(tx, throwaway)
            raise Crash

    def compare(self, tx: Tx) -> None:
        model = self.model
        rows = "SELECT public_key, refs FROM wanted JOIN authors ON authors.id = wanted.author WHERE refs <> 0"
        refs: list[Row] = tx.execute(rows).fetchall()
        assert dict(refs) == {key(author): model.refs(author) for author in model.wanted()}
        assert users.count(tx) == len(model.registered)
        assert {user.public_key for user in users.registered(tx)} == set(map(key, model.registered))
        for person in self.rng.sample(range(self.PEOPLE), 4):
            assert contacts.counts(tx, key(person)) == model.counts(person)
        self.compare_reader(tx, self.often)

    def compare_reader(self, tx: Tx, reader: Reader) -> None:
        """Following the changes comes to the same as reading all; generations never go back."""
        before, known = reader.generation, dict(reader.authors)
        reader.read(tx)
        whole = Reader()
        whole.read(tx)
        assert before <= reader.generation == whole.generation == wanted_authors.latest_generation(tx)
        assert reader.authors == whole.authors
        assert reader.registered == whole.registered
        assert set(whole.authors) == set(map(key, self.model.wanted()))
        assert set(whole.registered) == set(map(key, self.model.registered))
        for public_key, change in reader.authors.items():
            if public_key in known and known[public_key].generation == change.generation:
                assert known[public_key] == change, "a change under an old number would be missed"


@pytest.mark.parametrize("seed", seeds(5))
def test_wanted_is_exactly_the_registered_and_whom_they_follow(db: Database, seed: int) -> None:
    print(f"seed {seed}")
    machine = Machine(db, random.Random(seed))
    machine.run(150)
    assert min(machine.replaced, machine.refused) > 10


def wanted_keys(tx: Tx) -> set[bytes]:
    return {change.public_key for change in changes_since(tx, 0).authors if change.wanted}


def test_the_newest_list_wins_and_at_equal_time_the_lowest_id(db: Database) -> None:
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        for at, event_id, followees, taken in (
            (100, b"b" * 32, [2], True),
            (99, b"a" * 32, [3], False),
            (100, b"c" * 32, [4], False),
            (100, b"b" * 32, [5], False),
            (100, b"a" * 32, [6], True),
            (101, b"z" * 32, [], True),
            (100, b"a" * 32, [6], False),
        ):
            assert contacts.replace(tx, list_of(tx, 1, followees, at=at, event_id=event_id), NOW) is taken
        assert wanted_keys(tx) == {key(1)}


def test_an_empty_list_still_keeps_an_older_one_out(db: Database) -> None:
    """The list's time is kept apart from the contacts, of which there are none."""
    with db.write() as tx:
        assert contacts.replace(tx, list_of(tx, 1, [], at=100), NOW)
        assert not contacts.replace(tx, list_of(tx, 1, [2, 3], at=99), NOW)
        assert contacts.counts(tx, key(1)) == Counts(0, 0)
        assert contacts.counts(tx, b"never met" + bytes(23)) == Counts(0, 0)


def test_following_oneself_neither_adds_a_reason_nor_takes_one_away(db: Database) -> None:
    with db.write() as tx:
        contacts.replace(tx, list_of(tx, 1, [1, 2], at=1), NOW)
        users.register(tx, key(1), NOW)
        contacts.replace(tx, list_of(tx, 1, [2], at=2), NOW)
        assert wanted_keys(tx) == {key(1), key(2)}
        contacts.replace(tx, list_of(tx, 1, [1], at=3), NOW)
        assert wanted_keys(tx) == {key(1)}
        users.remove(tx, key(1), NOW)
        assert wanted_keys(tx) == set()


def test_a_list_that_was_known_before_the_registration_counts_from_then_on(db: Database) -> None:
    with db.write() as tx:
        contacts.replace(tx, list_of(tx, 1, range(2, 300), at=1), NOW)
        assert wanted_keys(tx) == set()
        users.register(tx, key(1), NOW + 5)
        changes = changes_since(tx, 0)
    assert {change.public_key for change in changes.authors} == set(map(key, range(1, 300)))
    assert {change.since for change in changes.authors} == {NOW + 5}


def test_registering_again_only_renews_the_time(db: Database) -> None:
    with db.write() as tx:
        assert users.register(tx, key(1), NOW)
        before = changes_since(tx, 0)
        assert not users.register(tx, key(1), NOW + 1)
        assert changes_since(tx, 0) == before
        (user,) = users.registered(tx)
        assert (user.public_key, user.created_at, user.updated_at) == (key(1), NOW, NOW + 1)


def test_one_who_comes_back_is_a_new_change_wanted_since_then(db: Database) -> None:
    """Otherwise nobody would look back for what was missed meanwhile."""
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        first = wanted_authors.latest_generation(tx)
        users.remove(tx, key(1), NOW + 1)
        gone = changes_since(tx, first)
        assert [(change.public_key, change.wanted) for change in gone.authors] == [(key(1), False)]
        assert [(change.public_key, change.wanted) for change in gone.registered] == [(key(1), False)]
        assert users.count(tx) == 0
        users.register(tx, key(1), NOW + 2)
        (author,), (user,) = (
            changes_since(tx, gone.generation).authors,
            changes_since(tx, 0).registered,
        )
    assert (author.since, author.wanted) == (user.since, user.wanted) == (NOW + 2, True)


def test_another_reason_for_the_same_author_is_no_change(db: Database) -> None:
    with db.write() as tx:
        for user in (1, 2):
            users.register(tx, key(user), NOW)
        contacts.replace(tx, list_of(tx, 1, [9], at=1), NOW)
        before = wanted_authors.latest_generation(tx)
        contacts.replace(tx, list_of(tx, 2, [9], at=1), NOW + 1)
        contacts.replace(tx, list_of(tx, 1, [], at=2), NOW + 2)
        assert changes_since(tx, before).authors == ()
        assert key(9) in wanted_keys(tx)


def test_an_unchanged_list_draws_no_generation(db: Database) -> None:
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        contacts.replace(tx, list_of(tx, 1, [2, 3], at=1), NOW)
        before = wanted_authors.latest_generation(tx)
        assert contacts.replace(tx, list_of(tx, 1, [3, 2], at=2), NOW)
        assert wanted_authors.latest_generation(tx) == before


def test_numbers_of_a_transaction_that_failed_are_not_remembered(db: Database) -> None:
    authors = Authors()
    with db.write() as tx:
        known = authors.intern(tx, key(1))
    with pytest.raises(Crash), db.write() as tx:  # noqa: PT012  (it must come after the step)
        authors.intern(tx, key(2))
        raise Crash
    authors.forget()
    with db.write() as tx:
        assert authors.intern(tx, key(3)) == known + 1
        assert authors.intern(tx, key(2)) == known + 2
        assert authors.intern_all(tx, [key(1), key(1), key(3)]) == [known, known, known + 1]


def test_new_followees_are_wanted_since_their_list_within_the_bound(db: Database) -> None:
    day = 86_400_000
    with db.write() as tx:
        users.register(tx, key(1), NOW)

        def since(followee: int, written_ago: int, most_ago: int) -> int:
            listed = list_of(tx, 1, [followee], at=(NOW - written_ago) // 1000, event_id=bytes([followee]) * 32)
            contacts.retract(tx, Authors(), listed.follower, {bytes([followee - 1]) * 32}, None, NOW)
            tx.execute("DELETE FROM contact_lists")
            assert contacts.replace(tx, listed, NOW, most_ago=most_ago)
            changes = changes_since(tx, 0).authors
            return next(NOW - each.since for each in changes if each.public_key == key(followee))

        assert since(2, 3 * day, 6 * day) == 3 * day
        assert since(3, 90 * day, 6 * day) == 6 * day
        assert since(4, 3 * day, 0) == 0
        assert since(5, -3 * day, 6 * day) == 0, "a list of a time to come was written now"


def tiers(tx: Tx) -> dict[int, int]:
    found = changes_since(tx, 0).authors
    return {int.from_bytes(each.public_key): each.tier for each in found if each.wanted}


def follow(tx: Tx, user: int, followees: Iterable[int], at: int) -> None:
    authors = Authors()
    numbers = [authors.intern(tx, key(each)) for each in followees]
    contacts.replace(tx, ContactList(authors.intern(tx, key(user)), bytes(32), at, numbers), NOW)


@pytest.fixture
def small_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted_authors, "TIER_SIZES", (4, 6))
    monkeypatch.setattr(wanted_authors, "NEAR", 10)


@pytest.mark.usefixtures("small_tiers")
def test_first_authors_are_first_tier_all_but_a_lists_newest_are_last(db: Database) -> None:
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        follow(tx, 1, range(100, 125), 5)
        found = tiers(tx)
    by_tier = [sorted(author for author in found if found[author] == tier) for tier in range(4)]
    assert by_tier == [[1, 122, 123, 124], [116, 117, 118, 119, 120, 121], [115], list(range(100, 115))]


@pytest.mark.usefixtures("small_tiers")
def test_long_list_displaces_neither_wanted_authors_nor_later_users(db: Database) -> None:
    with db.write() as tx:
        for user in (1, 2, 3):
            users.register(tx, key(user), NOW)
        follow(tx, 1, [50], 5)
        before = tiers(tx)
        follow(tx, 2, range(100, 400), 5)
        follow(tx, 3, [60, 61], 5)
        found = tiers(tx)
    assert {author: found[author] for author in before} == before
    assert found[60] == found[61] == 2
    assert sum(tier == 3 for tier in found.values()) == 290


@pytest.mark.usefixtures("small_tiers")
def test_author_promoted_from_the_last_tier_gets_a_new_generation(db: Database) -> None:
    with db.write() as tx:
        for user in (1, 2):
            users.register(tx, key(user), NOW)
        follow(tx, 1, range(100, 140), 5)
        before = changes_since(tx, 0)
        (old,) = (each for each in before.authors if each.public_key == key(100))
        follow(tx, 2, [100, 139], 6)
        changed = changes_since(tx, before.generation).authors
    (new,) = changed
    assert (old.tier, new.tier) == (3, 2)
    assert (new.public_key, new.since) == (key(100), old.since)
    assert new.generation > before.generation


@pytest.mark.usefixtures("small_tiers")
def test_place_of_who_is_not_wanted_any_more_is_free(db: Database) -> None:
    with db.write() as tx:
        users.register(tx, key(1), NOW)
        follow(tx, 1, range(100, 103), 5)
        follow(tx, 1, [200, 201, 202], 6)
        assert set(tiers(tx).values()) == {0}
