"""Limits by dimension, however the relay keeps to them."""

import json
from dataclasses import replace

import pytest

from pipeline.nostr.event import Event, event_from_json
from pipeline.probe.exchange import Ask, Awaited, End, Reply
from pipeline.probe.observation import Observation
from pipeline.probe.questions.limits import FILTERS, LISTS, FrameBytes, IdLength, TagFilters
from pipeline.probe.questions.subscriptions import SubscriptionLimit
from pipeline.relay.advertised import AdvertisedLimits
from pipeline.relay.nip11 import RelayInformation
from tests.unit.probe.model import Filters, ModelRelay, seen, world

WORLD = world()
SIZES = {
    "kinds": lambda filters: len(filters[0].get("kinds", ())),
    "authors": lambda filters: len(filters[0].get("authors", ())),
    "ids": lambda filters: len(filters[0].get("ids", ())),
    "tag_values": lambda filters: len(filters[0].get("#p", ())),
    "filters": len,
}
MANNERS = {
    "CLOSED": Reply(End.CLOSED, "invalid: too much"),
    "NOTICE": Reply(End.NOTICE, "too much"),
    "NOTICE, then EOSE": Reply(End.EOSE, notices=("too much",)),
    "EOSE alone": Reply(End.EOSE),
    "silence": Reply(End.SILENCE),
    "connection closed": Reply(End.LOST, "reset"),
}


def limit_of(name: str, most: int, answer: Reply) -> Observation:
    def refuse(filters: Filters, _: Ask) -> Reply | None:
        return answer if SIZES[name](filters) > most else None

    question = next(each for each in (*LISTS, FILTERS) if each.name == name)
    return seen(question, ModelRelay(WORLD, refuse=refuse))[f"limit.{name}"]


@pytest.mark.parametrize("name", SIZES)
def test_limit_is_found_in_each_dimension(name: str) -> None:
    found = limit_of(name, 20, MANNERS["CLOSED"])
    assert (found.value, found.is_least, found.says) == (20, False, "invalid: too much")


@pytest.mark.parametrize("manner", MANNERS)
def test_limit_is_found_however_more_is_refused(manner: str) -> None:
    found = limit_of("authors", 37, MANNERS[manner])
    assert (found.value, found.how) == (37, manner)


@pytest.mark.parametrize("name", SIZES)
def test_relay_without_a_limit_takes_at_least_what_is_asked(name: str) -> None:
    found = limit_of(name, 100_000, MANNERS["CLOSED"])
    assert found.is_least
    assert isinstance(found.value, int)
    assert found.value >= 200


def test_list_that_is_searched_in_its_first_part_only_has_that_limit() -> None:
    relay = ModelRelay(WORLD)
    honest = relay.answer

    def answer(ask: Ask) -> Reply:
        label, subscription, query = json.loads(ask.frames[0])
        query["authors"] = query["authors"][:50]
        return honest(replace(ask, frames=(json.dumps([label, subscription, query]),)))

    relay.answer = answer  # type: ignore[method-assign]
    question = next(each for each in (*LISTS, FILTERS) if each.name == "authors")
    found = seen(question, relay)["limit.authors"]
    assert (found.value, found.how) == (50, "EOSE alone")


def test_empty_relay_shows_refusals_only() -> None:
    question = next(each for each in (*LISTS, FILTERS) if each.name == "authors")
    found = seen(question, ModelRelay([]))["limit.authors"]
    assert (found.value, "no event" in found.note) == (None, True)
    refusing = ModelRelay([], refuse=lambda f, _: MANNERS["CLOSED"] if len(f[0]["authors"]) > 20 else None)
    assert seen(question, refusing)["limit.authors"].value == 20


def test_tag_conditions_are_counted_by_refusals() -> None:
    def refuse(filters: Filters, _: Ask) -> Reply | None:
        tags = [name for name in filters[0] if name.startswith("#")]
        return Reply(End.CLOSED, "ERROR: bad req: too many tags in filter") if len(tags) > 3 else None

    assert seen(TagFilters(), ModelRelay(WORLD, refuse=refuse))["limit.tag_filters"].value == 3
    assert seen(TagFilters(), ModelRelay(WORLD))["limit.tag_filters"].value is None


def test_length_of_an_id_is_found() -> None:
    def refuse(_: Filters, ask: Ask) -> Reply | None:
        return Reply(End.NOTICE, "subscription id too long") if len(ask.awaits) > 64 else None

    assert seen(IdLength(), ModelRelay(WORLD, refuse=refuse))["limit.id_length"].value == 64


def frame_bytes(most: int, advertised: int | None = None) -> Observation:
    relay = ModelRelay(WORLD, refuse=lambda _, ask: Reply(End.LOST, "reset") if len(ask.frames[0]) > most else None)
    known = relay.known()
    known.information = RelayInformation(AdvertisedLimits(max_message_length=advertised))
    found = seen(FrameBytes(), relay, known)["limit.frame_bytes"]
    assert all(json.loads(ask.frames[0])[0] == "REQ" for ask in relay.asked)
    return found


def test_bytes_of_a_frame_are_tried_by_common_and_advertised_sizes() -> None:
    found = frame_bytes(131_072)
    assert (found.value, found.how, found.note) == (131_072, "connection closed", "262,144 are too many")
    assert frame_bytes(200_000, 200_000).value == 200_000
    assert frame_bytes(200_000, 200_000).note == "200,001 are too many"
    assert frame_bytes(10).value is None
    assert frame_bytes(1 << 21).is_least


def subscriptions(answer_at: dict[int, Reply]) -> Observation:
    relay = ModelRelay(WORLD)
    honest = relay.answer
    relay.answer = lambda ask: answer_at.get(len(relay.asked) + 1) or honest(ask)  # type: ignore[method-assign]
    return seen(SubscriptionLimit(top=30), relay)["limit.subscriptions"]


def test_subscriptions_are_counted_up_to_the_refused_one() -> None:
    assert subscriptions({}).is_least
    found = subscriptions({21: Reply(End.CLOSED, "error: too many subscriptions")})
    assert (found.value, found.how) == (20, "CLOSED")
    assert subscriptions({1: Reply(End.SILENCE)}).value is None


def test_notice_after_an_eose_is_about_the_subscription_before() -> None:
    late = Reply(End.EOSE, late=("ERROR: too many concurrent REQs",))
    assert subscriptions({22: late}).value == 20
    welcome = Reply(End.EOSE, late=("welcome",))
    assert subscriptions({22: welcome}).is_least


def test_control_stands_last_and_is_a_real_event() -> None:
    relay = ModelRelay(WORLD)
    question = next(each for each in (*LISTS, FILTERS) if each.name == "authors")
    seen(question, relay)
    named = json.loads(relay.asked[0].frames[0])[2]["authors"][-1]
    assert named in {each.pubkey for each in WORLD}
    assert isinstance(relay.known().controls()[0], Event)


@pytest.mark.parametrize("lives", [range(70), range(50, 70)], ids=["all", "the newest twenty"])
def test_subscriptions_that_a_note_does_not_reach_are_not_served(lives: range) -> None:
    relay = ModelRelay(WORLD)
    honest = relay.answer
    known = relay.known()
    known.published.append(relay.known().controls()[0])
    said: list[Event] = []

    def answer(ask: Ask) -> Reply:
        if ask.awaited is Awaited.OK:
            said.append(event_from_json(json.dumps(json.loads(ask.frames[0])[1]).encode()))
            return Reply(End.OK, accepted=True)
        if ask.awaited is not Awaited.LIVE:
            return honest(ask)
        opened = [each.awaits for each in relay.asked]
        served = [opened[number] for number in lives]
        others = tuple((each, said[0]) for each in served if each != ask.awaits)
        return (
            Reply(End.EVENT, events=(said[0],), others=others)
            if ask.awaits in served
            else Reply(End.SILENCE, others=others)
        )

    relay.answer = answer  # type: ignore[method-assign]
    found = seen(SubscriptionLimit(), relay, known)["limit.subscriptions"]
    assert (found.value, found.is_least) == (len(lives), len(lives) == 70)
    assert found.how == ("" if found.is_least else "silence")
