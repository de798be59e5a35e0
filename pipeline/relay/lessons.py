"""What a relay's refusals and silences are about, and what they teach about its limits. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from pipeline.relay.limits import Limits
from pipeline.relay.refusals import Refusal
from pipeline.relay.subscription import Subscription

# What a relay drops without a word is taken for a limit on subscriptions; for one of this only once that was learned.
_LEAST_BY_SILENCE: Final = 2
_LESSONS: Final[dict[Refusal, Callable[[Limits], Limits]]] = {
    Refusal.TOO_MANY_FILTERS: Limits.fewer_filters,
    Refusal.TOO_LARGE: Limits.smaller,
    Refusal.RATE_LIMITED: Limits.fewer_pages,
    Refusal.KINDLESS: lambda limits: replace(limits, refuses_kindless=True),
    Refusal.AUTHORLESS: lambda limits: replace(limits, notes_by_author=True),
}


def meant(refusal: Refusal, asked: Sequence[Subscription]) -> Sequence[Subscription]:
    """Which of the subscriptions asked for, the newest last, a NOTICE with this sense must be about."""
    pages = [each for each in asked if each.is_page]
    unanswered = [each for each in asked if not each.answered]
    match refusal:
        case Refusal.TOO_MANY_SUBSCRIPTIONS | Refusal.TOO_MANY_FILTERS | Refusal.TOO_LARGE:
            # These answer the newest request at once, and no CLOSED follows.
            return asked[-1:]
        case Refusal.RATE_LIMITED:
            # The request was dropped; any that has had no answer may be the one.
            return [each for each in asked if each.is_page or not each.answered]
        case Refusal.KINDLESS if kindless := [each for each in unanswered if each.is_kindless]:
            return kindless
        case Refusal.AUTHORLESS if authorless := [each for each in unanswered if each.is_authorless]:
            return authorless
        case _:
            return pages if len(pages) == 1 else []


def taken_for(refusal: Refusal, refused: Sequence[Subscription]) -> Refusal:
    """The refusal, where its text asks for a filter of another form; a lasting one where no other is to be had."""
    hopeless = (refusal is Refusal.KINDLESS and not any(each.is_kindless for each in refused)) or (
        refusal is Refusal.AUTHORLESS and not any(each.is_authorless for each in refused)
    )
    return Refusal.RESTRICTED if hopeless else refusal


def after_refusal(limits: Limits, refusal: Refusal, refused: Sequence[Subscription], still_open: int) -> Limits:
    """`limits` of a relay that has just refused these, with so many other subscriptions open by now.

    What was asked for together is answered one by one: when the last of it is refused the others may be over, but it
    was too much beside all of them. A relay may also end an older one for the sake of the newest.
    """
    if refusal is Refusal.TOO_MANY_SUBSCRIPTIONS:
        return limits.fewer_subscriptions(max(still_open + 1, *(each.beside for each in refused)))
    lesson = _LESSONS.get(refusal)
    return limits if lesson is None else lesson(limits)


def after_silence(limits: Limits, subscription: Subscription, proven: int) -> Limits:
    """`limits` of a relay that answers others, but this one not: some drop without a word what is too much for them.

    `proven`: how many subscriptions were surely open at once.
    """
    if len(subscription.filters) > 1:
        return limits.fewer_filters()
    again = subscription.room <= _LEAST_BY_SILENCE
    least = max(proven, 1 if again else _LEAST_BY_SILENCE)
    return limits.fewer_subscriptions(max(subscription.beside, least + 1))
