"""Numbers for public keys."""

import apsw
import pytest

from pipeline.store import authors
from pipeline.store.authors import Authors
from pipeline.store.database import Database


def test_a_key_keeps_its_number_whoever_asks(db: Database) -> None:
    with db.write() as tx:
        first = Authors().intern(tx, b"a" * 32)
        assert Authors().intern(tx, b"a" * 32) == authors.find(tx, b"a" * 32) == first
        assert Authors().intern(tx, b"b" * 32) != first
        assert authors.find(tx, b"c" * 32) is None


def test_the_cache_is_bounded_and_what_it_dropped_is_found_again(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authors, "CACHE_SIZE", 10)
    known = Authors()
    keys = [bytes([number]) * 32 for number in range(35)]
    with db.write() as tx:
        numbers = [known.intern(tx, public_key) for public_key in keys]
        assert [known.intern(tx, public_key) for public_key in keys] == numbers
    assert len(set(numbers)) == 35
    assert len(known._known) <= 10


def test_what_is_no_key_is_refused(db: Database) -> None:
    with pytest.raises(apsw.ConstraintError), db.write() as tx:
        Authors().intern(tx, b"short")
