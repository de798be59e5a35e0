"""What a relay allows: from its NIP-11 document, from its refusals, remembered over restarts."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import orjson

# Defaults that every relay in wide use accepts; learned limits never go above them.
MAX_PAGES = 3
MAX_FILTERS = 10
MAX_MEMBERS = 250
PAGE_LIMIT = 500
# strfry resets the connection above 131,072 bytes.
MAX_FRAME_BYTES = 120_000
INFORMATION_AGE_S = 86_400
# How long (seconds) what refusals taught is believed; doubled each time that trying more was refused again.
WIDEN_AFTER_S = 86_400
MAX_WIDEN_AFTER_S = 32 * 86_400
# A request that no relay refuses for its size alone.
LEAST_FRAME_BYTES = 4_000
# Subscriptions left free for whoever shares our address.
_SPARE_SUBSCRIPTIONS = 2
# What a filter takes in a request, at most: its own JSON with its share of the frame, and each key that it names.
BYTES_PER_FILTER = 200
BYTES_PER_MEMBER = 67


@dataclass(frozen=True, slots=True)
class Limits:
    """How a relay may be asked.

    `until_exclusive`: its `until` leaves out its own second; `oldest_first`: a limit keeps the oldest; `needs_kinds`:
    it gives nothing to filters that name no kinds; `refuses_kindless`: it refuses those, and says so;
    `notes_by_author`: it refuses filters that ask for notes, or for all kinds, without naming authors; `zero_is_all`:
    it takes `limit: 0` for no limit; `demands_auth`: it says or showed that it wants NIP-42 of readers; `reconciles`:
    it was seen to compare sets rightly (NIP-77); `informed_at`: when its NIP-11 document was last asked for;
    `whole_refused_at`: when it last refused a filter for everything; `negentropy_failed_at`: when it last turned out
    not to compare sets; `narrowed_at`: when it last refused something for its size or number; `widened_at`: when more
    was last tried again, `widen_after` seconds after that or later (all in Unix seconds, 0 for never).
    """

    max_subscriptions: int = 18
    max_pages: int = MAX_PAGES
    max_filters: int = MAX_FILTERS
    max_members: int = MAX_MEMBERS
    page_limit: int = PAGE_LIMIT
    max_frame_bytes: int = MAX_FRAME_BYTES
    until_exclusive: bool = False
    oldest_first: bool = False
    needs_kinds: bool = False
    refuses_kindless: bool = False
    notes_by_author: bool = False
    zero_is_all: bool = False
    demands_auth: bool = False
    informed_at: int = 0
    reconciles: bool = False
    whole_refused_at: int = 0
    negentropy_failed_at: int = 0
    narrowed_at: int = 0
    widened_at: int = 0
    widen_after: int = WIDEN_AFTER_S

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

    def below(self, request_bytes: int) -> "Limits":
        """After the connection was lost, with no answer, over a request of so many bytes."""
        most = max(LEAST_FRAME_BYTES, min(self.max_frame_bytes, request_bytes // 2))
        members = max(1, (most - BYTES_PER_FILTER) // BYTES_PER_MEMBER)
        return replace(self, max_frame_bytes=most, max_members=min(self.max_members, members))

    def learned(self, before: "Limits", now: int) -> "Limits":
        """These limits, with the time noted if refusals until `now` made them narrower than `before`."""
        if all(getattr(self, name) >= getattr(before, name) for name in _SIZES):
            return self
        in_vain = before.widened_at > before.narrowed_at
        patience = min(before.widen_after * 2, MAX_WIDEN_AFTER_S) if in_vain else before.widen_after
        return replace(self, narrowed_at=now, widen_after=patience)

    def widened(self, now: int) -> "Limits":
        """What to try now: a step more where refusals are long past, everything where there were none.

        What a relay says of itself is to be taken into account anew, and filters that it refused are tried again.
        """
        if self.refuses_kindless or self.notes_by_author:
            return replace(self, refuses_kindless=False, notes_by_author=False).widened(now)
        if not self.narrowed_at:
            return replace(self, **{name: getattr(_DEFAULT, name) for name in _SIZES})
        if now - max(self.narrowed_at, self.widened_at) < self.widen_after:
            return self
        wider = {name: min(2 * getattr(self, name), getattr(_DEFAULT, name)) for name in _SIZES}
        return replace(self, **wider, widened_at=now)

    def informed(self, now: int) -> "Limits":
        """As of a look at the NIP-11 document, whether it was to be had or not."""
        return replace(self, informed_at=now)

    def is_stale(self, now: int) -> bool:
        """Whether the NIP-11 document should be looked at again."""
        return now - self.informed_at >= INFORMATION_AGE_S

    def advertised(self, *, subscriptions: int | None, limit: int | None, message_bytes: int | None) -> "Limits":
        """Narrowed to what a NIP-11 document says; documents are often wrong, so nothing is widened by it."""
        spared = None if subscriptions is None else max(1, subscriptions - _SPARE_SUBSCRIPTIONS)
        members = None if not message_bytes else max(1, (message_bytes - BYTES_PER_FILTER) // BYTES_PER_MEMBER)
        return replace(
            self,
            max_subscriptions=_least(self.max_subscriptions, spared),
            page_limit=_least(self.page_limit, limit),
            max_members=_least(self.max_members, members),
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


_SIZES = ("max_subscriptions", "max_pages", "max_filters", "max_members", "page_limit", "max_frame_bytes")
_DEFAULT = Limits()


def _least(known: int, said: int | None) -> int:
    return known if said is None or said < 1 else min(known, said)
