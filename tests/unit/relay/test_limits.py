"""What a relay allows: learned from refusals, tried anew after long, within reason, and remembered as JSON."""

from dataclasses import asdict, replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.relay.limits import (
    BYTES_PER_FILTER,
    BYTES_PER_MEMBER,
    INFORMATION_AGE_S,
    LEAST_FRAME_BYTES,
    MAX_WIDEN_AFTER_S,
    WIDEN_AFTER_S,
    Limits,
)

BOUNDS = ("max_subscriptions", "max_pages", "max_filters", "max_members", "page_limit", "max_frame_bytes")
ANY_LIMITS = st.builds(
    Limits,
    max_subscriptions=st.integers(1, 30),
    max_pages=st.integers(1, 5),
    max_filters=st.integers(1, 20),
    max_members=st.integers(1, 400),
    page_limit=st.integers(1, 600),
    max_frame_bytes=st.integers(1, 200_000),
    until_exclusive=st.booleans(),
    oldest_first=st.booleans(),
    needs_kinds=st.booleans(),
    zero_is_all=st.booleans(),
    informed_at=st.integers(0, 2**40),
)


def test_the_defaults_are_what_every_relay_in_wide_use_accepts() -> None:
    """nostr-facts §4: 20 subscriptions on old strfry less two, 10 filters, 500 events, 131,072 bytes."""
    limits = Limits()
    assert limits.max_subscriptions <= 18
    assert limits.max_filters <= 10
    assert (limits.max_members, limits.page_limit) == (250, 500)
    assert limits.max_frame_bytes < 131_072
    assert 1 <= limits.max_pages < limits.max_subscriptions


@given(ANY_LIMITS, st.integers(0, 40))
def test_every_refusal_narrows_and_none_goes_below_one(limits: Limits, open_now: int) -> None:
    for narrowed in (
        limits.fewer_subscriptions(open_now), limits.fewer_pages(), limits.fewer_filters(), limits.smaller(),
        limits.advertised(subscriptions=open_now, limit=open_now, message_bytes=open_now),
    ):  # fmt: skip
        for name in BOUNDS:
            assert 1 <= getattr(narrowed, name) <= getattr(limits, name), name
        assert asdict(narrowed).items() - asdict(limits).items() <= {(name, getattr(narrowed, name)) for name in BOUNDS}


def test_too_many_subscriptions_leaves_one_less_than_were_open() -> None:
    limits = Limits().fewer_subscriptions(5)
    assert (limits.max_subscriptions, limits.max_pages) == (4, 3)
    assert limits.fewer_subscriptions(10) == limits
    assert limits.fewer_subscriptions(2).max_pages == 1
    assert limits.fewer_subscriptions(1).max_subscriptions == 1


def test_what_a_document_says_narrows_and_never_widens() -> None:
    said = Limits().advertised(subscriptions=10, limit=100, message_bytes=65_536)
    assert (said.max_subscriptions, said.page_limit, said.max_frame_bytes) == (8, 100, 65_536)
    assert Limits().advertised(subscriptions=50_000, limit=5_000_000, message_bytes=10**9) == Limits()
    assert Limits().advertised(subscriptions=None, limit=None, message_bytes=None) == Limits()
    assert Limits().advertised(subscriptions=0, limit=0, message_bytes=0).page_limit == 500


@pytest.mark.parametrize("message_bytes", [2_000, 16_384, 65_536, 131_072])
def test_a_request_for_a_whole_chunk_fits_what_the_relay_takes(message_bytes: int) -> None:
    """16,384 bytes are advertised here and there; 250 keys of 67 bytes are more, and such a relay hangs up on them."""
    limits = Limits().advertised(subscriptions=None, limit=None, message_bytes=message_bytes)
    page = 200 + 67 * limits.max_members
    assert page <= message_bytes
    assert limits.max_members == 250 or page > message_bytes - 67


@given(ANY_LIMITS)
def test_limits_survive_a_restart(limits: Limits) -> None:
    assert Limits.from_json(limits.to_json()) == limits


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        '{"max_pages":0}',
        '{"max_pages":"3"}',
        '{"max_pages":true}',
        '{"max_pages":2.0}',
    ],
)
def test_what_cannot_be_read_is_as_if_nothing_had_been_learned(text: str) -> None:
    assert Limits.from_json(text) == Limits()


def test_what_can_be_read_of_a_row_is_kept() -> None:
    """A newer version may have written more, an older one less."""
    text = orjson.dumps({"max_pages": 1, "until_exclusive": True, "page_limit": -5, "flavour": "lemon"}).decode()
    assert Limits.from_json(text) == replace(Limits(), max_pages=1, until_exclusive=True)


def test_the_document_is_looked_at_once_a_day() -> None:
    now = 1_700_000_000
    assert Limits().is_stale(now)
    known = Limits().informed(now)
    assert not known.is_stale(now + INFORMATION_AGE_S - 1)
    assert known.is_stale(now + INFORMATION_AGE_S)


def test_a_request_that_ended_the_connection_is_halved_but_never_below_what_every_relay_takes() -> None:
    limits = Limits()
    for size in (100_000, 40_000, 10_000, 5_000, 4_000):
        smaller = limits.below(size)
        assert smaller.max_frame_bytes == max(LEAST_FRAME_BYTES, min(limits.max_frame_bytes, size // 2))
        assert BYTES_PER_FILTER + smaller.max_members * BYTES_PER_MEMBER <= smaller.max_frame_bytes or (
            smaller.max_members == limits.max_members
        )
        limits = smaller
    assert limits.max_members > 50


NOW = 1_700_000_000


def sizes(limits: Limits) -> list[int]:
    return [getattr(limits, name) for name in BOUNDS]


def test_what_refusals_taught_is_doubted_after_a_day_step_by_step() -> None:
    before = Limits()
    limits = before.smaller().smaller().fewer_subscriptions(4).learned(before, NOW)
    assert limits.widened(NOW + WIDEN_AFTER_S - 1) == limits
    wider = limits.widened(NOW + WIDEN_AFTER_S)
    assert (wider.max_members, wider.max_subscriptions) == (2 * limits.max_members, 2 * limits.max_subscriptions)
    assert wider.widened(NOW + WIDEN_AFTER_S + 1) == wider
    for day in range(2, 10):
        wider = wider.widened(NOW + day * WIDEN_AFTER_S)
    assert sizes(wider) == sizes(Limits())


def test_a_relay_that_refuses_more_each_time_is_tried_ever_more_rarely() -> None:
    """Its limits do not flap."""
    before, now, trials = Limits(), NOW, 0
    limits = before.smaller().learned(before, now)
    while now < NOW + 300 * WIDEN_AFTER_S:
        now += WIDEN_AFTER_S
        tried = limits.widened(now)
        if tried != limits:
            trials += 1
            limits = tried.smaller().learned(tried, now)
    assert trials <= 15
    assert limits.widen_after == MAX_WIDEN_AFTER_S


def test_what_only_a_document_said_is_forgotten_for_the_next_one() -> None:
    small = Limits().advertised(subscriptions=3, limit=10, message_bytes=9_000)
    assert sizes(small.widened(NOW)) == sizes(Limits())


@given(ANY_LIMITS, st.integers(NOW, NOW + 2**30))
def test_nothing_is_tried_that_not_every_relay_is_asked_for(limits: Limits, now: int) -> None:
    most = Limits()
    for known in (limits, limits.smaller().learned(limits, NOW)):
        assert all(getattr(known.widened(now), name) <= max(getattr(most, name), 1) for name in BOUNDS) or (
            known.widened(now) == known
        )


def test_what_is_learned_otherwise_is_no_refusal_of_size() -> None:
    assert replace(Limits(), needs_kinds=True).learned(Limits(), NOW).narrowed_at == 0
