"""The subscriptions of one connection under their ids, and the messages that open and close them. Pure.

How a live subscription takes the place of another is told in `succession.py`: one that is followed is closed once its
successor is open. Times are monotonic seconds.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from pipeline.nostr.filter import Filter
from pipeline.nostr.message import encode_close, encode_req
from pipeline.relay.closes import SentCloses
from pipeline.relay.subscription import LIVE_PREFIX, PAGE_PREFIX, PendingAuth, Subscription
from pipeline.relay.succession import ClosedIds, Succession


class OpenSubscriptions:
    """What is asked for on one connection, oldest request first."""

    __slots__ = ("_by_id", "_closed", "_closes", "_largest_ended", "_last_id", "_requests", "_succession", "outgoing")

    def __init__(self) -> None:
        self.outgoing: deque[str] = deque()
        """Messages to be sent."""
        self._by_id: dict[str, Subscription] = {}
        self._last_id = self._requests = 0
        # The bytes of the largest request that was answered or refused, and is over.
        self._largest_ended = 0
        self._succession = Succession()
        self._closed = ClosedIds()
        self._closes = SentCloses()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Subscription]:
        """Iterate over all of them; they may be closed during that."""
        return iter(list(self._by_id.values()))

    def __contains__(self, subscription_id: str) -> bool:
        return subscription_id in self._by_id

    def get(self, subscription_id: str | None) -> Subscription | None:
        """Return what is open under this id."""
        return None if subscription_id is None else self._by_id.get(subscription_id)

    @property
    def asked(self) -> list[Subscription]:
        """Those that the relay has been asked for and may answer now, the newest last."""
        return [each for each in self if each.hold is None]

    @property
    def pages(self) -> list[Subscription]:
        """Those that ask for stored events."""
        return [each for each in self if each.is_page]

    def live(self, key: str) -> Subscription | None:
        """Return the live subscription of this key, the successor if there are two."""
        return next((each for each in self._live(key) if not self.is_retiring(each)), None)

    def _live(self, key: str) -> list[Subscription]:
        return [each for each in self if not each.is_page and each.key == key]

    @property
    def largest_answered(self) -> int:
        """The bytes of the largest request that was answered."""
        return max([self._largest_ended, *(each.size for each in self if each.answered)])

    @property
    def suspect(self) -> int:
        """The bytes of the largest request that waits for an answer, 0 if one as large was answered."""
        waiting = max((each.size for each in self.asked if not each.answered), default=0)
        return waiting if waiting > self.largest_answered else 0

    @property
    def cut_page(self) -> int:
        """How many events came of the largest page that is open: those that a loss would cut off."""
        return max((each.count for each in self.pages if not each.is_complete), default=0)

    # Opening.

    def new_id(self, prefix: str, max_length: int) -> str:
        """Return an id that is not in use, of `max_length` characters at most."""
        self._last_id += 1
        number = str(self._last_id)
        # A relay that takes short ids only gets the first ones again; few are open at once.
        return prefix + number[-max(1, max_length - len(prefix)) :]

    def open(
        self, subscription_id: str, key: str, filters: Sequence[Filter], now: float, *, patience: float = 1.0,
        watched: frozenset[bytes] = frozenset(), is_early: bool = False,
    ) -> Subscription:  # fmt: skip
        """Send a REQ; one that is open under this id is replaced."""
        # Removed first also when it is replaced, so that the newest request comes last.
        replaced = self._by_id.pop(subscription_id, None)
        self._closes.on_opened(subscription_id)
        request = encode_req(subscription_id, filters)
        self._requests += 1
        self._by_id[subscription_id] = opened = Subscription(
            subscription_id, key, tuple(filters), now, len(self._by_id) + 1, patience,
            watched=watched, size=len(request), number=self._requests, is_early=is_early,
            previous=replaced.previous or replaced if replaced is not None else None,
        )  # fmt: skip
        self.outgoing.append(request)
        return opened

    def ask_again(self, old: Subscription, now: float, max_length: int, *, is_early: bool) -> Subscription | None:
        """Ask for the same under another id; None if a successor asks for it already."""
        is_retiring = self.is_retiring(old)
        again = self.new_id(PAGE_PREFIX if old.is_page else LIVE_PREFIX, max_length)
        self._succession.replace(old.id, again)
        self.close(old, now)
        if is_retiring:
            return None
        opened = self.open(
            again, old.key, old.filters, now, patience=old.patience, watched=old.watched, is_early=is_early
        )
        opened.was_held = old.was_held
        return opened

    # Closing.

    def close(self, subscription: Subscription, now: float) -> None:
        """Send a CLOSE, unless the relay has ended it."""
        del self._by_id[subscription.id]
        if subscription.answered:
            self.note_answered(subscription)
        self._succession.on_closed(subscription.id)
        self._closed.on_closed(subscription.id, now)
        if subscription.hold is not PendingAuth.REFUSED and not subscription.is_over:
            self._send_close(subscription.id)

    def close_all(self, key: str, now: float, *, is_page: bool) -> None:
        """Close the page, or the live subscriptions, of this key."""
        for each in self:
            if each.is_page == is_page and each.key == key:
                self.close(each, now)

    def end(self, ended: Subscription, now: float) -> bool:
        """Take what the relay ended for closed; returns False if a successor has its place, so that nothing is lost."""
        del self._by_id[ended.id]
        if self.is_retiring(ended):
            self._succession.on_closed(ended.id)
            return False
        for old in self._succession.on_refused(ended.id):
            self.close(self._by_id[old], now)
        return True

    def end_by_us(self, refused: Subscription, now: float) -> bool:
        """Close what the relay refused without ending it; returns what `end` does."""
        self._send_close(refused.id)
        self._closed.on_closed(refused.id, now)
        return self.end(refused, now)

    def _send_close(self, subscription_id: str) -> None:
        self.outgoing.append(encode_close(subscription_id))
        self._closes.on_sent(subscription_id, self._requests)

    def on_dropped(self) -> None:
        """Note that the relay dropped some message, which may have been a CLOSE."""
        self._closes.on_dropped()

    def close_doubtful(self, most: int) -> None:
        """Send once more at most so many of the CLOSEs that the relay may have dropped."""
        for subscription_id in self._closes.take_doubtful(most):
            self._send_close(subscription_id)

    def restore(self, dropped: Subscription) -> bool:
        """Go back to what a request that the relay dropped was to replace; returns False if there is no such."""
        if dropped.previous is None:
            return False
        del self._by_id[dropped.id]
        self._by_id[dropped.id] = dropped.previous
        return True

    @property
    def at_relay(self) -> int:
        """How many may be open at the relay, with those of which the CLOSE may have been dropped."""
        return len(self) + self._closes.doubtful

    def on_end_of_answer(self, subscription: Subscription) -> None:
        """Note that the relay said all that it has to say to a request for now: it read what was sent before it."""
        self._closes.on_answered(subscription.number)
        subscription.previous = None

    def note_answered(self, subscription: Subscription) -> None:
        """Take note that the relay read a request, whatever it says to it."""
        self._largest_ended = max(self._largest_ended, subscription.size)

    def is_late(self, subscription_id: str, now: float) -> bool:
        """Return True if an event under this id comes long after it was closed."""
        return self._closed.is_late(subscription_id, now)

    # Succession.

    def is_retiring(self, subscription: Subscription) -> bool:
        """Return True if a successor has been asked for."""
        return subscription.id in self._succession

    def retire(self, old: Subscription, successor: Subscription, now: float) -> None:
        """Keep `old` until `successor` is open."""
        self._succession.retire(old.id, successor.id, now)

    def close_followed_by(self, subscription_id: str, now: float) -> None:
        """Close those whose place this one takes."""
        for old in self._succession.on_open(subscription_id):
            self.close(self._by_id[old], now)

    def close_overdue(self, now: float) -> None:
        """Close those whose successor has had time enough to be open."""
        for old in self._succession.overdue(now):
            self.close(self._by_id[old], now)

    @property
    def deadline(self) -> float | None:
        """When `close_overdue` will have something to do."""
        return self._succession.deadline
