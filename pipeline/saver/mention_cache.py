"""Cache of recent mentions of relays, so that a repeated one costs no query."""

from typing import Final


class RecentMentions:
    """Recent mentions, and authors whose mentions are ignored for a while since they are too many."""

    _MOST: Final = 50_000
    _REST_MS: Final = 60_000
    """The sweeper makes room for an author who mentions too many within about a minute."""

    def __init__(self) -> None:
        self._recent: set[tuple[str, int, bool]] = set()
        self._resting: dict[int, int] = {}

    def is_resting(self, author: int, now: int) -> bool:
        """Return True if the author was refused recently, so that their mentions are not even looked up."""
        return now < self._resting.get(author, 0) <= now + self._REST_MS

    def rest(self, author: int, now: int) -> None:
        """Ignore the author's mentions for a while (`now`: ms): they are too many."""
        if len(self._resting) >= self._MOST:
            self._resting.clear()
        self._resting[author] = now + self._REST_MS

    def is_new(self, address: str, author: int, *, is_user: bool) -> bool:
        """Return True if the mention, in this spelling of `address`, is not recent; it is from now on."""
        mention = (address, author, is_user)
        if mention in self._recent:
            return False
        if len(self._recent) >= self._MOST:
            self._recent.clear()
        self._recent.add(mention)
        return True

    def discard(self, address: str, author: int, *, is_user: bool) -> None:
        """Remove a mention, since it was refused."""
        self._recent.discard((address, author, is_user))

    def forget(self) -> None:
        """Remove everything."""
        self._recent.clear()
        self._resting.clear()
