"""The texts that relays refuse with, as pipeline/docs/nostr-relays.md lists them, and what each is taken for."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.nostr.notices import reason_prefix
from pipeline.relay.refusals import RelayRefusal, classify, read

R = RelayRefusal
TEXTS = [
    ("ERROR: too many concurrent REQs", R.TOO_MANY_SUBSCRIPTIONS),
    ("too many concurrent REQs", R.TOO_MANY_SUBSCRIPTIONS),
    ("Subscription error: Maximum concurrent subscription count reached", R.TOO_MANY_SUBSCRIPTIONS),
    ("Subscription rejected: Too many subscriptions: 11 subscriptions, limit is 10", R.TOO_MANY_SUBSCRIPTIONS),
    ("error: too many subscriptions", R.TOO_MANY_SUBSCRIPTIONS),
    ("Subscription rejected: Too many filters: 11 filters, limit is 10", R.TOO_MANY_FILTERS),
    ("rate limited", R.RATE_LIMITED),
    ("rate-limited: there is a bug in the client, no one should be making so many requests", R.RATE_LIMITED),
    ("rate-limited: slow down, please", R.RATE_LIMITED),
    ("rate-limited: too many queries", R.RATE_LIMITED),
    ("error: too fast, slow down please", R.RATE_LIMITED),
    ("rate-limited: you are noting too much", R.RATE_LIMITED),
    ("too many requests", R.RATE_LIMITED),
    ("could not parse command", R.TOO_LARGE),
    ("message too large (140012 > 131072)", R.TOO_LARGE),
    ("event exceeded max size", R.TOO_LARGE),
    ("ERROR: bad req: total filter items too large", R.TOO_LARGE),
    ("blocked: too many things to filter for", R.TOO_LARGE),
    ("ERROR: bad req: uneven size input to from_hex", R.UNSUPPORTED),
    ("ERROR: bad req: unrecognised filter item", R.UNSUPPORTED),
    ("we only filter with search is supported", R.SEARCH_ONLY),
    ("error: only filter with search is supported", R.SEARCH_ONLY),
    ("blocked: can't handle empty filters", R.KINDLESS),
    ("filters without kinds are not supported", R.KINDLESS),
    ("invalid: a filter must name kinds", R.KINDLESS),
    ("blocked: an author must be specified to get their kind:1 notes", R.AUTHORLESS),
    ("auth-required: we only serve members", R.AUTH_REQUIRED),
    ("ERROR: auth-required: subscription needs it", R.AUTH_REQUIRED),
    ("please authenticate first", R.AUTH_REQUIRED),
    ("unauthorized", R.AUTH_REQUIRED),
    ("restricted: not on the list", R.RESTRICTED),
    ("ERROR: restricted: requested too many", R.RESTRICTED),
    ("unsupported: filter contains unknown elements", R.UNSUPPORTED),
    ("invalid: filter", R.UNSUPPORTED),
    ("error: shutting down idle subscription", R.ERROR),
    ("error: could not connect to the database", R.ERROR),
    ("closed: have a nice day", R.ERROR),
    ("", R.ERROR),
]


@pytest.mark.parametrize(("text", "refusal"), TEXTS)
def test_the_reason_of_a_closed(text: str, refusal: RelayRefusal) -> None:
    assert classify(text, reason_prefix(text)) is refusal


@pytest.mark.parametrize(("text", "refusal"), TEXTS)
def test_case_does_not_matter(text: str, refusal: RelayRefusal) -> None:
    assert classify(text.upper(), reason_prefix(text.upper())) is refusal
    assert classify(text.lower(), reason_prefix(text.lower())) is refusal


@pytest.mark.parametrize("text", ["authors wanted: none", "authors: too short", "Error: unknown author"])
def test_a_word_about_authors_asks_for_no_authentication(text: str) -> None:
    assert classify(text, reason_prefix(text)) is RelayRefusal.ERROR


@pytest.mark.parametrize("refusal", RelayRefusal)
def test_asking_again_soon_helps_unless_the_relay_will_not_serve_us(refusal: RelayRefusal) -> None:
    lasting = {R.AUTH_REQUIRED, R.RESTRICTED, R.FORBIDDEN, R.SEARCH_ONLY, R.PAYMENT, R.UNSUPPORTED}
    assert refusal.is_lasting is (refusal in lasting)


DOCUMENT = Path(pipeline.__file__).parent / "docs" / "nostr-relays.md"
ROW = re.compile(r"\| `(.+)` \| .+ \| ([a-z].*) \|")


def documented() -> list[tuple[str, str]]:
    """Every text of the documents, with what it is said to be taken for."""
    section = DOCUMENT.read_text().split("## Texts")[1].split("\n## ")[0]
    return [(row[1], row[2]) for row in map(ROW.fullmatch, section.splitlines()) if row is not None]


def test_the_documents_list_texts() -> None:
    assert len(documented()) > 70


@pytest.mark.parametrize(("text", "taken_for"), documented())
def test_a_text_is_taken_for_what_the_documents_say(text: str, taken_for: str) -> None:
    assert str(read(text)) == taken_for
    assert str(read(text.upper())) == str(read(text.lower())) == taken_for


@pytest.mark.parametrize(
    ("text", "filter_", "asked"),
    [
        ('invalid: must be less than or equal to 20 kinds at "[2].kinds"', 0, None),
        ('invalid: must be less than or equal to 1000 authors at "[4].authors"', 2, None),
        ("message too large (40763 > 16384)", None, 40_763),
        ("ERROR: bad req: filter validation failed: too many kinds in filter: 181", None, 181),
    ],
)
def test_a_text_tells_which_filter_it_is_about_and_how_much_there_was(
    text: str, filter_: int | None, asked: int | None
) -> None:
    assert (read(text).filter, read(text).asked) == (filter_, asked)


@pytest.mark.parametrize("text", ["x" * 10**6, "too many kinds: " + "9" * 10**5, "limit " * 10**5, "at most " * 10**5])
def test_a_long_text_is_read_no_further_than_it_says_something(text: str) -> None:
    assert read(text).refusal in RelayRefusal


@given(st.text(), st.text())
def test_every_text_is_some_refusal(text: str, prefix: str) -> None:
    assert classify(text, prefix) in RelayRefusal
