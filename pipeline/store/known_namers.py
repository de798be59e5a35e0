"""Who names which relay, remembered between two looks that ask for thousands of them."""

from collections.abc import Sequence
from typing import Final

from pipeline.store import relay_mentions
from pipeline.store.database import Tx
from pipeline.store.relay_candidates import RelayCandidate
from pipeline.store.relay_mentions import Mention

# Some 300 bytes each.
MAX_REMEMBERED: Final = 50_000
# Who is registered changes what a naming counts for; it is looked up again after this number of looks.
_USES: Final = 100


class KnownNamers:
    """The namers of relays, looked up where their number has changed. For one thread."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, bool, int, tuple[Mention, ...]]] = {}

    def of(self, tx: Tx, candidate: RelayCandidate) -> Sequence[Mention]:
        """Return who names a relay."""
        known = self._known.get(candidate.relay)
        if known is not None:
            namers, by_user, uses, found = known
            if (namers, by_user) == (candidate.namers, candidate.named_by_user) and uses < _USES:
                self._known[candidate.relay] = (namers, by_user, uses + 1, found)
                return found
        found = tuple(relay_mentions.mentions_of(tx, candidate.relay))
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[candidate.relay] = (candidate.namers, candidate.named_by_user, 0, found)
        return found
