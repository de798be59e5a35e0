"""What a relay's CLOSED and NOTICE mean for what is asked for on one connection. Pure; times are monotonic seconds.

What a text says is read in `refusals.py`, and what it teaches in `limit_inference.py`. A NOTICE names no subscription:
it is a refusal only where it shows whose; where it does not, those that stay unanswered may be meant (`doubts.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline.nostr.message import NoticeType, classify_notice
from pipeline.relay.authentication import AuthState
from pipeline.relay.doubts import Doubts
from pipeline.relay.limit_inference import after_refusal, meant, taken_for
from pipeline.relay.negentropy_session import NegFinished
from pipeline.relay.page_pace import PagePace
from pipeline.relay.refusals import Complaint, RelayRefusal, read
from pipeline.relay.requests import Requests
from pipeline.relay.session_auth import AuthWanted, SessionAuth
from pipeline.relay.subscription import LiveEnded, PageEnded, Subscription


class SessionRefusals:
    """The refusals of one connection: whom each is about, what it teaches, and what it ends."""

    __slots__ = ("_auth", "_pace", "_requests", "_subscriptions", "doubts")

    def __init__(self, requests: Requests, auth: SessionAuth, pace: PagePace) -> None:
        self._requests = requests
        self._subscriptions = requests.subscriptions
        self._auth = auth
        self._pace = pace
        self.doubts = Doubts()

    def on_closed(
        self, closed: Subscription, reason: str, prefix: str, now: float
    ) -> Iterator[PageEnded | LiveEnded | AuthWanted]:
        """End what the relay closed, or hold it until we have authenticated."""
        self._subscriptions.note_answered(closed)
        self._subscriptions.on_end_of_answer(closed)
        complaint = read(reason, prefix)
        if complaint.refusal is RelayRefusal.RATE_LIMITED:
            self._pace.on_limited(now)
        self._requests.on_answer(closed, now)
        if complaint.refusal is RelayRefusal.AUTH_REQUIRED and self._auth.holds_refused(closed, reason, now):
            yield from self._auth.answer_challenge()
            return
        refusal = self._refusal_of(closed, complaint.refusal, prefix)
        if not self._subscriptions.end(closed, now):
            return
        self.doubts.on_page_ended(closed.key)
        if (whole := self._auth.as_whole(closed)) is not None:
            self._pace.on_answered()
            yield whole
            return
        refusal = taken_for(replace(complaint, refusal=refusal), (closed,))
        self._learn(replace(complaint, refusal=refusal), (closed,))
        yield closed.refused(refusal, reason)

    def _refusal_of(self, closed: Subscription, refusal: RelayRefusal, prefix: str) -> RelayRefusal:
        """Return what a refusal says of this subscription, more than of any."""
        if refusal is RelayRefusal.AUTH_REQUIRED and closed.is_withheld:
            return RelayRefusal.WITHHELD
        if refusal is RelayRefusal.RESTRICTED and prefix == "restricted" and self._auth.state is AuthState.ACCEPTED:
            return RelayRefusal.FORBIDDEN
        if refusal is RelayRefusal.UNSUPPORTED and closed.asks_for_none and not closed.answered:
            return RelayRefusal.ZERO_LIMIT
        return refusal

    def on_notice(self, text: str, now: float) -> Iterator[PageEnded | LiveEnded | NegFinished]:
        """Take a NOTICE, which names no subscription.

        An EOSE that follows it for the one it ends is no answer: it is closed by then.
        """
        complaint = read(text)
        is_limited = complaint.refusal is RelayRefusal.RATE_LIMITED
        if is_limited:
            self._subscriptions.on_dropped()
            self._pace.on_limited(now)
        ended = self._requests.exchange.on_notice(text)
        if ended is not None:
            yield ended
            if not is_limited:
                return
        if complaint.refusal is RelayRefusal.ERROR and classify_notice(text) in (NoticeType.EMPTY, NoticeType.UNKNOWN):
            return
        self._requests.outset.on_refusal()
        refused = meant(complaint, text, self._subscriptions.asked)
        if refused:
            yield from self._end(refused, complaint, text, now)
        else:
            self._begin_doubt(complaint.refusal, text, now)

    def _end(
        self, refused: Sequence[Subscription], complaint: Complaint, text: str, now: float
    ) -> Iterator[PageEnded | LiveEnded]:
        """End those that a NOTICE is about; one that a rate limit dropped may leave another open under its id."""
        refusal = taken_for(complaint, refused)
        ended = []
        for each in refused:
            is_restored = refusal is RelayRefusal.RATE_LIMITED and self._subscriptions.restore(each)
            if is_restored or self._subscriptions.end_by_us(each, now):
                ended.append(each)
            self.doubts.on_page_ended(each.key)
        self._learn(replace(complaint, refusal=refusal), refused)
        for each in ended:
            yield each.refused(refusal, text)

    def _begin_doubt(self, refusal: RelayRefusal, text: str, now: float) -> None:
        """Wait for answers to the requests that a refusal without an id may be about."""
        asked = self._subscriptions.asked
        if refusal.may_be_of_size or refusal.asks_for_less:
            pages = [each for each in asked if each.is_page and not each.answered]
            self.doubts.begin(pages, refusal, text, now)
        if refusal is RelayRefusal.UNSUPPORTED:
            self.doubts.begin_live([each for each in asked if each.asks_for_none], text, now)

    def on_timeout(self, now: float) -> Iterator[PageEnded | LiveEnded]:
        """End those in doubt that stayed unanswered."""
        for each, refusal, text in self.doubts.take_due(self._subscriptions.asked, now):
            if self._subscriptions.end_by_us(each, now):
                self._learn(Complaint(refusal), (each,))
                yield each.refused(refusal, text)

    def _learn(self, complaint: Complaint, refused: Sequence[Subscription]) -> None:
        """Narrow the limits by a refusal."""
        limits = after_refusal(self._requests.limits, complaint, refused, self._subscriptions.at_relay)
        self._requests.learn(limits)
