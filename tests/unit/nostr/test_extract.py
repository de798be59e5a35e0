"""What events say about contacts and relays, from well-formed, sloppy and hostile authors."""

import json
import time
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.nostr import kinds
from pipeline.nostr.event import Event, InvalidEvent, event_from_json
from pipeline.nostr.extract import (
    MAX_CANDIDATES,
    MAX_CONTENT_LENGTH,
    MAX_TEXTS,
    MentionSource,
    contacts,
    relay_candidates,
)
from tests.corpus import OURS, Corpus, needs_real, real

KEY = "ab" * 32


def make_event(kind: int, tags: list[list[str]] | None = None, content: str = "") -> Event:
    return Event(bytes(32), bytes(32), 1_700_000_000, kind, tags or [], content, bytes(64))


def named(event: Event) -> list[tuple[str, MentionSource]]:
    return [(candidate.address.url, candidate.source) for candidate in relay_candidates(event)]


def test_contacts_are_the_distinct_valid_keys_in_order() -> None:
    keys = [f"{number:064x}" for number in (3, 1, 2)]
    junk = ["", "x", KEY[:-1], KEY + "0", KEY.upper(), "zz" * 32, KEY + "\n", " " + KEY[1:], "٣" * 64]
    tags = [["p"], ["e", KEY], ["P", KEY], *(["p", value] for value in junk)]
    tags += [["p", key, "wss://nos.lol", "petname"] for key in [*keys, keys[0]]]
    assert contacts(make_event(kinds.CONTACTS, tags)) == [bytes.fromhex(key) for key in keys]


def test_only_contact_lists_have_contacts() -> None:
    assert contacts(make_event(kinds.TEXT_NOTE, [["p", KEY]])) == []


def test_ten_thousand_contacts() -> None:
    tags = [["p", f"{number:064x}"] for number in range(10_000)]
    assert len(contacts(make_event(kinds.CONTACTS, tags))) == 10_000


def test_relay_list_with_markers() -> None:
    tags = [
        ["r", "wss://both.example"],
        ["r", "wss://read.example/", "read"],
        ["r", "wss://write.example", "write", "extra"],
        ["r", "wss://odd.example", "sometimes"],
        ["r", "wss://twice.example", "read"],
        ["r", "wss://twice.example/", "write"],
        ["r", "https://web.example"],
        ["r", "bare.example"],
        ["r", "https://web.example/page"],
        ["r"],
    ]
    assert named(make_event(kinds.RELAY_LIST, tags)) == [
        ("wss://both.example", MentionSource.RELAY_LIST),
        ("wss://read.example", MentionSource.RELAY_LIST_READ),
        ("wss://write.example", MentionSource.RELAY_LIST_WRITE),
        ("wss://odd.example", MentionSource.RELAY_LIST),
        ("wss://twice.example", MentionSource.RELAY_LIST),
        ("wss://web.example", MentionSource.RELAY_LIST),
        ("wss://bare.example", MentionSource.RELAY_LIST),
    ]


def test_joined_addresses_in_one_tag() -> None:
    tags = [["r", "wss://a.example, wss://b.example junk", "read"]]
    assert named(make_event(kinds.RELAY_LIST, tags)) == [
        ("wss://a.example", MentionSource.RELAY_LIST_READ),
        ("wss://b.example", MentionSource.RELAY_LIST_READ),
    ]


@pytest.mark.parametrize(
    "content",
    [
        '{"wss://a.example/":{"read":true,"write":true},"https://b.example":{},"reply":0}',
        '[["wss://a.example",{"read":true}],["wss://b.example"],[],[1],{},null]',
        '["wss://a.example","wss://b.example","wss://a.example"]',
    ],
)
def test_relays_in_the_content_of_contact_lists(content: str) -> None:
    expected = [("wss://a.example", MentionSource.CONTACT_LIST), ("wss://b.example", MentionSource.CONTACT_LIST)]
    assert named(make_event(kinds.CONTACTS, content=content)) == expected
    assert named(make_event(kinds.TEXT_NOTE, content=content)) == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hello",
        "{",
        "7",
        "null",
        '"wss://a.example"',
        "[" * 60_000,
        '[["wss://a.example"' + ',["x"' * 10_000,
        '{"\\ud800":' + "[" * 30_000,
        '["wss://a.example"]' + " " * MAX_CONTENT_LENGTH,
        '["wss://a\ud800.example"]',
        "[NaN]",
    ],
)
def test_content_that_is_no_list_of_relays_harms_nothing(content: str) -> None:
    event = make_event(kinds.CONTACTS, [["p", KEY, "wss://hint.example"]], content)
    assert named(event) == [("wss://hint.example", MentionSource.HINT)]
    assert contacts(event) == [bytes.fromhex(KEY)]


def test_recommendation() -> None:
    assert named(make_event(kinds.RECOMMENDED_RELAY, content=" wss://a.example\n")) == [
        ("wss://a.example", MentionSource.RECOMMENDATION)
    ]


def test_monitor() -> None:
    tags = [["d", "wss://a.example/"], ["d", "wss://b.example"], ["n", "clearnet"]]
    assert named(make_event(kinds.RELAY_DISCOVERY, tags)) == [("wss://a.example", MentionSource.MONITOR)]
    assert named(make_event(kinds.RELAY_DISCOVERY, [["d", KEY]])) == []
    assert named(make_event(kinds.RELAY_DISCOVERY)) == []


@pytest.mark.parametrize("kind", [10050, kinds.SEARCH_RELAYS, kinds.RELAY_FEEDS, kinds.RELAY_SET, 34_550])
def test_relay_tags(kind: int) -> None:
    tags = [["relay", "wss://a.example", "author"], ["relay"], ["relays", "wss://b.example", "wss://c.example"]]
    assert named(make_event(kind, tags)) == [
        ("wss://a.example", MentionSource.RELAY_TAG),
        ("wss://b.example", MentionSource.RELAY_TAG),
        ("wss://c.example", MentionSource.RELAY_TAG),
    ]


@pytest.mark.parametrize("kind", [kinds.BLOCKED_RELAYS, kinds.AUTH])
def test_lists_that_recommend_nothing(kind: int) -> None:
    assert named(make_event(kind, [["relay", "wss://a.example"], ["r", "wss://a.example"]])) == []


def test_group_list() -> None:
    tags = [["group", "pizza", "wss://a.example", "name"], ["group", "pizza"], ["r", "wss://b.example"]]
    assert named(make_event(kinds.SIMPLE_GROUPS, tags)) == [
        ("wss://a.example", MentionSource.RELAY_TAG),
        ("wss://b.example", MentionSource.LINK),
    ]
    assert named(make_event(kinds.TEXT_NOTE, [["group", "pizza", "wss://a.example"]])) == []


@pytest.mark.parametrize("kind", [kinds.METADATA, kinds.TEXT_NOTE])
def test_web_links_are_ordinary_and_no_relays(kind: int) -> None:
    tags = [
        ["r", "https://web.example"],
        ["r", "https://web.example/page?x=wss://b.example"],
        ["r", "web.example"],
        ["r", "WSS://a.example"],
        ["r", "https://web.example wss://c.example"],
    ]
    assert named(make_event(kind, tags)) == [
        ("wss://a.example", MentionSource.LINK),
        ("wss://c.example", MentionSource.LINK),
    ]


def test_hints_stand_third_in_references_and_come_last() -> None:
    tags = [
        ["p", KEY, "wss://p.example", "petname"],
        ["e", KEY, "ws://e.example", "reply"],
        ["a", f"30023:{KEY}:x", "wss://a.example"],
        ["q", KEY, "wss://q.example"],
        ["e", KEY, "reply"],
        ["e", KEY, "https://web.example"],
        ["e", KEY, "bare.example"],
        ["e", KEY, "", "wss://marker.example"],
        ["x", KEY, "wss://x.example"],
        ["relay", "wss://q.example"],
    ]
    assert named(make_event(kinds.TEXT_NOTE, tags)) == [
        ("wss://q.example", MentionSource.RELAY_TAG),
        ("wss://p.example", MentionSource.HINT),
        ("ws://e.example", MentionSource.HINT),
        ("wss://a.example", MentionSource.HINT),
    ]


def test_private_relays_are_named_and_flagged() -> None:
    candidates = relay_candidates(
        make_event(kinds.RELAY_LIST, [["r", "ws://127.0.0.5:8081"], ["r", "wss://a.example"]])
    )
    assert [candidate.address.is_private for candidate in candidates] == [True, False]


def test_candidates_are_bounded() -> None:
    tags = [["r", f"wss://relay{number}.example"] for number in range(MAX_CANDIDATES * 3)]
    tags.append(["r", "wss://relay0.example", "read"])
    found = named(make_event(kinds.RELAY_LIST, tags))
    assert found == [(f"wss://relay{number}.example", MentionSource.RELAY_LIST) for number in range(MAX_CANDIDATES)]


def test_junk_uses_up_a_bounded_number_of_attempts_and_repetition_none() -> None:
    repeated = [["p", KEY, "wss://one.example"]] * MAX_TEXTS * 3
    event = make_event(kinds.CONTACTS, [*repeated, ["p", KEY, "wss://two.example"]])
    assert named(event) == [("wss://one.example", MentionSource.HINT), ("wss://two.example", MentionSource.HINT)]
    junk = [["r", f"wss://{number}@x.example"] for number in range(MAX_TEXTS - 1)]
    tail = [["r", "wss://one.example"], ["r", "wss://two.example"]]
    assert named(make_event(kinds.RELAY_LIST, junk + tail)) == [("wss://one.example", MentionSource.RELAY_LIST)]


@pytest.mark.parametrize("pattern", ["%20", "a.", "x,", "é", "wss://", "wss://a.b "])
def test_a_hostile_megabyte_costs_little(pattern: str) -> None:
    """The bound is some ten times what a slow machine needs."""
    long = [["r", (f"{number} " + pattern * 4096)[:4096]] for number in range(256)]
    many = [["p", KEY, (f"wss://{number}" + pattern * 100)[:100]] for number in range(10_000)]
    started = time.process_time()
    for tags in (long, many):
        relay_candidates(make_event(kinds.RELAY_LIST, tags))
    assert time.process_time() - started < 4.0


TEXT = st.one_of(
    st.text(max_size=20), st.sampled_from(["p", "r", "relay", "relays", "group", "d", "read", "wss://a.example"])
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([0, 1, 2, 3, 10_002, 10_009, 10_050, 30_166]),
    st.lists(st.lists(TEXT, min_size=1, max_size=4), max_size=8),
    st.one_of(
        TEXT, st.recursive(st.one_of(st.none(), TEXT), lambda x: st.lists(x) | st.dictionaries(TEXT, x)).map(json.dumps)
    ),
)
def test_no_event_raises(kind: int, tags: list[list[str]], content: str) -> None:
    event = make_event(kind, tags, content)
    candidates = relay_candidates(event)
    assert len({candidate.address for candidate in candidates}) == len(candidates)
    assert all(len(key) == 32 for key in contacts(event))


@dataclass(slots=True)
class Found:
    """What the events of a corpus say."""

    followed: int
    relays: set[str]
    sources: Counter[MentionSource]


def said_by(corpus: Corpus) -> Found:
    found = Found(0, set(), Counter())
    for line in corpus.event_lines():
        try:
            event = event_from_json(line)
        except InvalidEvent:
            continue
        found.followed += len(contacts(event))
        candidates = relay_candidates(event)
        found.relays.update(candidate.address.url for candidate in candidates)
        found.sources.update(candidate.source for candidate in candidates)
    return found


def test_our_corpus_names_relays_and_contacts() -> None:
    """Each source once at least; a change here is to be explained, not only copied."""
    found = said_by(OURS)
    assert found.followed == 163
    hosts = ["both", "h", "hint", "hint2", "hint3", "in", "inbox", "link", "monitored", "out", "recommended"]
    hosts += [f"relay-{number}" for number in range(3)]
    expected = {f"wss://{host}.example.com" for host in hosts}
    assert found.relays == expected | {"wss://set.example.com/path", "ws://not.example.com", "ws://10.0.0.1"}
    assert found.sources == {
        MentionSource.HINT: 5,
        MentionSource.CONTACT_LIST: 3,
        MentionSource.RELAY_LIST: 3,
        MentionSource.RELAY_TAG: 2,
        MentionSource.RELAY_LIST_READ: 1,
        MentionSource.RELAY_LIST_WRITE: 1,
        MentionSource.RECOMMENDATION: 1,
        MentionSource.MONITOR: 1,
        MentionSource.LINK: 1,
    }


@needs_real
def test_real_events_name_relays_and_contacts() -> None:
    """Counts over all of them; a change here is to be explained, not only copied."""
    found = said_by(real())
    assert found.followed == 21_082
    assert len(found.relays) == 434
    assert found.sources == {
        MentionSource.RELAY_TAG: 923,
        MentionSource.RELAY_LIST: 909,
        MentionSource.CONTACT_LIST: 865,
        MentionSource.HINT: 775,
        MentionSource.LINK: 132,
        MentionSource.RELAY_LIST_READ: 64,
        MentionSource.RELAY_LIST_WRITE: 19,
        MentionSource.MONITOR: 15,
        MentionSource.RECOMMENDATION: 3,
    }
