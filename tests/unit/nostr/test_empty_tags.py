"""Every reader of tags passes over an empty one."""

from collections.abc import Callable

import pytest

from pipeline.nostr import kinds
from pipeline.nostr.event import Event
from pipeline.nostr.extract import contacts, relay_candidates
from pipeline.nostr.filter import Filter
from pipeline.nostr.proof_of_work import proven_bits
from pipeline.nostr.registration import parse_departure
from pipeline.nostr.tags import coordinate, expiration, is_protected, public_keys
from pipeline.probe.known import letters
from pipeline.rules.relevance import Relevance
from pipeline.rules.retraction import retraction

_KEY = bytes(range(32))
_TAGS = [
    ["-"], ["p", _KEY.hex()], ["e", "11" * 32, "wss://a.example"], ["a", f"30023:{_KEY.hex()}:x"], ["k", "6666"],
    ["d", "x"], ["r", "wss://b.example"], ["relay", "ALL_RELAYS"], ["expiration", "5"], ["nonce", "1", "20"],
]  # fmt: skip
_READERS: list[Callable[[Event], object]] = [
    contacts, relay_candidates, proven_bits, lambda event: parse_departure(event, None), coordinate, expiration,
    is_protected, public_keys, lambda event: list(letters(event)), retraction, Relevance().rule,
    Filter(tags=(("p", frozenset({_KEY.hex()})),)).matches,
]  # fmt: skip


@pytest.mark.parametrize("kind", [
    kinds.TEXT_NOTE, kinds.CONTACTS, kinds.DELETION, kinds.VANISH, kinds.RELAY_LIST, kinds.RELAY_DISCOVERY,
    kinds.SIMPLE_GROUPS, 30_023,
])  # fmt: skip
def test_empty_tags_change_nothing_for_any_reader(kind: int) -> None:
    def event(tags: list[list[str]]) -> Event:
        return Event(bytes(32), _KEY, 1, kind, tags, "", bytes(64))

    odd = event([[], *(each for tag in _TAGS for each in (tag, []))])
    assert [read(odd) for read in _READERS] == [read(event(_TAGS)) for read in _READERS]
