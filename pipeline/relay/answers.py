"""Which requests of one connection were answered, and what the silence about another teaches. Pure."""

import math

from pipeline.relay.dimensions import Dimension, Source
from pipeline.relay.limit_inference import after_silence
from pipeline.relay.limits import RelayLimits
from pipeline.relay.silence import Silences
from pipeline.relay.subscription import Subscription

# Later than the number of any request.
_NONE_ANSWERED = 1 << 62


class Answers:
    """The answers of one connection so far."""

    __slots__ = (
        "_answered_at", "_first", "_latest", "_mute_since", "_silences", "count", "pages", "proven",
        "wants_another_connection",
    )  # fmt: skip

    def __init__(self, silences: Silences) -> None:
        """`silences`: those of the relay on all its connections."""
        self._silences = silences
        self.count = 0
        self.pages = 0
        """How many of them were to pages."""
        self.proven = 1
        """How many subscriptions were surely open at once."""
        self.wants_another_connection = False
        """Whether a silence may be a limit, which only another connection shows."""
        # The smallest number of an answered request, and the newest; what was sent after the first was heard.
        self._first = _NONE_ANSWERED
        self._latest = 0
        self._answered_at = -math.inf
        # Since when a page has been silent, if nothing was answered since.
        self._mute_since = math.inf

    def note(self, subscription: Subscription, now: float) -> None:
        """Take note of an answer that is complete."""
        self._answered_at, self._mute_since = now, math.inf
        self.count += 1
        self.pages += subscription.is_page
        self._first = min(self._first, subscription.number)
        self._latest = max(self._latest, subscription.number)

    def passed_by(self, subscription: Subscription) -> bool:
        """Return True if a later request has been answered."""
        return subscription.number < self._latest

    def awaits_repetition(self, now: float) -> bool:
        """Return True if this connection is to show whether what happened on another happens again."""
        return self._silences.awaits(self, now)

    def after_silence(self, limits: RelayLimits, silent: Subscription, now: float) -> RelayLimits:
        """Return `limits` after a page without any answer: slower, or less, once another connection showed the same."""
        is_unheard = silent.is_early and silent.number < self._first
        # The page beside it may have taught the reason a moment ago.
        is_explained = silent.beside > limits.max_subscriptions
        if silent.answered or is_unheard or is_explained or not self.count:
            return limits
        if self.pages and not self.passed_by(silent):
            if self._is_hung(silent, now):
                return limits
            # Some relays let each request wait for its turn, and nothing passes by.
            return limits.narrowed(Dimension.PAGES, limits.max_pages - 1, Source.SILENCE)
        if self._silences.repeats(self, now):
            if not self.pages:
                # Not one has a place beside what is open.
                silent.beside = min(silent.beside, self.proven + 1)
            return after_silence(limits, silent, self.proven)
        self.wants_another_connection = True
        return limits

    def _is_hung(self, silent: Subscription, now: float) -> bool:
        """Return True if the relay may be hung: nothing was answered while `silent` waited, nor asked again since."""
        if self._answered_at >= silent.last_at or silent.last_at >= self._mute_since:
            return False
        self._mute_since = min(self._mute_since, now)
        return True
