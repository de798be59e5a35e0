"""Public keys and the numbers that stand for them in other tables."""

from collections.abc import Iterable

from pipeline.store.database import Tx

ADD = "INSERT INTO authors (public_key) VALUES (?) ON CONFLICT DO NOTHING RETURNING id"
FIND = "SELECT id FROM authors WHERE public_key = ?"
# Numbers are given in turn and never taken back.
MET = "SELECT coalesce(max(id), 0) FROM authors"
# A full table of everybody ever met would not fit a small machine; what is evicted is looked up again.
CACHE_SIZE = 200_000


class Authors:
    """Numbers of public keys, with a bounded cache. Owned by one thread and one database connection."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def intern(self, tx: Tx, public_key: bytes) -> int:
        """Return the number of `public_key` (32 bytes), a new one if it has none. Call `forget` if `tx` rolls back."""
        number = self._known.get(public_key)
        if number is None:
            number = find(tx, public_key) or int(tx.execute(ADD, (public_key,)).get)
            if len(self._known) >= CACHE_SIZE:
                self._known.clear()
            self._known[public_key] = number
        return number

    def intern_all(self, tx: Tx, public_keys: Iterable[bytes]) -> set[int]:
        """Return the numbers of several keys."""
        return {self.intern(tx, public_key) for public_key in public_keys}

    def forget(self) -> None:
        """Drop the cache; needed after a rolled-back transaction, whose numbers were never given."""
        self._known.clear()


def find(tx: Tx, public_key: bytes) -> int | None:
    """Return the number of `public_key`, `None` if it was never met."""
    row = tx.execute(FIND, (public_key,)).fetchone()
    return None if row is None else int(row[0])


def met(tx: Tx) -> int:
    """Return how many keys have a number."""
    return int(tx.execute(MET).get)
