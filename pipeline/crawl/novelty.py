"""What relays are worth for the events that they were the first to bring. Pure; times are monotonic seconds.

Anyone makes keys and events for nothing, so that an event counts in full only if its author is wanted: no stranger can
sign for them. Even those count in full only so many times an hour, since strangers register too.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

# Events of global kinds by authors whom no user follows.
OF_STRANGER: Final = 1 / 32
# Those that mention a user, by such authors: a little more, since some relays are for them alone.
OF_MENTION: Final = 1 / 8
FULL_CREDITS: Final = 30
"""Events of one author that count in full within `CREDITS_FOR_S`: more than people write."""
CREDITS_FOR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Brought:
    """What one relay brought first: its worth in events of wanted authors, and whether any of it was theirs."""

    worth: float
    is_productive: bool


@dataclass(slots=True)
class Novelty:
    """What relays brought first since it was last taken. For one thread."""

    _worth: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    _productive: set[int] = field(default_factory=set)
    _credits: Counter[bytes] = field(default_factory=Counter)
    _credits_until: float = 0.0

    def __bool__(self) -> bool:
        return bool(self._worth)

    def note_wanted(self, relay: int, author: bytes, now: float) -> None:
        """Note an event of a wanted author."""
        if now >= self._credits_until:
            self._credits.clear()
            self._credits_until = now + CREDITS_FOR_S
        self._credits[author] += 1
        if self._credits[author] > FULL_CREDITS:
            self._worth[relay] += OF_STRANGER
            return
        self._worth[relay] += 1
        self._productive.add(relay)

    def note_other(self, relay: int, *, is_mention: bool) -> None:
        """Note an event that is wanted for its kind, or for whom it mentions."""
        self._worth[relay] += OF_MENTION if is_mention else OF_STRANGER

    def take(self) -> dict[int, Brought]:
        """Return by relay what was brought, and begin again."""
        taken = {relay: Brought(worth, relay in self._productive) for relay, worth in self._worth.items()}
        self._worth.clear()
        self._productive.clear()
        return taken
