"""Cache of who mentions which relay, since each choice of relays asks for thousands."""

from collections.abc import Sequence
from typing import Final

from pipeline.store import relay_mentions
from pipeline.store.database import Tx
from pipeline.store.relay_candidates import RelayCandidate
from pipeline.store.relay_mentions import Mention

# Some 300 bytes each.
MAX_REMEMBERED: Final = 50_000
# Registrations change what a mention counts; it is read again after this number of uses.
_USES: Final = 100


class KnownMentions:
    """Mentions of relays, read where their number has changed. For one thread."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, bool, int, tuple[Mention, ...]]] = {}

    def of(self, tx: Tx, candidate: RelayCandidate) -> Sequence[Mention]:
        """Return who mentions a relay."""
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
