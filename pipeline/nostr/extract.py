"""What an event teaches the crawler: whom its author follows, and where relays may be found (NIP-02, 51, 65, 66).

Everything here is a stranger's text: a value that cannot be used costs itself and nothing else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final

from pipeline.nostr import json_text, kinds, tags
from pipeline.nostr.address import InvalidAddress, RelayAddress, parse_address, split_addresses
from pipeline.nostr.event import Event

MAX_CANDIDATES: Final = 100  # real lists name a few dozen; one author must not fill the table of relays
MAX_TEXTS: Final = 1_000  # texts parsed for one event, at some 20 µs each, where tags may number tens of thousands
MAX_CONTENT_LENGTH: Final = 65_536  # characters; JSON of a thousand relays with their read and write flags

_PUBLIC_KEY: Final = re.compile("[0-9a-f]{64}")
_WEBSOCKET: Final = re.compile(r"wss?://", re.ASCII | re.IGNORECASE)
_NOT_RECOMMENDING: Final = frozenset({kinds.BLOCKED_RELAYS, kinds.AUTH})
_HINT_TAGS: Final = frozenset({"p", "e", "a", "q"})
_STATEMENT_TAGS: Final = frozenset({"r", "relay", "relays", "group"})


class MentionSource(StrEnum):
    """What kind of statement named a relay; a closed set, fit for a metric label and a database column."""

    RELAY_LIST = "relay-list"  # NIP-65, read from and written to
    RELAY_LIST_READ = "relay-list-read"
    RELAY_LIST_WRITE = "relay-list-write"
    CONTACT_LIST = "contact-list"  # the obsolete JSON in a contact list's content
    RECOMMENDATION = "recommendation"  # the obsolete kind 2
    MONITOR = "monitor"  # NIP-66
    RELAY_TAG = "relay-tag"  # NIP-17, 51 and others: lists for special purposes
    LINK = "link"  # an `r` tag outside of relay lists
    HINT = "hint"  # beside a reference to a key or an event


WRITTEN_TO: Final = frozenset({MentionSource.RELAY_LIST, MentionSource.RELAY_LIST_WRITE})
READ_FROM: Final = frozenset({MentionSource.RELAY_LIST, MentionSource.RELAY_LIST_READ})
_MARKERS: Final = {"read": MentionSource.RELAY_LIST_READ, "write": MentionSource.RELAY_LIST_WRITE}
_RELAY_LIST_SOURCES: Final = frozenset({MentionSource.RELAY_LIST, *_MARKERS.values()})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A relay that an event names, and how."""

    address: RelayAddress
    source: MentionSource


def contacts(event: Event) -> list[bytes]:
    """Return the distinct keys, 32 bytes each, in a contact list (kind 3), in its order; `[]` for another kind.

    Only 64 lowercase hexadecimal digits are a key (NIP-01); a malformed `p` tag costs itself alone.
    """
    if event.kind != kinds.CONTACTS:
        return []
    return list(
        dict.fromkeys(bytes.fromhex(key) for key in tags.first_values(event, "p") if _PUBLIC_KEY.fullmatch(key))
    )


def relay_candidates(event: Event) -> list[Candidate]:
    """Return the relays that `event` names, each once, at most `MAX_CANDIDATES`; statements come before hints.

    Private addresses are among them (see `RelayAddress.is_private`); relays that the author blocks are not.
    """
    found: dict[str, Candidate] = {}
    for text, source in islice(_texts(event), MAX_TEXTS):
        try:
            address = parse_address(text)
        except InvalidAddress:
            continue
        known = found.get(address.url)
        if known is None and len(found) == MAX_CANDIDATES:
            break
        found[address.url] = Candidate(address, _merge(known.source, source) if known else source)
    return list(found.values())


def _merge(known: MentionSource, new: MentionSource) -> MentionSource:
    """Return the source of a relay that is named twice: the first, but read and write together make both."""
    both = known is not new and known in _RELAY_LIST_SOURCES and new in _RELAY_LIST_SOURCES
    return MentionSource.RELAY_LIST if both else known


def _texts(event: Event) -> Iterator[tuple[str, MentionSource]]:
    """Yield what may be an address of a relay, one at a time."""
    for text, source in dict.fromkeys(_statements(event)):
        # What stands beside a reference or links to a page is a relay only where it says so.
        explicit_only = source in (MentionSource.HINT, MentionSource.LINK)
        for part in split_addresses(text):
            if not explicit_only or _WEBSOCKET.match(part):
                yield part, source


def _statements(event: Event) -> Iterator[tuple[str, MentionSource]]:
    if event.kind in _NOT_RECOMMENDING:
        return
    if event.kind == kinds.RELAY_DISCOVERY:
        yield tags.identifier(event), MentionSource.MONITOR
    elif event.kind == kinds.RECOMMENDED_RELAY:
        yield event.content, MentionSource.RECOMMENDATION
    elif event.kind == kinds.CONTACTS:
        yield from ((text, MentionSource.CONTACT_LIST) for text in _content_relays(event.content))
    yield from _tag_statements(event)
    yield from ((tag[2], MentionSource.HINT) for tag in event.tags if len(tag) > 2 and tag[0] in _HINT_TAGS and tag[2])


def _tag_statements(event: Event) -> Iterator[tuple[str, MentionSource]]:
    for tag in event.tags:
        if not tag or tag[0] not in _STATEMENT_TAGS:
            continue
        match tag:
            case ["r", text, *markers]:
                yield text, _relay_list_source(markers) if event.kind == kinds.RELAY_LIST else MentionSource.LINK
            case ["relay", text, *_]:
                yield text, MentionSource.RELAY_TAG
            case ["relays", *texts]:
                yield from ((text, MentionSource.RELAY_TAG) for text in texts)
            case ["group", _, text, *_] if event.kind == kinds.SIMPLE_GROUPS:
                yield text, MentionSource.RELAY_TAG


def _relay_list_source(markers: list[str]) -> MentionSource:
    return _MARKERS.get(markers[0], MentionSource.RELAY_LIST) if markers else MentionSource.RELAY_LIST


def _content_relays(content: str) -> Iterator[str]:
    """Yield the addresses in a contact list's content: `{"wss://…": {…}}`, `[["wss://…", …]]` or `["wss://…"]`."""
    if not content.startswith(("{", "[")) or len(content) > MAX_CONTENT_LENGTH:
        return
    try:
        value = json_text.decode(content.encode("utf-8", "backslashreplace"))
    except json_text.NotJson:
        return
    for item in value:
        first = item[0] if type(item) is list and item else item
        if type(first) is str:
            yield first
