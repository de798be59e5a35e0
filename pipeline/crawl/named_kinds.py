"""Asking by named kinds what a relay does not give, or not all of, to filters without. Pure.

A relay takes as many kinds in a filter as it takes authors.
"""

from dataclasses import replace
from typing import Final

from pipeline.crawl.plan import HIDDEN_KINDS, Query, Subject
from pipeline.crawl.slices import Gap, Manners, Role, Slice

# Pages spent on asking by kinds for what was empty without, where a relay takes only short lists.
MAX_CHECKS: Final = 8


def begun(part: Slice, manners: Manners, most: int) -> list[Slice]:
    """What to ask for first, at most `most` kinds at once.

    Kinds that may be counted and hidden go apart, as they make a page look full.
    """
    kinds = part.query.named_kinds(kindless=manners.refuses_kindless, notes_by_author=manners.notes_by_author)
    if kinds is None:
        return [part]
    lists = (*_lists(kinds & HIDDEN_KINDS, most), *_lists(kinds - HIDDEN_KINDS, most))
    return [replace(part, kinds=each) for each in lists]


def by_kinds(part: Slice, kinds: frozenset[int], role: Role, most: int) -> list[Slice]:
    """`part` by these kinds; nothing for a relay that takes so few at once that it would be asked all day."""
    if len(kinds) > MAX_CHECKS * most:
        return []
    return [replace(part, kinds=each, role=role, repeats=False) for each in _lists(kinds, most)]


def known_gaps(query: Query, manners: Manners) -> tuple[Gap, ...]:
    """What is missing from the start, as only named kinds are given."""
    kindless, by_author = manners.refuses_kindless, manners.notes_by_author
    if query.named_kinds(kindless=kindless, notes_by_author=by_author) is None:
        return ()
    misses_notes = by_author and query.subject is Subject.MENTIONS
    return (Gap.UNLISTED_KINDS, Gap.NOTES_BY_AUTHOR) if misses_notes else (Gap.UNLISTED_KINDS,)


def _lists(kinds: frozenset[int], most: int) -> list[frozenset[int]]:
    """`kinds` in lists that the relay takes."""
    ordered = sorted(kinds)
    return [frozenset(ordered[i : i + most]) for i in range(0, len(ordered), most)]
