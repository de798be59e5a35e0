"""Sweeps that a relay refuses: checks are dropped and told, and a newer sweep takes over from one that is stuck."""

import random

import pytest

from pipeline.crawl.sync.paging.slices import Gap
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.nostr.message import Closed, RelayMessage
from tests.simulation.simulation import START, Simulation
from tests.support.plans import event, key

ALICE, BOB = key(1), key(2)


def put(sim: Simulation, *authors: bytes) -> set[bytes]:
    """Events of these authors that the relay has had for long, none of them within the last hours."""
    made = [event(START - 600 - number, author, 1, number) for number, author in enumerate(authors)]
    sim.relay.store.events += made
    sim.relay.stored_at |= {each.id: START - 500 for each in made}
    return {each.id for each in made}


def test_refused_check_of_an_empty_page_is_dropped_and_reported() -> None:
    sim = Simulation(random.Random(1))

    def refuses_kinds(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        asked = filters[0]
        if asked.limit and asked.authors and asked.kinds is not None and not asked.kinds <= GLOBAL_KINDS:
            return [Closed(subscription, "blocked: no such lists", "blocked")]
        return None

    sim.relay.mood = refuses_kinds
    sim.want([ALICE])
    sim.connect()
    sim.run_until(300)
    assert "authors/" in sim.cursors, "nothing that is required was refused"
    assert Gap.REFUSED not in sim.crawl.stats.gap_reasons
    assert any(gap.reason == Gap.UNCHECKED and gap.form == "authors/" for gap in sim.crawl.gaps)


@pytest.mark.parametrize(("reason", "is_dropped"), [("rate-limited: slow down", False), ("error: busy", True)])
def test_check_that_is_rate_limited_is_asked_until_it_is_answered(reason: str, is_dropped: bool) -> None:
    """Too many requests say nothing of this one, however often; any other failure again and again does."""
    sim = Simulation(random.Random(1))
    refused: list[float] = []

    def refuses_first(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        asked = filters[0]
        is_check = asked.limit and asked.authors and asked.kinds is not None and not asked.kinds <= GLOBAL_KINDS
        if not is_check or len(refused) >= 5:
            return None
        refused.append(sim.mono)
        return [Closed(subscription, reason, reason.partition(":")[0])]

    sim.relay.mood = refuses_first
    sim.want([ALICE])
    sim.connect()
    sim.run_until(1_000)
    assert len(refused) == (3 if is_dropped else 5)
    assert "authors/" in sim.cursors
    assert any(gap.reason == Gap.UNCHECKED for gap in sim.crawl.gaps) == is_dropped


def test_newer_sweep_takes_over_from_one_that_is_refused() -> None:
    """The first is refused for ever; what it asks for is in the second, in another form."""
    sim = Simulation(random.Random(1))
    due = put(sim, ALICE, BOB, ALICE)

    def refuses_one(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        is_alone = any(each.limit and each.authors == frozenset({ALICE}) for each in filters)
        return [Closed(subscription, "restricted: more authors", "restricted")] if is_alone else None

    sim.relay.mood = refuses_one
    sim.want([ALICE])
    sim.connect()
    sim.run_until(60)
    assert not due & sim.delivered
    assert [gap.reason for gap in sim.crawl.gaps if gap.form == "authors/"] == [Gap.REFUSED]
    sim.want([BOB])
    sim.run_until(2_000)
    assert due <= sim.delivered
    assert not [gap for gap in sim.crawl.gaps if gap.reason == Gap.REFUSED], "it is closed with the sweep"


@pytest.mark.parametrize("most", [100, 20])
def test_sweep_under_way_asks_for_as_few_events_as_the_relay_takes(most: int) -> None:
    """chorus takes 100 of what is selected by kinds alone, or what its operator set."""
    sim = Simulation(random.Random(1))
    due = [event(START - 100 - 3 * number, key(9), 0, number) for number in range(250)]
    for each in due:
        sim.relay.publish(each, 0)

    def refuses_many(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        many = [each for each in filters if each.authors is None and not each.tags and (each.limit or 0) > most]
        return [Closed(subscription, "error: scraper", "error")] if many else None

    sim.relay.mood = refuses_many
    sim.want([ALICE])
    sim.connect()
    sim.run_until(120)
    assert {each.id for each in due} <= sim.delivered
    assert not len(sim.crawl.gaps)
