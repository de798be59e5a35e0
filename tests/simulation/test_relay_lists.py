"""Whom a relay is asked for first, by what relay lists say (NIP-65); in the end it is asked for everybody."""

import random
from dataclasses import replace

import pytest

from pipeline.crawl.sync.query import Subject
from pipeline.crawl.sync.relay_lists import RelayLists
from pipeline.nostr.filter import Filter
from pipeline.relay.limits import RelayLimits
from pipeline.settings.choices import CrawlMode
from pipeline.store.backfills import Backfill
from pipeline.store.relay_lists import Listed
from tests.simulation.simulation import START, Simulation
from tests.support.plans import event, query
from tests.support.seeds import seeds

# Two live subscriptions of one filter beside one page: most chunks have to take turns.
NARROW = RelayLimits(max_subscriptions=3, max_filters=1, max_pages=1)


def crowd(count: int, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(32) for _ in range(count)]


def crawl(limits: RelayLimits | None = None) -> Simulation:
    return Simulation(random.Random(1), limits=limits)


def authors_pages(sim: Simulation) -> list[frozenset[bytes]]:
    """Whom each page asked for whose subject is authors."""
    pages = [filters[0] for name, filters in sim.relay.requests if name.startswith("P")]
    return [each.authors for each in pages if each.authors is not None and each.kinds is None]


def mentions(page: Filter) -> set[bytes]:
    return {bytes.fromhex(text) for text in page.tags[0][1]} if page.tags else set()


def first_asked(pages: list[frozenset[bytes]]) -> dict[bytes, int]:
    """By author, the first page that asked for them."""
    return {each: number for number, page in reversed(list(enumerate(pages))) for each in page}


@pytest.mark.parametrize("seed", seeds(10))
def test_who_is_named_where_against_a_naive_model(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    people, lists = crowd(6), RelayLists()
    model: dict[bytes, tuple[set[int], set[int]]] = {each: (set(), set()) for each in people}
    asked = {subject: query(subject, people) for subject in Subject}
    for _ in range(40):
        said = [
            Listed(each, *(tuple(rng.sample(range(1, 5), rng.randrange(3))) for _ in range(2)))
            for each in rng.sample(people, 2)
        ]
        before = {relay: _named(model, relay) for relay in range(1, 5)}
        changed = lists.apply(said)
        model.update((each.public_key, (set(each.writes), set(each.reads))) for each in said)
        expected = {relay: _differing(before[relay], _named(model, relay)) for relay in before}
        assert changed == {relay: keys for relay, keys in expected.items() if keys}
        assert len(lists) == sum(any(uses) for uses in model.values())
        for relay in range(1, 5):
            writers, readers = _named(model, relay)
            for subject, named in (
                (Subject.AUTHORS, writers), (Subject.PROFILES, writers), (Subject.MENTIONS, readers),
            ):  # fmt: skip
                assert lists.at(relay).keys_among(asked[subject]) == named


def _differing(before: tuple[set[bytes], set[bytes]], now: tuple[set[bytes], set[bytes]]) -> set[bytes]:
    return (before[0] ^ now[0]) | (before[1] ^ now[1])


def _named(model: dict[bytes, tuple[set[int], set[int]]], relay: int) -> tuple[set[bytes], set[bytes]]:
    writers = {each for each, (writes, _) in model.items() if relay in writes}
    return writers, {each for each, (_, reads) in model.items() if relay in reads}


def test_relay_is_asked_first_for_its_listed_writers_and_readers_mentions() -> None:
    sim, people = crawl(), crowd(3_000)
    users, here, readers = people[:200], set(people[::20]), set(people[:10])
    for each in people:
        sim.relay.publish(event(START - 500, each), 0)
    sim.want(people[200:], users)
    sim.name(*people)
    sim.name(*here, writes=True)
    sim.name(*readers - here, reads=True)
    sim.name(*readers & here, writes=True, reads=True)
    sim.connect()
    sim.run_until(200)
    asked = first_asked(authors_pages(sim))
    assert max(asked[each] for each in here) < min(asked[each] for each in set(people) - here)
    about = [filters[0] for name, filters in sim.relay.requests if name.startswith("P") and filters[0].tags]
    assert mentions(about[0]) == readers
    assert set().union(*map(mentions, about)) == set(users)
    assert sim.everything() <= sim.delivered
    assert all(cursor.generation == 1 for name, cursor in sim.cursors.items() if name.startswith("authors/"))


def test_new_authors_come_in_their_order_without_more_requests() -> None:
    """Few of them fall into each chunk: those chunks come first that have any who write here."""
    everybody, counts = crowd(12_000), []
    new = crowd(200, seed=2)
    here = set(new[::25])
    for writes in (False, True):
        sim = crawl()
        sim.ask(CrawlMode.QUERY)
        sim.want(everybody)
        sim.connect()
        sim.run_until(250)
        sim.name(*here, writes=writes)
        before = len(authors_pages(sim))
        sim.want(new)
        sim.run_until(280)
        pages = [each for each in authors_pages(sim)[before:] if each & set(new)]
        asked = first_asked([each & set(new) for each in pages])
        assert asked.keys() == set(new)
        counts.append(len(pages))
        last = max(asked[each] for each in here)
        assert (last < len(here)) == writes
    assert counts[0] == counts[1]


def test_changed_relay_list_counts_at_once_for_all_not_yet_asked() -> None:
    sim, people = crawl(replace(RelayLimits(), max_pages=1)), sorted(crowd(3_000))
    sim.want(people)
    sim.connect()
    while len(authors_pages(sim)) < 3:
        sim.run_until(sim.mono - 100 + 0.1)
    late = people[-1]
    assert not any(late in page for page in authors_pages(sim))
    asked = len(authors_pages(sim))
    sim.name(late, writes=True)
    sim.run_until(sim.mono - 100 + 3)
    assert any(late in page for page in authors_pages(sim)[asked : asked + 2])
    sim.run_until(400)
    assert set().union(*authors_pages(sim)) == set(people)


def test_firehose_relay_is_asked_first_for_new_authors_who_list_it() -> None:
    sim = crawl()
    sim.ask(CrawlMode.WHOLE)
    sim.want(crowd(10))
    sim.relay.publish(event(START - 5, crowd(1)[0]), 0)
    sim.connect()
    sim.run_until(60)
    new = crowd(2_000, seed=2)
    here = set(new[::10])
    sim.name(*here, writes=True)
    sim.want(new)
    sim.run_until(200)
    pages = authors_pages(sim)
    assert here <= pages[0]
    assert set().union(*pages) >= set(new)


def test_the_parts_of_an_ordered_backfill_come_by_how_many_write_there() -> None:
    sim, people = crawl(), sorted(crowd(3_000))
    sim.want(people)
    sim.connect()
    sim.run_until(200)
    here = set(people[-100:])
    sim.name(*here, writes=True)
    asked = len(authors_pages(sim))
    sim.crawl.backfill_jobs.ordered = (Backfill(1, 0, START - 400 * 86_400, (), START * 1000),)
    sim.crawl.set_plan(sim.plan)
    sim.run_until(300)
    found = first_asked(authors_pages(sim)[asked:])
    assert found.keys() == set(people)
    assert max(found[each] for each in here) < 3


def test_the_few_live_places_of_a_relay_go_to_those_who_write_to_it() -> None:
    """Their events come at once, others' when their turn is; none of it is left out, and cursors know nothing of it."""
    sim, people = crawl(NARROW), crowd(3_000)
    here, other = set(people[::30]), people[1]
    sim.ask(CrawlMode.QUERY)
    sim.want(people)
    sim.connect()
    sim.run_until(300)
    left_out = sim.crawl.unserved_queries
    sim.name(*here, writes=True)
    sim.run_until(302)
    asked = {author for filters in sim.relay.open.values() for each in filters for author in each.authors or ()}
    assert here <= asked
    assert sim.crawl.unserved_queries >= left_out, "told of as before"
    for author in (people[0], other):
        at = sim.wall
        sim.relay.publish(event(at, author, 1, 7), at)
    sim.run_until(303)
    ids = [each.id for each in sim.relay.store.events]
    assert [each in sim.delivered for each in ids] == [True, False]
    sim.run_until(4_000)
    assert sim.everything() <= sim.delivered
    assert not any("@" in name for name in sim.cursors)
    sim.name(*here)
    sim.name(other, writes=True)
    sim.run_until(4_003)
    asked = {author for filters in sim.relay.open.values() for each in filters for author in each.authors or ()}
    assert other in asked
    assert not here <= asked


def test_where_everybody_has_a_live_place_lists_move_nothing() -> None:
    sim, people = crawl(), crowd(600)
    sim.want(people)
    sim.connect()
    sim.run_until(250)
    before = len(sim.relay.requests)
    sim.name(*people[:100], writes=True)
    sim.run_until(260)
    assert len(sim.relay.requests) == before
