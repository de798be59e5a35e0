"""Asking by named kinds what a relay does not give, or not all of, to filters without. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pipeline.crawl.sync.asked_kinds import HIDDEN_KINDS, LISTED_KINDS
from pipeline.crawl.sync.paging.slices import Gap, Manners, Role, Slice
from pipeline.crawl.sync.query import Query, Subject
from pipeline.nostr.event import MAX_KIND
from pipeline.nostr.kinds import is_ephemeral

# Pages spent on one check of what was empty without kinds: enough for all of them where no more than ten are taken.
MAX_CHECKS: Final = 20
# One of these nearly everybody writes.
USUAL_KINDS: Final = frozenset({0, 1, 3, 5, 6, 7, 1111, 9735, 10002, 30023})
# All that an event may have but those that no relay stores.
STORED_KINDS: Final = frozenset(kind for kind in range(MAX_KIND + 1) if not is_ephemeral(kind))


def begun(part: Slice, manners: Manners) -> list[Slice]:
    """What to ask for first, in lists of kinds that the relay takes.

    Kinds that may be counted and hidden go apart, as they make a page look full. The listed kinds are asked for before
    those of no list, which may take hundreds of requests; where these can only be had without kinds, which a relay may
    refuse, that comes last.
    """
    most, own = manners.max_kinds, part.query.kinds
    kinds = _named(part.query, manners)
    without = [part] if kinds is None else []
    if kinds is None and own is not None and (len(own) > most or not own.isdisjoint(manners.refused_kinds)):
        kinds, without = own, []
    if kinds is None and manners.asks_both:
        kinds = part.query.named_kinds(kindless=True, notes_by_author=False)
    kinds = (kinds or frozenset()) - manners.refused_kinds
    shown = kinds - HIDDEN_KINDS
    lists = (
        *_lists(shown - LISTED_KINDS, most),
        *_lists(kinds & HIDDEN_KINDS - manners.withheld, most),
        *_lists(shown & LISTED_KINDS, most),
    )
    rest = [replace(part, role=Role.REST)] if asks_rest(part.query, manners) else []
    return [*rest, *(replace(part, kinds=each) for each in lists), *without]


def by_kinds(part: Slice, kinds: frozenset[int], role: Role, most: int) -> list[Slice]:
    """`part` by these kinds, at most `most` at once, the usual ones last so that they are asked for first."""
    if len(kinds) <= most:
        return [replace(part, kinds=kinds, role=role, begins=False, ends=False)] if kinds else []
    lists = (*_lists(kinds - USUAL_KINDS, most), *_lists(kinds & USUAL_KINDS, most))
    return [replace(part, kinds=each, role=role, begins=False, ends=False) for each in lists]


def joined(parts: Sequence[Slice], most: int) -> list[Slice]:
    """`parts` with neighbours made one that differ by their kinds only, at most `most` at once.

    Kinds that may be counted and hidden stay apart from the others.
    """
    made: list[Slice] = []
    for part in parts:
        last = made[-1] if made else None
        if last is not None and _are_lists_of_one(last, part) and len(last.kinds or ()) + len(part.kinds or ()) <= most:
            made[-1] = replace(part, kinds=(last.kinds or frozenset()) | (part.kinds or frozenset()))
        else:
            made.append(part)
    return made


def _are_lists_of_one(one: Slice, other: Slice) -> bool:
    if one.kinds is None or other.kinds is None or replace(one, kinds=other.kinds) != other:
        return False
    return one.kinds.isdisjoint(HIDDEN_KINDS) == other.kinds.isdisjoint(HIDDEN_KINDS)


def known_gaps(query: Query, manners: Manners) -> tuple[Gap, ...]:
    """What is missing from the start, as only named kinds are given."""
    is_kindless = query.kinds is None
    withheld = (Gap.WITHHELD,) if is_kindless and (manners.withholds or manners.withheld) else ()
    if _named(query, manners) is None:
        refused = () if manners.refused_kinds.isdisjoint(query.kinds or ()) else (Gap.KINDS_REFUSED,)
        return withheld or refused
    names_others = manners.has_holes and (manners.names_all or manners.is_live)
    return withheld if names_others or asks_rest(query, manners) else (*withheld, *_unnamed_gaps(query, manners))


def _unnamed_gaps(query: Query, manners: Manners) -> tuple[Gap, ...]:
    """What is missing since nothing is asked for but the kinds that are named."""
    unlisted = Gap.UNLISTED_KINDS if manners.refuses_kindless or not manners.has_holes else Gap.HOLES
    misses_notes = manners.notes_by_author and query.subject is Subject.MENTIONS
    return (unlisted, Gap.NOTES_BY_AUTHOR) if misses_notes else (unlisted,)


def asks_rest(query: Query, manners: Manners) -> bool:
    """Return True if kinds are named only as the relay refuses filters that select what it withholds.

    Where nothing such matches it answers, or where it has given all else by then.
    """
    is_named = manners.withholds and not (manners.gives_shown or manners.refuses_kindless or manners.has_holes)
    return is_named and not manners.notes_by_author and query.kinds is None


def _named(query: Query, manners: Manners) -> frozenset[int] | None:
    """The kinds to name, `None` to ask for all without."""
    if manners.has_holes and manners.names_all and query.kinds is None:
        return STORED_KINDS
    kindless = manners.refuses_kindless or manners.has_holes
    by_author = manners.notes_by_author
    shown_only = manners.withholds and not manners.gives_shown
    return query.named_kinds(kindless=kindless, notes_by_author=by_author, shown_only=shown_only)


def _lists(kinds: frozenset[int], most: int) -> list[frozenset[int]]:
    """`kinds` in lists that the relay takes."""
    ordered = sorted(kinds)
    return [frozenset(ordered[i : i + most]) for i in range(0, len(ordered), most)]
