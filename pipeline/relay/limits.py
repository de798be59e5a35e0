"""What a relay allows: from its NIP-11 document, from its refusals, remembered over restarts."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import orjson

# Defaults that every relay in wide use accepts; learned limits only ever go below them.
MAX_PAGES = 3
MAX_FILTERS = 10
MAX_MEMBERS = 250
PAGE_LIMIT = 500
# strfry resets the connection above 131,072 bytes.
MAX_FRAME_BYTES = 120_000
INFORMATION_AGE_S = 86_400
# Subscriptions left free for whoever shares our address.
_SPARE_SUBSCRIPTIONS = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """How a relay may be asked.

    `until_exclusive`: its `until` leaves out its own second; `informed_at`: when its NIP-11 document was last asked for
    (Unix seconds, 0 for never).
    """

    max_subscriptions: int = 18
    max_pages: int = MAX_PAGES
    max_filters: int = MAX_FILTERS
    max_members: int = MAX_MEMBERS
    page_limit: int = PAGE_LIMIT
    max_frame_bytes: int = MAX_FRAME_BYTES
    until_exclusive: bool = False
    informed_at: int = 0

    def fewer_subscriptions(self, open_now: int) -> "Limits":
        """After a refusal for too many subscriptions while `open_now` were open, the refused one among them."""
        most = max(1, min(self.max_subscriptions, open_now - 1))
        return replace(self, max_subscriptions=most, max_pages=max(1, min(self.max_pages, most - 1)))

    def fewer_pages(self) -> "Limits":
        """After a refusal for asking too much at once."""
        return replace(self, max_pages=max(1, self.max_pages - 1))

    def fewer_filters(self) -> "Limits":
        """After a refusal for too many filters in one request."""
        return replace(self, max_filters=max(1, self.max_filters // 2))

    def smaller(self) -> "Limits":
        """After a refusal for the size of a request."""
        return replace(self, max_members=max(1, self.max_members // 2), max_filters=max(1, self.max_filters // 2))

    def informed(self, now: int) -> "Limits":
        """As of a look at the NIP-11 document, whether it was to be had or not."""
        return replace(self, informed_at=now)

    def is_stale(self, now: int) -> bool:
        """Whether the NIP-11 document should be looked at again."""
        return now - self.informed_at >= INFORMATION_AGE_S

    def advertised(self, *, subscriptions: int | None, limit: int | None, message_bytes: int | None) -> "Limits":
        """Narrowed to what a NIP-11 document says; documents are often wrong, so nothing is widened by it."""
        spared = None if subscriptions is None else max(1, subscriptions - _SPARE_SUBSCRIPTIONS)
        return replace(
            self,
            max_subscriptions=_least(self.max_subscriptions, spared),
            page_limit=_least(self.page_limit, limit),
            max_frame_bytes=_least(self.max_frame_bytes, message_bytes),
        )

    def to_json(self) -> str:
        """For the relay's row."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> "Limits":
        """Read what `to_json` wrote; whatever is missing or out of range is as if nothing had been learned."""
        try:
            stored = orjson.loads(text)
        except orjson.JSONDecodeError:
            return cls()
        if not isinstance(stored, dict):
            return cls()
        default = cls()
        known: dict[str, Any] = {field.name: stored.get(field.name) for field in fields(cls)}
        kept: dict[str, Any] = {
            name: value
            for name, value in known.items()
            if type(value) is type(getattr(default, name)) and (isinstance(value, bool) or value >= 1)
        }
        return replace(default, **kept)


def _least(known: int, said: int | None) -> int:
    return known if said is None or said < 1 else min(known, said)
