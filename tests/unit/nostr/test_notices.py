"""Prose from relays: prefixes, notice types in their order, and which refusals ask for what."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.nostr.notices import (
    PREFIXES,
    NoticeType,
    classify_notice,
    is_concurrency_limit,
    is_rate_limit,
    is_too_large,
    reason_prefix,
)
from tests.unit.nostr.strategies import property_test

WORDS = (
    "rate,limit,slow,down,unknown,feed,auth,invalid,error,ERROR:,too fast,too many,concurrent,requests,noting too much,"
    "only filter with search is supported,\n, ,-,x"
)
words = st.lists(st.sampled_from(WORDS.split(",")), max_size=6).map("".join)


@pytest.mark.parametrize(
    ("reason", "prefix"),
    [
        ("", ""),
        ("blocked: no", "blocked"),
        ("auth-required: who are you", "auth-required"),
        ("ERROR: auth-required: who are you", "auth-required"),
        ("error:restricted:no", "restricted"),
        ("Error:   Blocked: no", "blocked"),
        ("ERROR: bad req: too small", "error"),
        ("error: could not connect", "error"),
        ("error: error: twice", "error"),
        ("ERROR: ", "error"),
        ("rate-limited: slow down", "rate-limited"),
        ("pow: difficulty 3<8", "pow"),
        ("pow:", "pow"),
        (" invalid: x", "invalid"),
        ("RATE-LIMITED: x", "rate-limited"),
        ("rejected: event already exists", ""),
        ("invalid", ""),
        ("invalid event: x", ""),
        ("this is invalid: x", ""),
        ("PROTOCOL-ERROR", ""),
        (":", ""),
        ("a" * 100 + ":", ""),
        ("\u0131nvalid: x", ""),
    ],
)
def test_the_prefix_of_a_reason(reason: str, prefix: str) -> None:
    assert reason_prefix(reason) == prefix


@pytest.mark.parametrize("prefix", sorted(PREFIXES))
def test_every_prefix_is_found_with_and_without_error_before_it(prefix: str) -> None:
    assert reason_prefix(f"{prefix}: why") == reason_prefix(f"ERROR: {prefix}: why") == prefix


@given(st.text())
def test_a_prefix_is_of_the_closed_set(reason: str) -> None:
    assert reason_prefix(reason) in PREFIXES | {""}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", NoticeType.EMPTY),
        (" \n", NoticeType.EMPTY),
        ("Only filter with search is supported ", NoticeType.ONLY_WITH_SEARCH),
        ("error: only filter with search is supported", NoticeType.ONLY_WITH_SEARCH),
        ("rate limited", NoticeType.RATE_LIMIT),
        ("Rate exceeds your LIMIT", NoticeType.RATE_LIMIT),
        ("error: too fast, slow down please", NoticeType.RATE_LIMIT),
        ("slow there down chief", NoticeType.RATE_LIMIT),
        ("limit your rate", NoticeType.UNKNOWN),
        ("rate\nlimit", NoticeType.UNKNOWN),
        ("ERROR: auth-required: x", NoticeType.AUTH_REQUIRED),
        ("invalid author", NoticeType.AUTH_REQUIRED),
        ("unknown feed", NoticeType.UNKNOWN_FEED),
        ("Unknown or invalid feed", NoticeType.UNKNOWN_FEED),
        ("Invalid event format!", NoticeType.INVALID),
        ("error: invalid", NoticeType.INVALID),
        ("ERROR: bad req: filter item too small", NoticeType.UNKNOWN_ERROR),
        ("ERROR: too many concurrent REQs", NoticeType.UNKNOWN_ERROR),
        ("hello", NoticeType.UNKNOWN),
    ],
)
def test_the_type_of_a_notice(text: str, kind: NoticeType) -> None:
    assert classify_notice(text) is kind


def naive_notice_type(text: str) -> str:
    """The contract's list, with its regular expressions as they stand there."""
    text = text.strip().lower()
    rules = [
        ("EMPTY", text == ""),
        ("ONLY_WITH_SEARCH", text.endswith("only filter with search is supported")),
        ("RATE_LIMIT", re.search("rate.*limit|too fast|slow.*down", text)),
        ("AUTH_REQUIRED", "auth" in text),
        ("UNKNOWN_FEED", re.search("unknown.*feed", text)),
        ("INVALID", "invalid" in text),
        ("UNKNOWN_ERROR", "error" in text),
    ]
    return next((name for name, holds in rules if holds), "UNKNOWN")


@property_test
@given(words | st.text())
def test_notices_are_typed_as_the_contract_spells_it(text: str) -> None:
    assert classify_notice(text) == naive_notice_type(text)
    assert classify_notice(text.upper()) == naive_notice_type(text.upper())


@property_test
@given(words | st.text())
def test_rate_limits_are_those_of_one_expression(text: str) -> None:
    expression = "rate.?limit|too fast|too many (concurrent|requests)|slow.*down|noting too much"
    assert is_rate_limit(text) == bool(re.search(expression, text.lower()))


@pytest.mark.parametrize(
    ("text", "rate_limit", "concurrency_limit", "too_large"),
    [
        ("ERROR: too many concurrent REQs", True, True, False),
        ("Subscription error: Maximum concurrent subscription count reached", False, True, False),
        ("Subscription rejected: Too many subscriptions: 11", False, True, False),
        ("rate-limited: too many open filters", True, True, False),
        ("Subscription rejected: Too many filters: 11", False, False, True),
        ("rate limited", True, False, False),
        ("rate-limited: there is a bug in the client, no one should be making so many requests", True, False, False),
        ("error: too fast, slow down please", True, False, False),
        ("rate-limited: you are noting too much", True, False, False),
        ("too many requests", True, False, False),
        ("could not parse command", False, False, True),
        ("message too large (300000 > 131072)", False, False, True),
        ("event exceeded max size", False, False, True),
        ("ERROR: bad req: total filter items too large", False, False, True),
        ("blocked: too many things to filter for", False, False, True),
        ("auth-required: who are you", False, False, False),
        ("", False, False, False),
    ],
)
def test_what_a_refusal_asks_for(text: str, rate_limit: bool, concurrency_limit: bool, too_large: bool) -> None:
    assert (is_rate_limit(text), is_concurrency_limit(text), is_too_large(text)) == (
        rate_limit,
        concurrency_limit,
        too_large,
    )


@pytest.mark.parametrize("word", ["rate", "slow", "unknown", "error: ", "too many ", "auth-required", "\n", " ", "-"])
def test_long_prose_costs_linear_time(word: str) -> None:
    """The expressions of the contract, run as they stand, take quadratic time on such text."""
    text = word * (1_000_000 // len(word))
    started = time.process_time()
    for function in (classify_notice, is_rate_limit, is_concurrency_limit, is_too_large, reason_prefix):
        function(text)
    assert time.process_time() - started < 5
