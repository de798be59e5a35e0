"""What pages show of a relay."""

from dataclasses import replace

import pytest

from pipeline.probe.exchange import Ask, End, Reply
from pipeline.probe.questions.borders import TimeBorders
from pipeline.probe.questions.pages import FirstPage, NoLimit, PageLimit, Truncation, ZeroLimit
from tests.factories.events import Author
from tests.fakes.behaviour import Behaviour, Order
from tests.unit.probe.model import NOW, Filters, ModelRelay, seen, world

WORLD = world()


def value(question: object, name: str, **behaviour: object) -> object:
    relay = ModelRelay(WORLD, Behaviour(**behaviour))  # type: ignore[arg-type]  # members of many types
    return seen(question, relay)[name].value  # type: ignore[arg-type]  # every question


@pytest.mark.parametrize(
    ("order", "expected"),
    [(Order.NEWEST, "newest first"), (Order.OLDEST, "oldest first"), (Order.SHUFFLED, "none")],
)
def test_order_is_that_of_the_first_page(order: Order, expected: str) -> None:
    assert value(FirstPage(), "page.order", order=order) == expected


def test_order_of_few_events_is_unknown() -> None:
    assert seen(FirstPage(), ModelRelay(WORLD[:2]))["page.order"].value is None


def test_filter_without_conditions_may_match_nothing_or_be_refused() -> None:
    nothing = Behaviour(empty_filter_matches_nothing=True)
    assert seen(FirstPage(), ModelRelay(WORLD, nothing))["page.everything"].value == "matches nothing"

    def refuse(filters: Filters, _: Ask) -> Reply | None:
        return None if "kinds" in filters[0] else Reply(End.CLOSED, "blocked: can't handle empty filters")

    relay = ModelRelay(WORLD, refuse=refuse)
    known = relay.known()
    found = seen(FirstPage(), relay, known)
    assert (found["page.everything"].value, found["page.everything"].how) == ("refused", "CLOSED")
    assert found["page.order"].value == "newest first"
    assert not known.is_sample_kindless


def test_relay_that_wants_no_scrapers_shows_a_hundred_notes() -> None:
    def refuse(filters: Filters, _: Ask) -> Reply | None:
        return Reply(End.CLOSED, "error: scraper") if filters[0]["limit"] > 100 else None

    relay = ModelRelay(WORLD, refuse=refuse)
    known = relay.known()
    assert seen(FirstPage(), relay, known)["page.order"].value == "newest first"
    assert len(known.sample) == sum(each.kind == 1 for each in WORLD)


def test_relay_that_wants_authors_of_notes_shows_pages_of_other_kinds() -> None:
    def refuse(filters: Filters, _: Ask) -> Reply | None:
        is_known = 1 not in filters[0].get("kinds", [1])
        return None if is_known else Reply(End.CLOSED, "blocked: an author must be specified to get their kind:1 notes")

    relay = ModelRelay(WORLD, Behaviour(cap=12), refuse=refuse)
    known = replace(relay.known(), is_sample_kindless=False, pool={}, sample=())
    assert seen(FirstPage(), relay, known)["page.order"].value == "newest first"
    assert seen(Truncation(), relay, known)["page.limit_keeps"].value == "the newest"
    assert seen(PageLimit(), relay, known)["limit.page"].value == 12


def test_silent_relay_without_events_shows_nothing() -> None:
    found = seen(FirstPage(), ModelRelay([]))
    assert [each.value for each in found.values()] == [None, None]


@pytest.mark.parametrize(
    ("order", "expected"),
    [(Order.NEWEST, "the newest"), (Order.OLDEST, "the oldest"), (Order.SHUFFLED, "the newest")],
)
def test_limit_keeps_an_end(order: Order, expected: str) -> None:
    assert value(Truncation(), "page.limit_keeps", order=order) == expected


def test_cap_is_seen_where_older_events_exist() -> None:
    found = seen(PageLimit(), ModelRelay(WORLD, Behaviour(cap=25)))["limit.page"]
    assert (found.value, found.how) == (25, "fewer events")


def test_cap_that_cuts_to_a_quarter_is_the_largest_limit_honoured() -> None:
    found = seen(PageLimit(), ModelRelay(WORLD, Behaviour(cap=40, quarter_above_cap=True)))["limit.page"]
    assert (found.value, found.note) == (40, "a limit of 41 brings 10")


def test_cap_beyond_all_that_there_is_stays_unknown() -> None:
    found = seen(PageLimit(), ModelRelay(WORLD, Behaviour(cap=61)))["limit.page"]
    assert found.value is None
    assert "60 events came" in found.note


def test_refused_limit_is_searched_for() -> None:
    words = "invalid: limit must be less than or equal to 300"

    def refuse(filters: Filters, _: Ask) -> Reply | None:
        return Reply(End.CLOSED, words) if filters[0]["limit"] > 300 else None

    found = seen(PageLimit(), ModelRelay(WORLD, refuse=refuse))["limit.page"]
    assert (found.value, found.how, found.says) == (300, "CLOSED", words)


def test_withheld_events_do_not_count_to_the_cap() -> None:
    letters = [Author.from_seed(9, 0).sign(str(n), kind=4, created_at=NOW - 50 - 20 * n) for n in range(40)]
    behaviour = Behaviour(cap=50, withheld_kinds=frozenset({4}))
    relay = ModelRelay([*WORLD, *letters], behaviour)
    known = replace(relay.known(), pool={}, sample=())
    known.note(each for each in relay.known().sample if each.kind != 4)
    assert seen(PageLimit(), relay, known)["limit.page"].value == 50


def test_default_limit_and_the_end_that_it_keeps() -> None:
    found = seen(NoLimit(), ModelRelay(WORLD, Behaviour(default_limit=20)))["page.no_limit"]
    assert (found.value, found.note) == (20, "the newest")
    found = seen(NoLimit(), ModelRelay(WORLD, Behaviour(cap=20, oldest_without_limit=True)))["page.no_limit"]
    assert (found.value, found.note) == (20, "the oldest, or any")
    assert value(NoLimit(), "page.no_limit") is None


def test_limit_zero_brings_nothing_or_the_store() -> None:
    assert value(ZeroLimit(), "page.limit_zero") == "EOSE, no stored event"
    assert value(ZeroLimit(), "page.limit_zero", zero_limit_is_unlimited=True) == "stored events"
    silent = ModelRelay(WORLD, refuse=lambda _, __: Reply(End.SILENCE))
    assert seen(ZeroLimit(), silent)["page.limit_zero"].value == "no answer"
    refusing = ModelRelay(WORLD, refuse=lambda _, __: Reply(End.NOTICE, "limit must be greater than 0"))
    found = seen(ZeroLimit(), refusing)["page.limit_zero"]
    assert (found.value, found.how) == ("refused", "NOTICE")


@pytest.mark.parametrize("by", ["author", "everything"])
@pytest.mark.parametrize(
    ("trait", "since", "until"),
    [
        ("", "inclusive", "inclusive"), ("since_exclusive", "exclusive", "inclusive"),
        ("until_exclusive", "inclusive", "exclusive"), ("ignores_since", "ignored", "inclusive"),
        ("ignores_until", "inclusive", "ignored"),
    ],
)  # fmt: skip
def test_borders_are_read_at_the_second_of_an_event(by: str, trait: str, since: str, until: str) -> None:
    behaviour = Behaviour(**({trait: True} if trait else {}))  # type: ignore[arg-type]  # all of them are flags
    found = seen(TimeBorders(by), ModelRelay(WORLD, behaviour))
    assert (found[f"border.since_{by}"].value, found[f"border.until_{by}"].value) == (since, until)


def test_borders_of_an_empty_relay_are_unknown() -> None:
    found = seen(TimeBorders("author"), ModelRelay([]))
    assert {each.value for each in found.values()} == {None}
