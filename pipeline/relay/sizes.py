"""How much a request asks for, by dimension. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pipeline.nostr.filter import Filter
from pipeline.relay.dimensions import Dimension

_SIZES: Final[Mapping[Dimension, Callable[[Filter], int]]] = {
    Dimension.KINDS: lambda each: len(each.kinds or ()),
    Dimension.AUTHORS: lambda each: len(each.authors or ()),
    Dimension.IDS: lambda each: len(each.ids or ()),
    Dimension.TAG_VALUES: lambda each: max((len(values) for _, values in each.tags), default=0),
    Dimension.TAG_FILTERS: lambda each: len(each.tags),
    Dimension.LIMIT: lambda each: each.limit or 0,
    Dimension.SPAN: lambda each: 0 if each.since is None or each.until is None else max(0, each.until - each.since),
}


def size_of(filters: Sequence[Filter], dimension: Dimension) -> int:
    """Return the most that any of the filters asks for in one dimension, 0 for none; or how many filters there are."""
    if dimension is Dimension.FILTERS:
        return len(filters)
    size = _SIZES.get(dimension)
    return 0 if size is None else max(map(size, filters), default=0)
