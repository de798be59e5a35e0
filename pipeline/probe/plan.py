"""Which questions are asked, in which order: last those that cost connections, or may break a relay."""

from pipeline.nostr.kinds import ENCRYPTED_DIRECT_MESSAGE, GIFT_WRAP
from pipeline.probe.known import ProbeQuestion
from pipeline.probe.questions.borders import TimeBorders
from pipeline.probe.questions.extensions import Challenge, CountMessage, EoseHint, SetComparison, Withheld
from pipeline.probe.questions.forms import FORMS, LastValue, TwoFilters
from pipeline.probe.questions.limits import FILTERS, LISTS, FrameBytes, IdLength, TagFilters
from pipeline.probe.questions.live import DELIVERIES, ReplacedSubscription, UnpublishedEvent
from pipeline.probe.questions.oddities import NONSENSE, ODDITIES
from pipeline.probe.questions.pages import FirstPage, NoLimit, PageLimit, Truncation, ZeroLimit
from pipeline.probe.questions.subscriptions import OpenId, SubscriptionLimit
from pipeline.probe.questions.writing import Deletion, Notes


def questions(auth_address: str, *, writes: bool) -> tuple[ProbeQuestion, ...]:
    """Return all questions in the order in which they are asked."""
    return (
        *((Notes(),) if writes else ()),
        FirstPage(), Truncation(), ZeroLimit(), EoseHint(),
        TimeBorders("author"), TimeBorders("everything"),
        *FORMS, LastValue(), TwoFilters(),
        Withheld(ENCRYPTED_DIRECT_MESSAGE), Withheld(GIFT_WRAP),
        PageLimit(), NoLimit(),
        *LISTS, TagFilters(), IdLength(),
        CountMessage(), SetComparison(), Challenge(auth_address),
        OpenId(), *DELIVERIES, ReplacedSubscription(), *(() if writes else (UnpublishedEvent(),)),
        FILTERS, FrameBytes(), SubscriptionLimit(), *ODDITIES, *((Deletion(),) if writes else ()), *NONSENSE,
    )  # fmt: skip
