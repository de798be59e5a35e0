"""Saver and crawler together: relays are asked first for those whose relay lists (NIP-65) name them."""

from collections.abc import Callable, Iterator, Sequence
from time import time
from typing import Any

import pytest

from pipeline.relay.limits import RelayLimits
from pipeline.store import relay_mentions, relay_status
from pipeline.store import relays as relay_table
from pipeline.store.database import Tx
from pipeline.store.inbox import InboxRow
from pipeline.store.lease import Receipt
from pipeline.store.relay_pruning import MAX_MENTIONED
from stages import crawler, saver
from tests.factories.events import Author, SignedEvent, authors
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Req
from tests.integration.stages.support import Running, World, wait_until

ALICE, BOB, *FOLLOWED = authors(61, 42)
NOW = int(time())
# Nobody signs for these.
STRANGERS = [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}".ljust(64, "a") for number in range(1, 1_000)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawler, "_TURN_S", 0.01)
    monkeypatch.setattr(crawler, "_LOOK_AT_RELAYS_S", 0.05)


@pytest.fixture
def pair() -> Iterator[tuple[ScriptedRelay, ScriptedRelay]]:
    with ScriptedRelay() as one, ScriptedRelay() as other:
        yield one, other


def names(author: Author, relay: ScriptedRelay, *, age: int = 500, markers: Sequence[str] = ()) -> SignedEvent:
    """The list of `author` with this relay alone."""
    return author.sign("", kind=10002, created_at=NOW - age, tags=[["r", relay.url, *markers]])


def crawling(world: World, *relays: ScriptedRelay) -> Running:
    env = {
        "EVENTS_BOOTSTRAP_RELAYS": ",".join(relay.url for relay in relays), "EVENTS_CRAWLERS": "1",
        "EVENTS_CRAWL_MODE": "query", "EVENTS_DISCOVER_RELAYS": "false",
    }  # fmt: skip
    return Running(world.context("crawler", env), crawler.run)


def follow(world: World) -> None:
    """Alice is registered and follows a thousand, so that there are many chunks of authors."""
    world.register(ALICE.pubkey)
    followees = [*STRANGERS, BOB.pubkey, *(each.pubkey for each in FOLLOWED)]
    world.put([ALICE.sign("", kind=3, created_at=NOW - 900, tags=[["p", each] for each in followees])])


def learned(world: World, relay: ScriptedRelay, limits: RelayLimits) -> None:
    """What was learned of a relay before."""
    with world.database.write() as tx:
        relay_table.set_bootstrap(tx, [relay.url], NOW * 1000)
        number = relay_table.find(tx, relay.url)
        assert number is not None
        relay_status.put_limits(tx, number, limits.to_json())


def whom(req: Req) -> set[str]:
    return {author for wanted in req.filters if "kinds" not in wanted for author in wanted.get("authors", ())}


def is_page(req: Req) -> bool:
    """Whether it asks for stored events of some span; a control of filter forms asks for a second or two."""
    return any(wanted.get("limit") and wanted.get("until", NOW) - wanted.get("since", 0) > 60 for wanted in req.filters)


def is_live(req: Req) -> bool:
    return not any(wanted.get("limit") for wanted in req.filters)


def asked_at(relay: ScriptedRelay, author: Author | str) -> int:
    """The number of the first page about an author."""
    key = author if isinstance(author, str) else author.pubkey
    pages = relay.journal.of(Req, is_page)
    return next(number for number, page in enumerate(pages) if key in whom(page))


def live_about(author: Author, *, is_so: bool = True) -> Callable[[Req], bool]:
    return lambda req: bool(whom(req)) and is_live(req) and (author.pubkey in whom(req)) == is_so


def test_each_relay_is_asked_first_for_those_who_write_to_it(
    world: World, pair: tuple[ScriptedRelay, ScriptedRelay]
) -> None:
    """And for all others afterwards: what somebody keeps where their list does not say is found as well."""
    one, other = pair
    half = len(FOLLOWED) // 2
    astray = FOLLOWED[0].sign("elsewhere", created_at=NOW - 60)
    other.hold([astray])
    for relay in pair:
        # Whether a chunk is compared with what we have, before it is paged, is found out at a time of its own.
        learned(world, relay, RelayLimits(negentropy_failed_at=NOW, informed_at=NOW))
    with Running(world.context("saver"), saver.run):
        follow(world)
        world.put(names(each, one if number < half else other) for number, each in enumerate(FOLLOWED))
        world.put([names(BOB, one, markers=["read"])])
        world.wait_saved()
        with crawling(world, one, other):
            wait_until(lambda: astray.id in world.seen(), "the event found where no list says")
            everybody = {*STRANGERS, BOB.pubkey, *(each.pubkey for each in FOLLOWED)}
            for relay, theirs in ((one, FOLLOWED[:half]), (other, FOLLOWED[half:])):
                wait_until(
                    lambda relay=relay: (
                        everybody  # type: ignore[misc]
                        <= set().union(*map(whom, relay.journal.of(Req, is_page)))
                    ),
                    "everybody asked for",
                )
                keys = {each.pubkey for each in theirs}
                last = max(asked_at(relay, key) for key in keys)
                assert last < min(asked_at(relay, key) for key in everybody - keys)


def test_a_list_that_changes_gets_its_author_a_live_place_within_seconds(
    world: World, pair: tuple[ScriptedRelay, ScriptedRelay]
) -> None:
    """On a relay with few of them, which had others before; a newer list gives it back."""
    one, other = pair
    writer = FOLLOWED[1]
    learned(world, one, RelayLimits(max_subscriptions=3, max_filters=1, informed_at=NOW))
    note = writer.sign("live", created_at=NOW)
    with Running(world.context("saver"), saver.run):
        follow(world)
        world.wait_saved()
        with crawling(world, one, other):
            one.wait_for_req(is_page)
            assert not one.journal.of(Req, live_about(writer))
            world.put([names(writer, one)])
            req = one.wait_for_req(live_about(writer))
            one.wait_for_answer(req.subscription)
            assert one.publish(note) >= 1
            wait_until(lambda: note.id in world.seen(), "the event of a live place")
            world.put([names(FOLLOWED[0], one), names(writer, other, age=400)])
            one.wait_for_req(lambda req: live_about(FOLLOWED[0])(req) and live_about(writer, is_so=False)(req))


def test_author_who_names_too_many_costs_no_lookups_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of their lists would keep honest events waiting, each with a hundred addresses."""
    tried: list[str] = []
    name = relay_mentions.record_mention

    def counted(tx: Tx, spelling: str, **options: Any) -> relay_mentions.MentionOutcome:
        tried.append(spelling)
        return name(tx, spelling, **options)

    monkeypatch.setattr(relay_mentions, "record_mention", counted)
    lists = [
        ALICE.sign(
            kind=10002, created_at=NOW - 100 + number,
            tags=[("r", f"wss://r{number}-{each}.example") for each in range(100)],
        )
        for number in range(40)
    ]  # fmt: skip
    honest = BOB.sign(kind=10002, created_at=NOW, tags=[("r", "wss://honest.example")])
    with Running(world.context("saver"), saver.run):
        world.put([*lists, honest])
        world.wait_saved()
    assert len(tried) == 2 * MAX_MENTIONED + 2
    assert world.query("SELECT count(*) FROM relays") == [(2 * MAX_MENTIONED + 1,)]


def test_lists_of_many_addresses_are_saved_in_short_transactions() -> None:
    """Each address costs statements under the write lock."""
    raw = b'["r","wss://relay.example"],' * 100

    def row(raw: bytes) -> InboxRow:
        return InboxRow(Receipt(1, 1), 0, 1, bytes(32), raw, 1, 0)

    assert [len(batch) for batch in saver.transactions([row(raw)] * 12)] == [4, 4, 4]
    assert [len(batch) for batch in saver.transactions([row(b"x" * 800)] * saver.BATCH_ROWS)] == [saver.BATCH_ROWS]
