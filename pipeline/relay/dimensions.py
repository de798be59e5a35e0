"""The quantities that a relay bounds, each by itself, and how a bound was learned. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

# How long (seconds) a bound is believed until more is tried; doubled each time that more was refused again.
WIDEN_AFTER_S: Final = 86_400
MAX_WIDEN_AFTER_S: Final = 32 * 86_400
# Silence has many reasons, so what it taught is doubted soon.
DOUBT_SILENCE_AFTER_S: Final = 300


class Dimension(StrEnum):
    """A quantity with a bound of its own; the value names its field in `RelayLimits`."""

    SUBSCRIPTIONS = "max_subscriptions"
    PAGES = "max_pages"
    """Pages open at once."""
    FILTERS = "max_filters"
    """Filters in one REQ."""
    KINDS = "max_kinds"
    AUTHORS = "max_authors"
    IDS = "max_ids"
    TAG_VALUES = "max_tag_values"
    TAG_FILTERS = "max_tag_filters"
    """Tag conditions (`#p`, `#e`, …) in one filter."""
    LIMIT = "page_limit"
    SPAN = "max_span"
    """Seconds between `since` and `until`."""
    FRAME_BYTES = "max_frame_bytes"
    ID_LENGTH = "max_id_length"
    """Characters of a subscription id."""


class Source(StrEnum):
    """Where a bound comes from."""

    DOCUMENT = "nip11"
    REFUSAL = "refusal"
    SILENCE = "silence"
    LOSS = "loss"
    """The connection was lost over a request."""
    CONTROL = "control"
    """An event that the relay holds came back, or did not, when it was asked for with so much beside it."""


# One list each of a filter, which a relay may bound.
LISTS: Final = (Dimension.KINDS, Dimension.AUTHORS, Dimension.IDS, Dimension.TAG_VALUES)
# A trial of more bytes would take all subscriptions along with the connection; more pages at once are only quicker.
NEVER_TRIED: Final = frozenset({Dimension.FRAME_BYTES})


@dataclass(frozen=True, slots=True)
class Bound:
    """How the limit of one dimension was learned: times are Unix seconds, 0 for never or for not dated yet."""

    dimension: Dimension
    source: Source
    narrowed_at: int = 0
    widened_at: int = 0
    widen_after: int = WIDEN_AFTER_S

    @classmethod
    def from_value(cls, value: object) -> Self | None:
        """Read what `dataclasses.asdict` made; `None` for anything else."""
        if not isinstance(value, dict):
            return None
        times: dict[str, Any] = {name: value.get(name) for name in ("narrowed_at", "widened_at", "widen_after")}
        if not all(type(each) is int and each >= 0 for each in times.values()):
            return None
        try:
            return cls(Dimension(str(value.get("dimension"))), Source(str(value.get("source"))), **times)
        except ValueError:
            return None
