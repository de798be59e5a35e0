"""Public keys and the numbers that stand for them in other tables."""

from collections.abc import Iterable

from pipeline.store.database import Tx

ADD = "INSERT INTO authors (public_key) VALUES (?) ON CONFLICT DO NOTHING RETURNING id, public_key"
FIND = "SELECT id, public_key FROM authors WHERE public_key = ?"
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
        return self.intern_all(tx, [public_key])[0] if number is None else number

    def intern_all(self, tx: Tx, public_keys: Iterable[bytes]) -> list[int]:
        """Return the numbers of several keys, in their order; a contact list has thousands."""
        keys = tuple(public_keys)
        numbers = {each: self._known.get(each) for each in keys}
        unknown = [each for each, number in numbers.items() if number is None]
        if unknown:
            found = {key: int(number) for number, key in tx.executemany(FIND, ((each,) for each in unknown))}
            added = ((each,) for each in unknown if each not in found)
            found.update((key, int(number)) for number, key in tx.executemany(ADD, added))
            if len(self._known) + len(found) > CACHE_SIZE:
                self._known.clear()
            self._known.update(found)
            numbers.update(found)
        return [number for each in keys if (number := numbers[each]) is not None]

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
