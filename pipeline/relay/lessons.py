"""What a relay's refusals and silences are about, and what they teach about its limits. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pipeline.nostr.filter import Filter
from pipeline.relay.dimensions import Dimension, Source
from pipeline.relay.limits import Limits
from pipeline.relay.refusals import Refusal
from pipeline.relay.sizes import size_of
from pipeline.relay.subscription import Subscription

# What a relay drops without a word is taken for a limit on subscriptions; for one of this only once that was learned.
_LEAST_BY_SILENCE: Final = 2
_LONG: Final = (Dimension.AUTHORS, Dimension.TAG_VALUES, Dimension.IDS, Dimension.KINDS, Dimension.FILTERS)


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
    match refusal:
        case Refusal.TOO_MANY_SUBSCRIPTIONS:
            limits = limits.fewer_subscriptions(max(still_open + 1, *(each.beside for each in refused)))
        case Refusal.TOO_MANY_FILTERS:
            limits = limits.halved(Dimension.FILTERS, max(len(each.filters) for each in refused))
        case Refusal.TOO_LARGE:
            limits = _smaller(limits, max((each.filters for each in refused), key=len))
        case Refusal.RATE_LIMITED:
            limits = limits.fewer_pages()
        case Refusal.KINDLESS:
            limits = replace(limits, refuses_kindless=True)
        case Refusal.AUTHORLESS:
            limits = replace(limits, notes_by_author=True)
    return limits


def _smaller(limits: Limits, filters: Sequence[Filter]) -> Limits:
    """After a refusal for size that does not say of what: the longest list is held to half."""
    longest = max(_LONG, key=lambda each: size_of(filters, each))
    size = size_of(filters, longest)
    return limits.halved(longest, size) if size > 1 else limits


def after_silence(limits: Limits, subscription: Subscription, proven: int) -> Limits:
    """`limits` of a relay that answers others, but this one not: some drop without a word what is too much for them.

    `proven`: how many subscriptions were surely open at once.
    """
    if len(subscription.filters) > 1:
        return limits.halved(Dimension.FILTERS, len(subscription.filters), Source.SILENCE)
    again = subscription.room <= _LEAST_BY_SILENCE
    least = max(proven, 1 if again else _LEAST_BY_SILENCE)
    return limits.fewer_subscriptions(max(subscription.beside, least + 1), Source.SILENCE)
