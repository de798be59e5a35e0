"""Subscription filters (NIP-01): what to ask a relay for, and whether an event is what was asked for."""

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, TypeAlias, TypeVar

from pipeline.errors import EventServiceError
from pipeline.nostr import json_text
from pipeline.nostr.event import MAX_CREATED_AT, MAX_KIND, Event

TagConditions: TypeAlias = tuple[tuple[str, frozenset[str]], ...]

_Value = TypeVar("_Value", str, int)

_HEX64: Final = re.compile("[0-9a-f]{64}")
_TAG_MEMBER: Final = re.compile("#[A-Za-z]")
_HEX_TAGS: Final = frozenset("ep")


class InvalidFilter(EventServiceError):
    """A value that is no filter; the message names the member at fault."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A conjunction of conditions; None leaves a condition out, an empty list matches nothing.

    `ids` and `authors` hold 32 bytes each; times are seconds since 1970, both inclusive. A tag condition looks at a
    tag's first value only, as relays index no other. `tags` is sorted by name, so that equal filters are equal values.
    """

    ids: frozenset[bytes] | None = None
    authors: frozenset[bytes] | None = None
    kinds: frozenset[int] | None = None
    tags: TagConditions = ()
    since: int | None = None
    until: int | None = None
    limit: int | None = None
    last: tuple[str | int, ...] = ()
    """Values, as in JSON, that stand behind all others in their lists; a list's order means nothing to NIP-01."""

    def __post_init__(self) -> None:
        if len(self.tags) > 1:
            object.__setattr__(self, "tags", tuple(sorted(self.tags, key=itemgetter(0))))
            if len({name for name, _ in self.tags}) != len(self.tags):
                raise ValueError("a tag name has two conditions")

    def matches(self, event: Event) -> bool:
        """Return True if the event fulfils every condition; `limit` is none."""
        return (
            (self.kinds is None or event.kind in self.kinds)
            and (self.authors is None or event.pubkey in self.authors)
            and (self.ids is None or event.id in self.ids)
            and (self.since is None or event.created_at >= self.since)
            and (self.until is None or event.created_at <= self.until)
            and all(_has_tag(event, name, values) for name, values in self.tags)
        )

    def to_value(self) -> dict[str, Any]:
        """Return the filter as a JSON value whose members and lists have a fixed order."""
        value: dict[str, Any] = {}
        if self.ids is not None:
            value["ids"] = sorted(item.hex() for item in self.ids)
        if self.authors is not None:
            value["authors"] = self._in_order(map(bytes.hex, self.authors))
        if self.kinds is not None:
            value["kinds"] = self._in_order(self.kinds)
        value.update((f"#{name}", self._in_order(values)) for name, values in self.tags)
        for member in ("since", "until", "limit"):
            if (number := getattr(self, member)) is not None:
                value[member] = number
        return value

    def _in_order(self, values: Iterable[_Value]) -> list[_Value]:
        # Most name thousands of keys, and none of them last.
        return sorted(values, key=lambda value: (value in self.last, value)) if self.last else sorted(values)

    def encode(self) -> bytes:
        """Return the filter as JSON; equal filters give equal bytes."""
        return json_text.encode(self.to_value())


def parse_filter(value: object) -> Filter:
    """Make a `Filter` of a decoded JSON value. Raises `InvalidFilter`.

    As strict as strfry: an unknown member is refused rather than ignored, since ignoring a condition widens the filter.
    """
    if type(value) is not dict:
        raise InvalidFilter("a filter is an object")
    members: dict[str, Any] = {}
    tags: list[tuple[str, frozenset[str]]] = []
    for name, item in value.items():
        if name in ("ids", "authors"):
            members[name] = frozenset(map(bytes.fromhex, _strings(name, item, hexadecimal=True)))
        elif name == "kinds":
            members[name] = frozenset(_number(name, kind, MAX_KIND) for kind in _list(name, item))
        elif name in ("since", "until", "limit"):
            members[name] = _number(name, item, MAX_CREATED_AT)
        elif _TAG_MEMBER.fullmatch(name):
            tags.append((name[1], _strings(name, item, hexadecimal=name[1] in _HEX_TAGS)))
        else:
            raise InvalidFilter("the filter has an unknown member")
    return Filter(**members, tags=tuple(tags))


def _has_tag(event: Event, name: str, values: AbstractSet[str]) -> bool:
    return any(len(tag) > 1 and tag[0] == name and tag[1] in values for tag in event.tags)


def _list(member: str, value: object) -> list[Any]:
    if type(value) is not list:
        raise InvalidFilter(f"{member} is not a list")
    return value


def _strings(member: str, value: object, *, hexadecimal: bool) -> frozenset[str]:
    items = _list(member, value)
    for item in items:
        if type(item) is not str or (hexadecimal and not _HEX64.fullmatch(item)):
            raise InvalidFilter(
                f"{member} holds something else than {'64 hexadecimal digits' if hexadecimal else 'text'}"
            )
    return frozenset(items)


def _number(member: str, value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidFilter(f"{member} is not a whole number from 0 to {most}")
    return value
