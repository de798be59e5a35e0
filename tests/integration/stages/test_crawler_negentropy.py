"""The crawler stage comparing sets (NIP-77) with a relay that we did not write, and with one that cannot."""

from time import time

import orjson

from pipeline.store import events, wanted_authors
from pipeline.store.authors import Authors
from pipeline.store.events import Accepted
from tests.factories.events import SignedEvent, authors
from tests.fakes.behaviour import Behaviour
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Other, Req
from tests.integration.stages.support import World, wait_until
from tests.integration.stages.test_crawler import crawling, quick, wait_arrived

__all__ = ["quick"]

ALICE = authors(61, 1)[0]
QUICK_RESWEEP = {"EVENTS_BACKFILL": "60s", "EVENTS_NEW_AUTHOR_LOOKBACK": "60s", "EVENTS_RESWEEP_EVERY": "1s"}


def history(count: int) -> list[SignedEvent]:
    """Notes of the last days; none is so new that it would be paged."""
    newest = int(time()) - 3600
    return [ALICE.sign(f"{n}", kind=1, created_at=newest - 60 * n) for n in range(count)]


def remember(world: World, known: list[SignedEvent]) -> None:
    """Alice is wanted, and these of her events were accepted before."""
    numbers = Authors()
    with world.database.write() as tx:
        alice = numbers.intern(tx, bytes.fromhex(ALICE.pubkey))
        wanted_authors.acquire(tx, [alice], round(time() * 1000))
        rows = [
            Accepted(n, bytes.fromhex(each.id), each.created_at, each.kind, alice, b"", 1, 0, 0)
            for n, each in enumerate(known)
        ]
        events.accept(tx, rows, round(time() * 1000))


def limits(world: World) -> dict[str, object]:
    return dict(orjson.loads(world.query("SELECT limits FROM relays")[0][0]))


def test_a_resweep_fetches_only_what_is_missing(world: World) -> None:
    made = history(1_000)
    missing = made[::50]
    lacked = {event.id for event in missing}
    remember(world, [event for event in made if event.id not in lacked])
    with IndependentRelay() as relay:
        assert relay.load(made) == len(made)
        with crawling(world, relay.url, **QUICK_RESWEEP) as running:
            wait_arrived(world, missing)
            complete = {"address": relay.url, "result": "complete"}
            wait_until(lambda: running.metric("event_service_crawl_reconciliations_total", **complete) >= 1)
            wait_until(
                lambda: running.metric("event_service_crawl_needed_ids_total", address=relay.url) >= len(missing)
            )
            wait_until(lambda: running.metric("event_service_crawl_reconciliation_bytes_total", address=relay.url) > 0)
            # With what was there already it would be a thousand.
            assert running.metric("received_events_counter_total", address=relay.url) < 10 * len(missing)
            wait_until(lambda: limits(world)["reconciles"] is True)


def test_a_relay_that_cannot_compare_is_paged_and_remembered(world: World) -> None:
    made = history(200)
    remember(world, made[:180])
    with (
        ScriptedRelay(Behaviour(negentropy_notice="ERROR: bad msg: negentropy disabled"), events=made) as relay,
        crawling(world, relay.url, **QUICK_RESWEEP) as running,
    ):
        wait_arrived(world, made[180:])
        unsupported = {"address": relay.url, "result": "unsupported"}
        wait_until(lambda: running.metric("event_service_crawl_reconciliations_total", **unsupported) == 1)
        wait_until(lambda: limits(world)["negentropy_failed_at"] != 0)
        asked = len(relay.journal.of(Req))
        wait_until(lambda: len(relay.journal.of(Req)) > asked + 4)
        assert [entry.label for entry in relay.journal.of(Other)] == ["NEG-OPEN"]
