"""Who named which relay lately, so that saying it again costs nothing."""

from typing import Final


class RecentlyNamed:
    """Spares the database what the same author has said of the same relay a moment ago."""

    _MOST: Final = 50_000

    def __init__(self) -> None:
        self._said: set[tuple[str, int, bool]] = set()

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
