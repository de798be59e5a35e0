"""Who named which relay lately, so that saying it again costs nothing."""

from typing import Final


class RecentlyNamed:
    """Spares the database what an author has said of a relay a moment ago, and what those say who say too much."""

    _MOST: Final = 50_000
    _REST_MS: Final = 60_000
    """The sweeper makes room for an author who names too many within a minute or so."""

    def __init__(self) -> None:
        self._said: set[tuple[str, int, bool]] = set()
        self._resting: dict[int, int] = {}

    def is_resting(self, author: int, now: int) -> bool:
        """Return True if the author was refused lately, so that what they name is not even looked up."""
        return now < self._resting.get(author, 0) <= now + self._REST_MS

    def rest(self, author: int, now: int) -> None:
        """Listen to the author no more for a while (`now`: ms): they name too many."""
        if len(self._resting) >= self._MOST:
            self._resting.clear()
        self._resting[author] = now + self._REST_MS

    def is_new(self, address: str, author: int, *, is_user: bool) -> bool:
        """Whether this was not said recently, `address` being written like this; it is from now on."""
        said = (address, author, is_user)
        if said in self._said:
            return False
        if len(self._said) >= self._MOST:
            self._said.clear()
        self._said.add(said)
        return True

    def discard(self, address: str, author: int, *, is_user: bool) -> None:
        """Forget that this was said, as it was refused."""
        self._said.discard((address, author, is_user))

    def forget(self) -> None:
        """Take nothing for said."""
        self._said.clear()
        self._resting.clear()
