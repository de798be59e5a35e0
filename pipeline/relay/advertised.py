"""What a relay says of its limits in its information document (NIP-11, `limitation`). Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final

# Numbers beyond are mistakes, and would not fit everywhere that numbers are kept.
_MAX_NUMBER: Final = 2**53
_PREFIX: Final = "limitation."


@dataclass(frozen=True, slots=True)
class AdvertisedLimits:
    """The document's `limitation`: None or False where it says nothing, or nothing sensible.

    `max_message_length` counts bytes of a frame that a client may send; `max_authors` and the like are members of one
    list of a filter. The bounds of `created_at` are seconds before and after now.
    """

    max_message_length: int | None = None
    max_subscriptions: int | None = None
    max_filters: int | None = None
    max_limit: int | None = None
    default_limit: int | None = None
    max_subid_length: int | None = None
    max_authors: int | None = None
    max_ids: int | None = None
    max_kinds: int | None = None
    max_tag_values: int | None = None
    max_event_tags: int | None = None
    max_content_length: int | None = None
    min_pow_difficulty: int | None = None
    created_at_lower_limit: int | None = None
    created_at_upper_limit: int | None = None
    auth_required: bool = False
    payment_required: bool = False
    restricted_writes: bool = False


def advertised_limits(document: Mapping[str, object]) -> AdvertisedLimits:
    """Read `limitation`, or the same members beside it or with `limitation.` before their names."""
    known: dict[str, int | bool] = {}
    for limit in fields(AdvertisedLimits):
        values = list(_values(document, limit.name))
        if isinstance(limit.default, bool):
            known[limit.name] = True in [value for value in values if isinstance(value, bool)]
        elif numbers := [value for value in values if is_number(value)]:
            known[limit.name] = numbers[0]  # type: ignore[assignment]  # a number, as was just seen
    return AdvertisedLimits(**known)  # type: ignore[arg-type]  # each kind went to the fields of its kind


def is_number(value: object) -> bool:
    """Return True for a whole number that can be a limit."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_NUMBER


def _values(document: Mapping[str, object], name: str) -> Iterator[object]:
    """Whatever the document has under this name, the most trusted first."""
    limitation = document.get("limitation")
    if isinstance(limitation, dict):
        yield limitation.get(name)
    yield document.get(_PREFIX + name)
    yield document.get(name)
