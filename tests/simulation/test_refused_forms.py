"""Relays that refuse filters for their form, as khatru's policies do: without kinds, or for notes without authors."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.crawl.sync.paging.slices import Gap
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.kinds import GLOBAL_KINDS
from pipeline.nostr.message import Closed, RelayMessage
from pipeline.relay.dimensions import Dimension
from pipeline.relay.limits import RelayLimits
from pipeline.relay.refusals import RelayRefusal
from tests.simulation.simulation import START, Mood, Simulation, closing, cooperative, noticing
from tests.support.plans import event, key

ALICE, CAROL, STRANGER = key(1), key(3), key(9)
EMPTY = "blocked: can't handle empty filters"
ANONYMOUS = "blocked: an author must be specified to get their kind:1 notes"


def kindless(one: Filter) -> bool:
    return one.kinds is None


def wholly_empty(one: Filter) -> bool:
    """What khatru's own policy against empty filters means."""
    return one.kinds is None and not one.authors and not one.tags


def anonymous(one: Filter) -> bool:
    """What khatru refuses to those who copy all notes."""
    return one.authors is None and (one.kinds is None or 1 in one.kinds)


def refusing(bad: Callable[[Filter], bool], otherwise: Mood) -> Mood:
    def mood(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        return otherwise(subscription, filters) if any(map(bad, filters)) else None

    return mood


def served(
    mood: Mood, limits: RelayLimits | None = None, *, beyond: Callable[[Event], bool] = lambda _: False
) -> Simulation:
    """A crawl of a relay with many events of all that is wanted, after ten minutes; those `beyond` nobody gets."""
    sim = Simulation(random.Random(1), limits=limits)
    sim.relay.store.cap = 60
    stored = [event(START - 60 * n, ALICE, (1, 7, 30023, 1059)[n % 4], n) for n in range(300)]
    stored += [event(START - 60 * n, STRANGER, (1, 7, 9735, 4)[n % 4], n, mentions=[CAROL]) for n in range(200)]
    stored += [event(START - 3 * n, STRANGER, 0, n) for n in range(100)]
    sim.beyond = {each.id for each in stored if beyond(each)}
    for each in stored:
        sim.relay.publish(each, 0)
    sim.want([ALICE], [CAROL])
    sim.relay.mood = mood
    sim.connect()
    sim.run_until(600)
    return sim


def arrive(sim: Simulation) -> list[Event]:
    """Events that come to the relay now; those of a live subscription are had within a second."""
    now = sim.wall
    fresh = [
        event(now, ALICE, 1), event(now, STRANGER, 0), event(now, STRANGER, 7, mentions=[CAROL]),
        event(now, STRANGER, 1, mentions=[CAROL]),
    ]  # fmt: skip
    for each in fresh:
        sim.relay.publish(each, now)
    sim.run_until(sim.mono - 100.0 + 1)
    return fresh


@pytest.mark.parametrize("answer", [closing(EMPTY), noticing(EMPTY)], ids=["closed", "notice"])
def test_who_refuses_filters_without_kinds_is_asked_by_kinds_at_once(answer: Mood) -> None:
    sim = served(refusing(kindless, answer))
    assert sim.everything() <= sim.delivered
    assert {event.id for event in arrive(sim)} <= sim.delivered
    assert sum(sim.refusals.values()) == sim.refusals[RelayRefusal.KINDLESS] <= 4
    assert sim.crawl.stats.gap_reasons[Gap.UNLISTED_KINDS] > 0, "kinds that nobody thought of are told"
    assert not {Gap.REFUSED, Gap.NOTES_BY_AUTHOR} & sim.crawl.stats.gap_reasons.keys()


def test_what_was_learned_is_kept_over_a_restart() -> None:
    sim = served(refusing(kindless, closing(EMPTY)))
    before = sum(sim.refusals.values())
    sim.restart()
    sim.connect()
    sim.run_until(4_000)
    assert sum(sim.refusals.values()) == before
    assert {event.id for event in arrive(sim)} <= sim.delivered


def test_a_relay_that_takes_short_lists_only_gets_kinds_in_several() -> None:
    small = RelayLimits(refuses_kindless=True, max_kinds=25, max_authors=25, max_tag_values=25)
    sim = served(refusing(lambda one: one.kinds is None or len(one.kinds) > 25, closing(EMPTY, live=False)), small)
    assert sim.everything() <= sim.delivered
    assert not sim.refusals


def test_who_refuses_wholly_empty_filters_only_is_asked_as_ever() -> None:
    sim = served(refusing(wholly_empty, closing(EMPTY)))
    assert sim.everything() <= sim.delivered
    assert not sim.refusals
    assert sim.session is not None
    assert not sim.session.limits.refuses_kindless


def test_who_gives_notes_by_author_only_is_asked_for_other_mentions() -> None:
    sim = served(refusing(anonymous, closing(ANONYMOUS)), beyond=lambda each: (each.pubkey, each.kind) == (STRANGER, 1))
    assert sim.everything() - sim.delivered == sim.beyond
    *had, note = arrive(sim)
    assert {event.id for event in had} <= sim.delivered
    assert note.id not in sim.delivered, "nobody gets it there"
    assert sim.crawl.stats.gap_reasons[Gap.NOTES_BY_AUTHOR] > 0
    asked = [each for name, filters in sim.relay.requests if name.startswith("P") for each in filters]
    assert any(each.authors and each.kinds is None for each in asked), "authors are asked for without kinds as ever"
    assert sum(sim.refusals.values()) <= 3


def test_who_refuses_global_kinds_gives_all_else_live() -> None:
    sim = served(
        refusing(
            lambda one: (one.kinds or frozenset({-1})) <= GLOBAL_KINDS and not one.authors,
            closing("blocked: too broad"),
        )
    )
    note, profile, reaction, mention = arrive(sim)
    assert {note.id, reaction.id, mention.id} <= sim.delivered
    assert profile.id not in sim.delivered
    assert sim.crawl.stats.gap_reasons[Gap.REFUSED] > 0


def test_a_relay_that_relents_is_asked_without_kinds_again_some_day() -> None:
    narrow = RelayLimits().narrowed(Dimension.AUTHORS, 100).dated(RelayLimits(), START)
    learned = replace(narrow, refuses_kindless=True, notes_by_author=True)
    assert learned.relaxed(START + 1) == narrow
    sim = served(cooperative, learned.relaxed(START + 1))
    assert sim.everything() <= sim.delivered


def test_kinds_that_are_refused_by_name_are_left_out_alone_and_told() -> None:
    """strfry with `allowedKinds` names one at a time."""

    def mood(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        named = sorted(kind for each in filters for kind in each.kinds or () if kind in (2, 10002, 30078))
        if not named:
            return None
        reason = f"ERROR: bad req: filter validation failed: kind not allowed: {named[0]}"
        return [Closed(subscription, reason, "")]

    sim = served(mood)
    assert sim.everything() <= sim.delivered
    assert {event.id for event in arrive(sim)} <= sim.delivered
    assert sim.session is not None
    assert {2, 10002} <= set(sim.session.limits.refused_kinds) <= {2, 10002, 30078}
    assert sim.session.limits.max_kinds >= RelayLimits().max_kinds
    assert sim.crawl.stats.gap_reasons[Gap.KINDS_REFUSED] > 0


@pytest.mark.parametrize("most", [1, 2, 3])
def test_relay_that_accepts_few_kinds_and_filters_gives_everything(most: int) -> None:
    """strfry with `filterValidation`."""

    def mood(subscription: str, filters: list[Filter]) -> list[RelayMessage] | None:
        kinds = max(len(each.kinds or ()) for each in filters)
        text = ""
        if len(filters) > most:
            text = f"ERROR: bad req: filter validation failed: invalid number of filters: {len(filters)}"
        elif kinds > most:
            text = f"ERROR: bad req: filter validation failed: too many kinds in filter: {kinds}"
        return [Closed(subscription, text, "")] if text else None

    sim = served(mood)
    assert sim.everything() <= sim.delivered
    assert {event.id for event in arrive(sim)} <= sim.delivered
    assert sum(sim.refusals.values()) < 30
