"""Which forms of filters leave events out, and how odd ones are taken."""

from typing import Final

import pytest

from pipeline.probe.exchange import Ask, End, Reply
from pipeline.probe.questions.forms import FORMS, FilterForm, LastValue, TwoFilters
from pipeline.probe.questions.oddities import NONSENSE, ODDITIES, Nonsense, Oddity
from tests.factories.events import Author
from tests.fakes.behaviour import Behaviour
from tests.unit.probe.model import NOW, Filters, ModelRelay, event_of, seen, world

WORLD = world()
BY_NAME: Final[dict[str, FilterForm | Oddity]] = {form.name: form for form in FORMS} | {
    odd.name: odd for odd in ODDITIES
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_form_is_whole_at_an_honest_relay(form: FilterForm) -> None:
    found = seen(form, ModelRelay(WORLD))
    (line,) = found.values()
    assert line.value == "whole"
    assert not line.note.startswith("0 of")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_form_without_events_is_unknown(form: FilterForm) -> None:
    (line,) = seen(form, ModelRelay([])).values()
    assert line.value is None


def test_mentions_that_lie_by_kind_have_holes_without_kinds() -> None:
    relay = ModelRelay(WORLD, Behaviour(kinds_for_times=True))
    assert seen(BY_NAME["p_tag_times"], relay)["form.p_tag_times"].value == "holes"
    assert seen(BY_NAME["p_tag_kinds_times"], relay)["form.p_tag_kinds_times"].value == "whole"


def test_full_page_proves_no_holes() -> None:
    def refuse(_: Filters, __: Ask) -> Reply | None:
        return Reply(End.EOSE, events=tuple(event_of(each) for each in strangers))

    strangers = [Author.from_seed(8, 0).sign(str(n), created_at=NOW - n) for n in range(100)]
    assert seen(BY_NAME["times"], ModelRelay(WORLD, refuse=refuse))["form.times"].value is None


def test_events_that_do_not_match_are_told() -> None:
    alien = event_of(Author.from_seed(8, 0).sign("x", kind=9, created_at=NOW - 100_000))
    relay = ModelRelay(WORLD)
    honest = relay.answer

    def answer(ask: Ask) -> Reply:
        came = honest(ask)
        return Reply(came.end, events=(*came.events, alien))

    relay.answer = answer  # type: ignore[method-assign]
    assert seen(BY_NAME["authors"], relay)["form.authors"].value == "whole, and others"


def test_only_the_first_value_is_searched() -> None:
    found = seen(LastValue(), ModelRelay(WORLD, Behaviour(first_value_only=True)))
    assert found["form.second_tag_value"].value == "not searched"
    assert found["form.second_author"].value == "searched"


def test_filters_have_limits_of_their_own_or_share_one() -> None:
    assert seen(TwoFilters(), ModelRelay(WORLD))["form.limit_of_filters"].value == "each its own"
    found = seen(TwoFilters(), ModelRelay(WORLD, Behaviour(shared_limit=True)))
    assert (found["form.two_filters"].value, found["form.limit_of_filters"].value) == ("all answered", "one for all")


def test_one_filter_alone_may_be_answered() -> None:
    relay = ModelRelay(WORLD)
    honest = relay.answer

    def answer(ask: Ask) -> Reply:
        came = honest(ask)
        return Reply(came.end, events=came.events[:1])

    relay.answer = answer  # type: ignore[method-assign]
    assert seen(TwoFilters(), relay)["form.two_filters"].value == "only one answered"


def test_odd_members_are_ignored_refused_or_match_nothing() -> None:
    relay = ModelRelay(WORLD)
    assert seen(BY_NAME["unknown_member"], relay)["odd.unknown_member"].value == "ignored"
    assert seen(BY_NAME["empty_kinds"], relay)["odd.empty_kinds"].value == "matches nothing"
    words = "ERROR: bad req: unrecognised filter item: probe"
    strict = ModelRelay(WORLD, refuse=lambda filters, _: Reply(End.CLOSED, words) if "probe" in filters[0] else None)
    found = seen(BY_NAME["unknown_member"], strict)["odd.unknown_member"]
    assert (found.value, found.how, found.says) == ("refused", "CLOSED", words)


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda each: each.name)
def test_nonsense_is_answered_in_whatever_way(nonsense: Nonsense) -> None:
    for end, value in ((End.NOTICE, "NOTICE"), (End.SILENCE, "silence"), (End.LOST, "connection closed")):
        relay = ModelRelay(WORLD)
        relay.answer = lambda _, end=end: Reply(end)  # type: ignore[method-assign, misc]
        (line,) = seen(nonsense, relay).values()
        assert line.value == value
