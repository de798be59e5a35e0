"""Finding what a relay has of one query and we do not, by comparing sets (NIP-77), and fetching that by its ids.

`Reconciler` goes through spans of time, the newest first, cut in two wherever the relay or we find too much to compare
at once. A span is settled once the reconciliation has come to its end and every id that only the relay has was fetched,
or asked for and not given: then it has no such event, whatever it said. It does no I/O and knows no clock.

Some relays compare only the newest events of a filter, and do not say so: all that we hold below looks as if they had
none of it, and what only they have there stays hidden. So where the oldest items are ours alone, or the number compared
is round, as bounds are, a span is settled only above the oldest item that both have.
"""

from typing import Final

from pipeline.crawl.sync.query import Query
from pipeline.nostr.filter import Filter
from pipeline.nostr.negentropy import DEFAULT_FRAME_LIMIT, ItemSet, NegentropyFault, Reconciliation
from pipeline.relay.limits import MAX_FRAME_BYTES, RelayLimits
from pipeline.relay.negentropy_session import NegOutcome

# Ids in one filter, which fit the cap of any relay in wide use, and in one request, some megabyte of events.
IDS_PER_FILTER: Final = 250
IDS_PER_PAGE: Final = 1_500
# So few come even from a relay with the smallest cap; fewer than this were not worth the request.
LEAST_PAGE: Final = 5
# Ids to fetch from one span, some 2 MB; where there are more, half a span is the better question.
MAX_NEED: Final = 20_000
# Reconciliations made of one sweep until paging is the quicker way.
MAX_RECONCILIATIONS: Final = 64
# Reconciliations that the relay forgot on the way until it is let be.
MAX_DROPPED: Final = 3

# No relay compares fewer; and bounds are multiples of this.
_LEAST_COMPARED: Final = 100
_ROUND: Final = 50

# Items kept back from a relay that has yet to prove itself.
WITHHELD: Final = 16

# What a message has around its payload.
_ENVELOPE: Final = 100

Span = tuple[int, int]


class Reconciler:
    """Compares `items`, which we have of `query`, from `low` to `high` (seconds, both included)."""

    __slots__ = (
        "_compared",
        "_dropped",
        "_frame",
        "_items",
        "_need",
        "_page",
        "_query",
        "_reconciliation",
        "_settled_from",
        "_size",
        "_spans",
        "_withheld",
        "is_proven",
        "kinds",
        "needed",
        "reconciliations",
    )  # fmt: skip

    def __init__(
        self, query: Query, items: ItemSet, low: int, high: int, *,
        frame: int = MAX_FRAME_BYTES, is_proven: bool = False,
    ) -> None:  # fmt: skip
        """`frame`: how many bytes may be said at once; `is_proven`: the relay was seen to compare rightly."""
        self.is_proven = is_proven
        self.reconciliations = 0
        self.needed = 0
        self._query = query
        self.kinds: frozenset[int] | None = None
        """Some of those of the query, if not all of them."""
        self._items = items
        self._spans: list[Span] = [(low, high)] if low <= high else []
        self._reconciliation: Reconciliation | None = None
        self._compared = items
        self._settled_from = low
        # Items that we have and keep back, to see whether the relay names them.
        self._withheld: set[bytes] = set()
        self._need: list[bytes] | None = None
        self._dropped = 0
        self._page: list[bytes] = []
        # Hexadecimal takes two bytes each.
        self._frame = min(DEFAULT_FRAME_LIMIT, frame // 2 - _ENVELOPE)
        self._size = IDS_PER_PAGE

    @property
    def is_done(self) -> bool:
        """Whether every span is settled."""
        return not self._spans

    @property
    def is_fetching(self) -> bool:
        """Whether ids are to be asked for next, and not compared."""
        return self._need is not None

    def opening(self) -> tuple[Filter, bytes]:
        """The filter and the first message of the reconciliation to begin or restart now."""
        low, high = self._spans[-1]
        self.reconciliations += 1
        items = self._items.between(low, high)
        self._withheld = set()
        if not self.is_proven:
            items, self._withheld = items.holding_back(WITHHELD)
        self._compared = items
        self._reconciliation = Reconciliation(items, frame_limit=self._frame, max_need=MAX_NEED)
        return self._query.filter(kinds=self.kinds, since=low, until=high), self._reconciliation.open()

    def answered(self, payload: bytes) -> bytes | None:
        """Take the relay's message; returns the next one, `None` once the reconciliation is at its end.

        Raises `InvalidNegentropy` for what cannot be gone on with; `ended` tells whether smaller spans may help.
        """
        assert self._reconciliation is not None, "opened before it is answered"
        message = self._reconciliation.receive(payload)
        if message is None:
            self.is_proven = self.is_proven or not self._withheld.isdisjoint(self._reconciliation.need)
            self._need = sorted(self._reconciliation.need - self._withheld)
            self.needed += len(self._need)
            self._settled_from = self._compared_from(self._reconciliation)
            self._reconciliation = None
        return message

    def ended(self, why: NegOutcome | NegentropyFault) -> bool:
        """The reconciliation broke off: cut the span in two if that may help; returns whether it is worth going on."""
        self._reconciliation = None
        if why is NegOutcome.DROPPED:
            self._dropped += 1
            return self._dropped <= MAX_DROPPED
        low, high = self._spans[-1]
        too_much = why in (NegOutcome.TOO_MANY, NegentropyFault.IDS, NegentropyFault.ROUNDS, NegentropyFault.LENGTH)
        if not too_much or low == high or self.reconciliations >= MAX_RECONCILIATIONS:
            return False
        middle = (low + high) // 2
        self._spans[-1:] = [(low, middle), (middle + 1, high)]
        return True

    def page(self, limits: RelayLimits) -> list[Filter]:
        """The ids to ask for now, none if there are none left to be had of this span.

        Several filters in one request: each has a cap of its own at the relays that compare sets.
        """
        assert self._need is not None, "compared before it is fetched"
        each = min(IDS_PER_FILTER, limits.max_ids, limits.members_that_fit, limits.page_limit)
        most = min(self._size, each * limits.max_filters, limits.members_that_fit)
        self._page = self._need[-most:]
        parts = [self._page[first : first + each] for first in range(0, len(self._page), each)]
        return [Filter(ids=frozenset(part), limit=len(part)) for part in parts]

    def refused(self) -> bool:
        """Such a page is too much for the relay: ask for half as many; returns whether fewer can be asked for."""
        is_least = self._size <= LEAST_PAGE
        self._size = max(min(self._size, len(self._page)) // 2, LEAST_PAGE)
        return not is_least

    def take(self, came: frozenset[bytes]) -> None:
        """A page came to its EOSE with these of the ids; the others are asked for again unless none came at all."""
        assert self._need is not None, "compared before it is fetched"
        self.is_proven = self.is_proven or bool(came)
        del self._need[-len(self._page) :]
        left = [event_id for event_id in self._page if event_id not in came]
        if came and left:
            self._need += left
            # A cap below the number asked for, or some events gone: it makes no difference to what is asked next.
            self._size = max(len(came), LEAST_PAGE)

    def settle(self) -> Span:
        """The newest span is had; returns what of it the relay surely compared, which may be nothing."""
        self._need = None
        _, high = self._spans.pop()
        return self._settled_from, high

    def _compared_from(self, over: Reconciliation) -> int:
        """Return the second from which on the relay surely compared all that it has."""
        low, high = self._spans[-1]
        items = self._compared
        number = len(items) - len(over.have) + len(over.need)
        if number < _LEAST_COMPARED:
            return low
        first = next((index for index in range(len(items)) if items.id(index) not in over.have), len(items))
        if first == 0 and number % _ROUND:
            return low
        # Its second may be cut off in the middle.
        return items.time(first) + 1 if first < len(items) else high + 1

    def interrupted(self) -> None:
        """The connection is lost: what was being compared is compared anew."""
        self._reconciliation = None
