"""Where authors write and read, against a naive model under random lists, deletions and changes of who is wanted."""

import random
from collections.abc import Iterable

import pytest

from pipeline.store import relay_lists, users
from pipeline.store.authors import Authors
from pipeline.store.database import Database, Tx
from pipeline.store.relay_lists import Listed, RelayList
from pipeline.store.wanted_authors import latest_generation
from tests.support.seeds import seeds

NOW = 1_700_000_000
USERS = [number.to_bytes(32) for number in range(8)]


class Reader:
    """Somebody who follows the changes, as crawlers do."""

    def __init__(self) -> None:
        self.change = self.generation = 0
        self.known: dict[bytes, Listed] = {}

    def follow(self, db: Database) -> set[bytes]:
        """Catch up; returns of whom there was anything to tell."""
        with db.read() as tx:
            told = list(relay_lists.changed_since(tx, self.change, self.generation))
            self.change, self.generation = relay_lists.latest(tx), latest_generation(tx)
        self.known |= {each.public_key: each for each in told}
        return {each.public_key for each in told}


def put(db: Database, user: bytes, created_at: int, *, writes: Iterable[int] = (), reads: Iterable[int] = (),
        event_id: bytes = bytes(32)) -> bool:  # fmt: skip
    with db.write() as tx:
        return relay_lists.replace(tx, RelayList(number(tx, user), event_id, created_at, tuple(writes), tuple(reads)))


def number(tx: Tx, user: bytes) -> int:
    return Authors().intern(tx, user)


def register(db: Database, user: bytes) -> None:
    with db.write() as tx:
        users.register(tx, user, NOW * 1000)


def test_the_newest_list_counts_and_of_one_second_the_lowest_id(db: Database) -> None:
    reader, (user, *_) = Reader(), USERS
    register(db, user)
    assert put(db, user, NOW, writes=[1, 2], reads=[2], event_id=b"\5" * 32)
    assert not put(db, user, NOW - 1, writes=[3])
    assert not put(db, user, NOW, writes=[3], event_id=b"\6" * 32)
    assert not put(db, user, NOW, writes=[3], event_id=b"\5" * 32)
    reader.follow(db)
    assert reader.known == {user: Listed(user, (1, 2), (2,))}
    assert put(db, user, NOW, writes=[4], event_id=b"\4" * 32)
    reader.follow(db)
    assert reader.known == {user: Listed(user, (4,), ())}


def test_a_list_that_says_the_same_again_is_nothing_to_tell(db: Database) -> None:
    reader, (user, *_) = Reader(), USERS
    register(db, user)
    put(db, user, NOW, writes=[1])
    reader.follow(db)
    assert put(db, user, NOW + 1, writes=[1])
    assert reader.follow(db) == set()
    assert not put(db, user, NOW, writes=[2])


def test_a_list_known_before_its_author_is_wanted_is_told_then(db: Database) -> None:
    reader, (user, *_) = Reader(), USERS
    put(db, user, NOW, writes=[1])
    assert reader.follow(db) == set()
    register(db, user)
    assert reader.follow(db) == {user}
    with db.write() as tx:
        users.remove(tx, user, NOW * 1000)
    reader.follow(db)
    assert reader.known == {user: Listed(user, (), ())}


@pytest.mark.parametrize("seed", seeds(20))
def test_whoever_follows_the_changes_knows_what_is_so(db: Database, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    model: dict[bytes, tuple[int, bytes, tuple[int, ...], tuple[int, ...]]] = {}
    wanted: set[bytes] = set()
    reader = Reader()
    for _ in range(60):
        user = rng.choice(USERS)
        match rng.randrange(5):
            case 0 | 1:
                at, event_id = NOW + rng.randrange(5), rng.randbytes(1) * 32
                writes, reads = (tuple(rng.sample(range(1, 6), rng.randrange(3))) for _ in range(2))
                newer = user not in model or (-at, event_id) < (-model[user][0], model[user][1])
                assert put(db, user, at, writes=writes, reads=reads, event_id=event_id) == newer
                if newer:
                    model[user] = (at, event_id, writes, reads)
            case 2:
                known = model.get(user, (NOW, bytes(32), (), ()))
                ids = {known[1]} if rng.random() < 0.5 else {rng.randbytes(32)}
                until = rng.choice([None, NOW + rng.randrange(5)])
                with db.write() as tx:
                    relay_lists.retract(tx, number(tx, user), ids, until)
                if user in model and (known[1] in ids or (until is not None and known[0] <= until)):
                    model[user] = (*known[:2], (), ())
            case 3:
                with db.write() as tx:
                    (users.remove if user in wanted else users.register)(tx, user, NOW * 1000)
                wanted ^= {user}
            case _:
                reader.follow(db)
                assert reader.follow(db) == set()
                told = {each.public_key: each[1:] for each in reader.known.values() if any(each[1:])}
                assert told == {each: model[each][2:] for each in wanted & model.keys() if any(model[each][2:])}
