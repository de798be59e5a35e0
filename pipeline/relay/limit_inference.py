"""What a relay's refusals and silences are about, and what they teach about its limits. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from pipeline.relay.dimensions import Dimension, Source
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import Complaint, RelayRefusal
from pipeline.relay.sizes import size_of
from pipeline.relay.subscription import Subscription

# What may be too long where a relay does not say what is.
_LONG: Final = (Dimension.AUTHORS, Dimension.TAG_VALUES, Dimension.IDS, Dimension.KINDS, Dimension.FILTERS)
# What is learned of a form that is refused, whatever its size.
_FORMS: Final[dict[RelayRefusal, dict[str, Any]]] = {
    RelayRefusal.KINDLESS: {"refuses_kindless": True},
    RelayRefusal.AUTHORLESS: {"notes_by_author": True},
    RelayRefusal.ZERO_LIMIT: {"refuses_zero": True},
    RelayRefusal.WITHHELD: {"withholds": True},
}
_MEMBERS: Final = (Dimension.AUTHORS, Dimension.TAG_VALUES)
_ID: Final = re.compile(r"\b[LP]\d{1,12}\b")


def meant(complaint: Complaint, text: str, asked: Sequence[Subscription]) -> Sequence[Subscription]:
    """Which of the subscriptions asked for, the newest last, a NOTICE with this sense must be about.

    A relay says in the order of the requests what it thinks of each, so that the oldest of those with the form that it
    complains of is the one. Where no form is named only pages are meant, and only where there is one.
    """
    named = set(_ID.findall(text))
    if by_id := [each for each in asked if each.id in named]:
        return by_id
    find = _MEANT.get(complaint.refusal)
    found = None if find is None else find(complaint, asked)
    if found is not None:
        return found
    pages = [each for each in asked if each.is_page and not each.is_complete]
    if complaint.refusal.may_be_of_size and any(not each.is_page for each in _unanswered(asked)):
        # It may be about a live one, of which nothing is to be learned.
        return []
    return pages if len(pages) == 1 else []


def _subscriptions(_: Complaint, asked: Sequence[Subscription]) -> Sequence[Subscription] | None:
    return _unanswered(asked)[-1:] or asked[-1:]


def _rate_limited(_: Complaint, asked: Sequence[Subscription]) -> Sequence[Subscription] | None:
    """The request was dropped; any that has had no answer may be the one.

    Events that come under an id that was open before answer no request.
    """
    return [each for each in asked if each.is_page or each.previous is not None or not each.answered]


def _kind_refused(complaint: Complaint, asked: Sequence[Subscription]) -> Sequence[Subscription] | None:
    return [each for each in _unanswered(asked) if each.names_kind(complaint.kinds)][:1]


def _zero_limit(_: Complaint, asked: Sequence[Subscription]) -> Sequence[Subscription] | None:
    return [each for each in _unanswered(asked) if not each.is_page]


def _kindless(_: Complaint, asked: Sequence[Subscription]) -> Sequence[Subscription] | None:
    return [each for each in _unanswered(asked) if each.is_kindless] or None


def _authorless(_: Complaint, asked: Sequence[Subscription]) -> Sequence[Subscription] | None:
    return [each for each in _unanswered(asked) if each.is_authorless] or None


def _unanswered(asked: Sequence[Subscription]) -> list[Subscription]:
    return [each for each in asked if not each.answered and not each.is_complete]


def _too_large(complaint: Complaint, asked: Sequence[Subscription]) -> Sequence[Subscription] | None:
    """The oldest that asks for more than is allowed, else for the most; the newest where nothing is named.

    Nobody, where there is none that could ask for less.
    """
    waiting = [each for each in asked if not each.is_complete and _can_shrink(complaint, each)]
    if complaint.dimension is None:
        return waiting[-1:]
    sizes = [(each, _pointed_at(complaint, each)) for each in waiting]
    if complaint.asked is not None and (same := [each for each, size in sizes if size == complaint.asked]):
        return same[:1]
    largest = max((size for _, size in sizes), default=0)
    return [each for each, size in sizes if size == largest or complaint.most is not None][:1]


def _pointed_at(complaint: Complaint, asked: Subscription) -> int:
    """How much there is of what is complained of, in the filter that a path names if one does."""
    dimension = _blamed(complaint, asked)
    if complaint.filter is None:
        return _size(asked, dimension)
    return size_of(asked.filters[complaint.filter : complaint.filter + 1], dimension)


_MEANT: Final[dict[RelayRefusal, Callable[[Complaint, Sequence[Subscription]], Sequence[Subscription] | None]]] = {
    RelayRefusal.TOO_MANY_SUBSCRIPTIONS: _subscriptions,
    RelayRefusal.TOO_MANY_FILTERS: _too_large,
    RelayRefusal.TOO_LARGE: _too_large,
    RelayRefusal.RATE_LIMITED: _rate_limited,
    RelayRefusal.KIND_REFUSED: _kind_refused,
    RelayRefusal.ZERO_LIMIT: _zero_limit,
    RelayRefusal.KINDLESS: _kindless,
    RelayRefusal.AUTHORLESS: _authorless,
}


def taken_for(complaint: Complaint, refused: Sequence[Subscription]) -> RelayRefusal:
    """The refusal, where its text asks for a filter of another form or size; a lasting one where none is to be had."""
    is_hopeless = not any(_can_comply(complaint, each) for each in refused)
    return RelayRefusal.RESTRICTED if is_hopeless else complaint.refusal


def _can_comply(complaint: Complaint, refused: Subscription) -> bool:
    """Return True if there is another form or size of what was refused."""
    match complaint.refusal:
        case RelayRefusal.TOO_LARGE | RelayRefusal.TOO_MANY_FILTERS:
            return _can_shrink(complaint, refused)
        case RelayRefusal.KINDLESS:
            return refused.is_kindless
        case RelayRefusal.AUTHORLESS:
            return refused.is_authorless
        case RelayRefusal.WITHHELD:
            return refused.selects_confidential
        case RelayRefusal.ZERO_LIMIT:
            return not refused.is_page
        case _:
            return True


def after_refusal(
    limits: RelayLimits, complaint: Complaint, refused: Sequence[Subscription], still_open: int
) -> RelayLimits:
    """`limits` of a relay that has just refused these, with so many other subscriptions open by now.

    What was asked for together is answered one by one: when the last of it is refused the others may be over, but it
    was too much beside all of them. A relay may also end an older one for the sake of the newest.
    """
    match complaint.refusal:
        case RelayRefusal.TOO_MANY_SUBSCRIPTIONS:
            open_then = max(still_open + 1, *(each.beside for each in refused))
            limits = limits.subscriptions_up_to(complaint.most or max(1, open_then - 1))
        case RelayRefusal.TOO_MANY_FILTERS | RelayRefusal.TOO_LARGE:
            for each in refused:
                limits = _smaller(limits, complaint, each)
        case RelayRefusal.RATE_LIMITED:
            limits = limits.fewer_pages()
        case RelayRefusal.KIND_REFUSED:
            for kind in complaint.kinds:
                limits = limits.without_kind(kind)
        case _:
            limits = replace(limits, **_FORMS.get(complaint.refusal, {}))
    return limits


def _smaller(limits: RelayLimits, complaint: Complaint, refused: Subscription) -> RelayLimits:
    """After a refusal for size: held to what is allowed, else to half of what was asked for."""
    dimension = _blamed(complaint, refused)
    size = _size(refused, dimension)
    if complaint.most is not None and (complaint.most < size or size == 0):
        return limits.narrowed(dimension, complaint.most)
    return limits.halved(dimension, size) if size > 1 else limits


def _can_shrink(complaint: Complaint, refused: Subscription) -> bool:
    """Whether there is less to ask for than was refused, or less than is said to be allowed."""
    size = _size(refused, _blamed(complaint, refused))
    return size > 1 and (complaint.most is None or complaint.is_default or complaint.most < size)


def _blamed(complaint: Complaint, refused: Subscription) -> Dimension:
    """The dimension that is complained of; the longest list where none is named."""
    filters, dimension = refused.filters, complaint.dimension
    if dimension is None:
        return max(_LONG, key=lambda each: size_of(filters, each))
    if dimension in _MEMBERS and not size_of(filters, dimension):
        # A relay that wants one author, or one value of a tag, says so in one breath.
        return max(_MEMBERS, key=lambda each: size_of(filters, each))
    return dimension


def _size(refused: Subscription, dimension: Dimension) -> int:
    if dimension is Dimension.FRAME_BYTES:
        return refused.size
    return len(refused.id) if dimension is Dimension.ID_LENGTH else size_of(refused.filters, dimension)


def after_silence(limits: RelayLimits, subscription: Subscription, proven: int) -> RelayLimits:
    """`limits` of a relay that answers others, but not this page, and did so on another connection before.

    `proven`: how many subscriptions were surely open at once.
    """
    if subscription.beside <= proven:
        filters = subscription.filters
        longest = max(_LONG, key=lambda each: size_of(filters, each))
        size = size_of(filters, longest)
        return limits.halved(longest, size, Source.SILENCE) if size > 1 else limits
    return limits.fewer_subscriptions(max(subscription.beside, proven + 1), Source.SILENCE)
