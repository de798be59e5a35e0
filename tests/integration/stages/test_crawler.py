"""The crawler stage against scripted relays: dialling, reading, and all that goes wrong with connections."""

import functools
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic, time
from typing import Any

import pytest
from prometheus_client import Gauge

from pipeline.crawl import reconnect
from pipeline.process.doorbell import Doorbells
from pipeline.process.rate import Rate
from pipeline.relay.dial import DialPolicy
from pipeline.store import disk, relay_mentions, relay_status
from pipeline.store import relays as relay_table
from stages import crawler
from tests.factories.events import Author, SignedEvent, assemble, authors
from tests.fakes.behaviour import Behaviour, How, Interruption, RateLimit, Refusal, Upgrade
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Answered, Close, Connected, Disconnected, HttpRequest, Req
from tests.integration.stages.support import PATIENCE_S, Running, World, wait_until

ALICE, BOB = authors(51, 2)
NOW = int(time())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage looks around often, and waits shortly after losses."""
    monkeypatch.setattr(crawler, "_TURN_S", 0.01)
    monkeypatch.setattr(crawler, "_LOOK_AT_RELAYS_S", 0.05)
    monkeypatch.setattr(crawler, "_LOOK_AT_QUEUES_S", 0.02)
    monkeypatch.setattr(reconnect, "_AFTER_LOSS_S", 0.1)
    monkeypatch.setattr(reconnect, "_DIAL_BASE_S", 0.1)


@pytest.fixture
def relay() -> Iterator[ScriptedRelay]:
    with ScriptedRelay() as running:
        yield running


def profiles(count: int, *, first: int = 0) -> list[SignedEvent]:
    """Events that are wanted whoever wrote them, from the last minutes."""
    return [ALICE.sign(f"{n}", kind=0, created_at=NOW - n % 300) for n in range(first, first + count)]


@contextmanager
def crawling(world: World, *urls: str, **settings: Any) -> Iterator[Running]:
    """A crawler of these bootstrap relays; with `index`, one of several."""
    index, has_doorbell = settings.pop("index", 0), settings.pop("has_doorbell", False)
    env = {"EVENTS_BOOTSTRAP_RELAYS": ",".join(urls), "EVENTS_CRAWLERS": "1", **settings}
    with Running(world.context("crawler", env, index=index, has_doorbell=has_doorbell), crawler.run) as running:
        yield running


def arrived(world: World) -> set[str]:
    return {event_id.hex() for (event_id,) in world.query("SELECT event_id FROM inbox")}


def wait_arrived(world: World, events: list[SignedEvent], timeout_s: float = PATIENCE_S) -> None:
    ids = {event.id for event in events}
    wait_until(lambda: ids <= arrived(world), f"all {len(ids)} events there", timeout_s)


def is_live(req: Req) -> bool:
    return any(wanted.get("limit") == 0 for wanted in req.filters)


def wait_live(relay: ScriptedRelay, count: int = 1) -> None:
    """Return once so many live subscriptions were opened and answered."""
    req = relay.wait_for_req(is_live, count=count)
    relay.wait_for_answer(req.subscription)


def state(world: World, relay: ScriptedRelay) -> tuple[Any, ...]:
    """State, subscriptions, failures and last error, once there is anything to say."""
    rows = world.query("SELECT state, subscriptions, failures, last_error FROM relays WHERE address = ?", relay.url)
    return rows[0] if rows else ("unknown", 0, 0, "")


@pytest.fixture
def only_when_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main loop looks at nothing unless something is due or it is rung."""
    monkeypatch.setattr(crawler, "_IDLE_S", 600.0)
    monkeypatch.setattr(crawler, "_LOOK_AT_QUEUES_S", 600.0)


@pytest.mark.usefixtures("only_when_rung")
def test_new_user_is_asked_for_once_the_bell_rings(world: World, relay: ScriptedRelay) -> None:
    with crawling(world, relay.url, has_doorbell=True):
        wait_live(relay)
        world.register(BOB.pubkey)
        Doorbells(world.path).ring("crawler")
        relay.wait_for_req(lambda req: any(BOB.pubkey in each.get("authors", ()) for each in req.filters))


@pytest.mark.usefixtures("only_when_rung")
def test_lost_connection_wakes_the_main_loop_which_dials_again(world: World, relay: ScriptedRelay) -> None:
    with crawling(world, relay.url, has_doorbell=True):
        wait_live(relay)
        for connections in (2, 3):
            relay.drop()
            relay.wait_for_connection(connections)
            wait_live(relay, connections)


def test_a_live_event_is_in_the_inbox_long_before_the_next_sweep(world: World, relay: ScriptedRelay) -> None:
    with crawling(world, relay.url):
        wait_live(relay)
        for event in profiles(20):
            assert relay.publish(event) >= 1
            wait_arrived(world, [event])
    assert (
        world.query("SELECT payload FROM inbox JOIN payloads USING (event) ORDER BY seq")[0][0]
        == profiles(1)[0].raw.encode()
    )


def test_what_is_stored_is_fetched_and_told_of(world: World, relay: ScriptedRelay) -> None:
    """And what the gauges of the relay say is so."""
    events = profiles(700)
    relay.hold(events)
    with crawling(world, relay.url) as running:
        wait_arrived(world, events)
        wait_until(lambda: state(world, relay)[:3] == ("connected", 1, 0))
        wait_until(lambda: running.metric("relay_downloader_gauge") == 1)
        wait_until(lambda: running.metric("received_events_counter_total", address=relay.url) >= 700)
        messages = {"address": relay.url, "messageType": "eose", "result": "success"}
        wait_until(lambda: running.metric("relay_connection_received_messages_counter_total", **messages) >= 1)
    assert state(world, relay)[:2] == ("disconnected", 0)


def test_a_lost_connection_is_dialled_again_and_nothing_is_missed(world: World, relay: ScriptedRelay) -> None:
    """What came while it was away is fetched afterwards."""
    with crawling(world, relay.url) as running:
        wait_live(relay)
        missed = profiles(50)
        relay.drop(then_hold=missed)
        relay.wait_for_connection(2)
        wait_arrived(world, missed)
        late = profiles(1, first=900)
        wait_live(relay, 2)
        relay.publish(*late)
        wait_arrived(world, late)
        labels = {"address": relay.url, "reason": "error"}
        lost = running.metric("relay_connection_disconnections_counter_total", **labels)
        lost += running.metric("relay_connection_disconnections_counter_total", **(labels | {"reason": "eof"}))
        assert lost == 1
        assert running.metric("relay_connection_reconnections_counter_total", address=relay.url) == 1


def test_a_relay_that_is_away_is_tried_ever_more_rarely(world: World, relay: ScriptedRelay) -> None:
    """Its failures and the next time are on record, and forgotten once it is back."""
    relay.stop()
    with crawling(world, relay.url) as running:
        wait_until(lambda: state(world, relay)[2] >= 2)
        assert state(world, relay)[0] == "disconnected"
        assert "refused" in state(world, relay)[3]
        assert world.value("SELECT next_dial_at FROM relays") > 0
        relay.start()
        events = profiles(3)
        relay.hold(events)
        wait_arrived(world, events)
        wait_until(lambda: state(world, relay)[2] == 0)
        dials = {"address": relay.url, "reason": "dial"}
        assert running.metric("relay_connection_disconnections_counter_total", **dials) >= 2


def test_an_overloaded_relay_is_left_alone(world: World, relay: ScriptedRelay) -> None:
    relay.behave(Behaviour(upgrade=Upgrade(503)))
    with crawling(world, relay.url):
        wait_until(lambda: state(world, relay)[2] == 1)
    wait_s = (world.value("SELECT next_dial_at FROM relays") - world.clock.now_ms()) / 1000
    assert 200 < wait_s < 400


def test_a_restart_is_no_failure_of_the_relay(world: World, relay: ScriptedRelay) -> None:
    """However often: the next process dials at once."""
    for number in range(1, 5):
        with crawling(world, relay.url):
            relay.wait_for_connection(number)
            wait_until(lambda: state(world, relay)[0] == "connected")
        assert world.query("SELECT failures, state FROM relays") == [(0, "disconnected")]
        assert world.value("SELECT next_dial_at FROM relays") <= world.clock.now_ms()


def name(world: World, relay: ScriptedRelay, *who: int) -> None:
    with world.database.write() as tx:
        for author in who:
            relay_mentions.record_mention(
                tx, relay.url, source="relay-list", author=author, is_user=False, now=world.clock.now_ms()
            )


def test_relays_come_and_go_with_the_selection(world: World, relay: ScriptedRelay) -> None:
    """One that two authors name is dialled while the crawler runs; one that is no candidate any more is let go."""
    with ScriptedRelay() as other, crawling(world, relay.url, EVENTS_DISCOVER_RELAYS="true") as running:
        relay.wait_for_connection()
        name(world, other, 1)
        assert other.connections == 0
        name(world, other, 2)
        other.wait_for_connection()
        wait_live(other)
        wait_until(lambda: running.metric("relay_downloader_gauge") == 2)
        world.execute("UPDATE relays SET namers = 0 WHERE address = ?", other.url)
        other.wait_for_disconnection()
        wait_until(lambda: state(world, other)[0] == "disconnected")
        wait_until(lambda: running.metric("relay_downloader_gauge") == 1)
        assert relay.connections == 1, "the others go on undisturbed"
        world.execute("UPDATE relays SET namers = 2 WHERE address = ?", other.url)
        other.wait_for_connection(2)
    assert len(relay.journal.of(Connected)) == 1


def test_what_a_killed_process_said_of_a_relay_is_put_right(world: World, relay: ScriptedRelay) -> None:
    """A relay that nobody crawls any more is not told to be connected for ever."""
    name(world, relay, 1)
    with world.database.write() as tx:
        number = relay_table.find(tx, relay.url)
        assert number is not None
        relay_status.start_crawling(tx, [number], 1)
    world.execute("UPDATE relays SET state = 'connected', subscriptions = 7, failures = 3")
    with ScriptedRelay() as other, crawling(world, other.url):
        wait_until(lambda: state(world, relay)[:3] == ("disconnected", 0, 3))
        wait_until(lambda: state(world, other)[0] == "connected")


def asks_for(author: Author) -> Callable[[Req], bool]:
    return lambda req: any(author.pubkey in wanted.get("authors", ()) for wanted in req.filters)


def test_a_change_of_what_is_wanted_reaches_the_relay_at_once(world: World, relay: ScriptedRelay) -> None:
    """A new user's events are asked for and come in; a removed one's are not any more."""
    note = BOB.sign("before", created_at=NOW - 50)
    relay.hold([note])
    with crawling(world, relay.url):
        wait_live(relay)
        world.register(BOB.pubkey)
        relay.wait_for_req(lambda req: is_live(req) and asks_for(BOB)(req))
        wait_arrived(world, [note])
        live = BOB.sign("live", created_at=NOW)
        wait_until(lambda: relay.publish(live) > 0)
        wait_arrived(world, [live])
        world.remove(BOB.pubkey)
        wait_until(lambda: not any(map(asks_for(BOB), open_lives(relay).values())), "no live subscription for Bob")
        assert open_lives(relay)


def save(world: World) -> set[str]:
    """What a saver does: out of the inbox, into `seen`; returns the ids."""
    with world.database.write() as tx:
        rows = tx.execute("SELECT seq, event_id FROM inbox").fetchall()
        tx.executemany("INSERT OR IGNORE INTO seen VALUES (?2, ?1, 0, 0, 0, 0)", rows)
        tx.execute("DELETE FROM inbox")
    return {bytes(event_id).hex() for _, event_id in rows}  # type: ignore[arg-type]  # a blob by its column


MARKS = {"EVENTS_BACKPRESSURE_HIGH": "300", "EVENTS_BACKPRESSURE_LOW": "100"}


def test_backpressure_in_the_middle_of_pages_loses_nothing(world: World, relay: ScriptedRelay) -> None:
    """How often it stops is up to the machine; it goes on where it was."""
    events = profiles(2000)
    ids = {event.id for event in events}
    relay.hold(events)
    relay.behave(Behaviour(event_delay_s=0.0001))
    saved: set[str] = set()
    with crawling(world, relay.url, **MARKS):
        while not ids <= saved:
            wait_until(lambda: is_held(world, relay) or ids <= saved.union(arrived(world)))
            saved.update(save(world))
        wait_until(lambda: state(world, relay)[0] == "connected")
        late = profiles(1, first=5000)
        relay.publish(*late)
        wait_arrived(world, late)


def is_held(world: World, relay: ScriptedRelay) -> bool:
    return bool(state(world, relay)[0] == "backpressured")


def test_above_the_high_mark_nothing_is_read_until_below_the_low(world: World, relay: ScriptedRelay) -> None:
    with crawling(world, relay.url, **MARKS):
        wait_live(relay)
        for first in (0, 1000):
            relay.publish(*profiles(301, first=first))
            wait_until(lambda: is_held(world, relay))
            held_back = profiles(5, first=first + 500)
            relay.publish(*held_back)
            # As many as may be left below the high mark.
            world.execute("DELETE FROM inbox WHERE seq IN (SELECT seq FROM inbox ORDER BY seq LIMIT 150)")
            assert not {event.id for event in held_back} & arrived(world)
            save(world)
            wait_arrived(world, held_back)
            wait_until(lambda: state(world, relay)[0] == "connected")


def test_the_outbox_counts_for_backpressure_too(world: World, relay: ScriptedRelay) -> None:
    """That of Pub/Sub; the target relay's does not stop anything."""
    with world.database.write() as tx:
        tx.executemany("INSERT INTO outbox (event, sink, ready_at) VALUES (?, 'relay', 0)", ((n,) for n in range(400)))
    with crawling(world, relay.url, EVENTS_BACKPRESSURE_HIGH="300", EVENTS_BACKPRESSURE_LOW="100"):
        wait_live(relay)
        relay.publish(*profiles(1))
        wait_arrived(world, profiles(1))
        world.execute("UPDATE outbox SET sink = 'pubsub'")
        more = iter(profiles(5000, first=1))

        def is_held() -> bool:
            # A reader that waits for a silent relay notices with the next event.
            relay.publish(next(more))
            return bool(state(world, relay)[0] == "backpressured")

        wait_until(is_held)
        world.execute("DELETE FROM outbox")
        wait_until(lambda: state(world, relay)[0] == "connected")


def test_bytes_that_wait_stop_reading_until_they_are_saved(world: World, relay: ScriptedRelay) -> None:
    least = 16 << 20
    world.execute(
        "INSERT INTO inbox (event, event_id, relay, received_at, ready_at, bytes)"
        " VALUES (1, randomblob(32), 1, 0, 0, ?)",
        least + 1,
    )
    events = profiles(5)
    with crawling(world, relay.url, EVENTS_BACKPRESSURE_BYTES=f"{least}"):
        wait_until(lambda: state(world, relay)[0] == "backpressured")
        relay.publish(*events)
        world.execute("DELETE FROM inbox")
        wait_arrived(world, events)
        assert state(world, relay)[0] == "connected"


def test_database_beyond_its_bound_drops_what_is_of_strangers(
    world: World, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "used_bytes", lambda _: 1_200)
    with crawling(world, relay.url, EVENTS_MAX_DATABASE_BYTES="1000") as running:
        wait_live(relay)
        relay.publish(profiles(1)[0])
        wait_until(lambda: running.metric("received_events_counter_total", address=relay.url) >= 1)
    dropped = {"stage": "crawler", "reason": "database-full"}
    assert running.metric("event_service_stage_discarded_total", **dropped) >= 1, "it may come twice"
    assert arrived(world) == set()


def test_full_database_takes_nothing_until_there_is_room(
    world: World, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = [1_250]
    monkeypatch.setattr(disk, "used_bytes", lambda _: used[0])
    relay.hold(profiles(3))
    with crawling(world, relay.url, EVENTS_MAX_DATABASE_BYTES="1000"):
        wait_until(lambda: is_held(world, relay))
        relay.publish(*profiles(2, first=3))
        assert arrived(world) == set()
        used[0] = 900
        wait_arrived(world, profiles(5))


def test_backlog_of_a_sink_that_is_off_stops_nothing(world: World, relay: ScriptedRelay) -> None:
    with world.database.write() as tx:
        tx.executemany("INSERT INTO outbox (event, sink, ready_at) VALUES (?, 'pubsub', 0)", ((n,) for n in range(400)))
    settings = {"EVENTS_BACKPRESSURE_HIGH": "300", "EVENTS_BACKPRESSURE_LOW": "100", "EVENTS_SINK": "none"}
    relay.hold(profiles(3))
    with crawling(world, relay.url, **settings):
        wait_arrived(world, profiles(3))
        assert state(world, relay)[0] == "connected"


def is_page(filters: Sequence[Mapping[str, Any]]) -> bool:
    return any("since" in wanted for wanted in filters)


def test_a_rate_limit_pauses_everything_of_its_host(world: World) -> None:
    """Refused, no address of that host is asked for a while; all is fetched in the end."""
    # Of pages only: what else is asked meanwhile must not use it up.
    limited = Refusal(How.CLOSED, "rate-limited: slow down", times=2, when=is_page)
    with ScriptedRelay(Behaviour(refusals=(limited,))) as first, ScriptedRelay(address=first.address) as second:
        events, others = profiles(20), profiles(20, first=100)
        first.hold(events)
        second.hold(others)
        with crawling(world, first.url, second.url):
            wait_arrived(world, events + others)
            reqs = first.journal.of(Req)
    assert len(reqs) < 30
    assert max(later.at - earlier.at for earlier, later in itertools.pairwise(reqs)) > 0.5, "a pause"


def test_a_flood_of_what_is_no_message_ends_the_connection(world: World, relay: ScriptedRelay) -> None:
    """And only that one."""
    garbage = tuple(["{not a message"] * 1200)
    with ScriptedRelay(Behaviour(garbage=garbage)) as bad, crawling(world, relay.url, bad.url) as running:
        bad.wait_for_disconnection(2)
        labels = {"address": bad.url, "reason": "protocol"}
        assert running.metric("relay_connection_disconnections_counter_total", **labels) >= 1
        assert running.metric("event_service_stage_errors_total", stage="crawler", kind="message-json") > 1000
        relay.publish(*profiles(1))
        wait_arrived(world, profiles(1))
        assert relay.journal.of(Disconnected) == []


def test_some_garbage_costs_only_itself(world: World) -> None:
    garbage = ("", "{", "[]", '["EVENT"]', '["OK"]', "\x00\x01", '["AUTH"]', '["NOTICE",{}]', '["CLOSED"]', "9" * 5000)
    events = profiles(30)
    with ScriptedRelay(Behaviour(garbage=garbage), events=events) as relay, crawling(world, relay.url):
        wait_arrived(world, events)
        wait_live(relay)
        live = profiles(1, first=500)
        relay.publish(*live)
        wait_arrived(world, live)
        assert len(relay.journal.of(Connected)) == 1


def malformed(event: SignedEvent) -> SignedEvent:
    """In a form that NIP-01 does not allow."""
    key = event.pubkey.upper()
    return assemble(event.id, key, event.created_at, event.kind, event.tags, event.content, event.sig)


def test_malformed_events_do_not_hide_the_others(world: World) -> None:
    """A relay that sends two thousand of them, each before the true event, is read to the end over one connection."""
    events = profiles(2000)
    with ScriptedRelay(Behaviour(forge=malformed), events=events) as relay, crawling(world, relay.url) as running:
        wait_arrived(world, events)
        wait_until(lambda: world.value("SELECT count(*) FROM cursors WHERE query LIKE 'global%'") == 1)
        assert len(relay.journal.of(Connected)) == 1
        pubkey = {"stage": "crawler", "reason": "invalid-pubkey"}
        wait_until(lambda: running.metric("event_service_stage_discarded_total", **pubkey) >= 2000)


def test_two_crawlers_share_the_relays(world: World) -> None:
    """Each relay is dialled by one of them, and all of them by both together."""
    made = [ScriptedRelay(events=profiles(10, first=number * 10)) for number in range(6)]
    for one in made:
        one.start()
    urls = [one.url for one in made]
    first, second = (crawling(world, *urls, index=index, EVENTS_CRAWLERS="2") for index in range(2))
    with first as one_running, second as other_running:
        wait_arrived(world, profiles(60))
        for one in made:
            wait_live(one)
        wait_until(lambda: sum(each.metric("relay_downloader_gauge") for each in (one_running, other_running)) == 6)
        assert [one.connections for one in made] == [1] * 6
    for one in made:
        assert len(one.journal.of(Connected)) == 1
        one.stop()


def test_dials_are_spread_out_when_many_relays_are_due_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, and when all of them are lost together; those that wait are counted."""
    monkeypatch.setattr(reconnect, "DIALS", Rate(burst=2, per_minute=240))
    waiting: list[float] = []
    show = Gauge.set

    def noting(gauge: Gauge, value: float) -> None:
        if gauge._name == "event_service_dials_waiting":
            waiting.append(value)
        show(gauge, value)

    monkeypatch.setattr(Gauge, "set", noting)
    with ExitStack() as stack:
        made = [stack.enter_context(ScriptedRelay()) for _ in range(8)]
        began = monotonic()
        running = stack.enter_context(crawling(world, *(one.url for one in made)))
        for one in made:
            one.wait_for_connection()
        assert monotonic() - began >= (8 - 2) / 4
        assert max(waiting) > 0, "relays that wait"
        wait_until(lambda: running.metric("event_service_dials_waiting") == 0, "no relay waiting")
        for one in made:
            one.drop()
        for one in made:
            one.wait_for_connection(2)
        assert monotonic() - began >= (16 - 2) / 4


def test_what_was_read_is_committed_before_the_stage_ends(world: World, relay: ScriptedRelay) -> None:
    """A stop in the middle of a flood: every event that counts as received is in the inbox."""
    events = profiles(3000)
    with crawling(world, relay.url) as running:
        wait_live(relay)
        publisher = threading.Thread(target=relay.publish, args=events)
        publisher.start()
        wait_until(lambda: len(arrived(world)) > 200)
        running.end()
        publisher.join()
    received = running.metric("received_events_counter_total", address=relay.url)
    again = running.metric("event_service_stage_discarded_total", stage="crawler", reason="duplicate")
    assert received >= 200
    assert len(arrived(world)) == received - again


def test_a_stop_in_the_middle_of_a_page_goes_on_from_there(world: World, relay: ScriptedRelay) -> None:
    """What was not read is asked for again by the next process."""
    events = profiles(900)
    relay.hold(events)
    relay.behave(Behaviour(event_delay_s=0.001))
    for _ in range(2):
        with crawling(world, relay.url):
            before = len(arrived(world))
            wait_until(lambda before=before: len(arrived(world)) > before)  # type: ignore[misc]
    relay.behave(Behaviour())
    with crawling(world, relay.url):
        wait_arrived(world, events)


def test_a_page_that_breaks_off_is_asked_for_again(world: World) -> None:
    events = profiles(300)
    cut = Interruption(after_events=100, how=How.RESET, times=2)
    with ScriptedRelay(Behaviour(interruption=cut), events=events) as relay, crawling(world, relay.url):
        wait_arrived(world, events)


def test_a_relay_that_only_accepts_connections_does_not_hold_up_the_stop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the others meanwhile."""
    policy = functools.partial(DialPolicy, timeout_s=10 * PATIENCE_S)
    monkeypatch.setattr(crawler, "DialPolicy", policy)
    with socket.create_server(("127.0.0.1", 0)) as silent, ScriptedRelay(events=profiles(5)) as relay:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with crawling(world, url, relay.url) as running:
            connection, _ = silent.accept()
            wait_arrived(world, profiles(5))
            running.end()
            connection.close()


def test_a_stop_while_held_by_backpressure(world: World, relay: ScriptedRelay) -> None:
    relay.hold(profiles(1000))
    with crawling(world, relay.url, EVENTS_BACKPRESSURE_HIGH="10", EVENTS_BACKPRESSURE_LOW="5"):
        wait_until(lambda: state(world, relay)[0] == "backpressured")
    # Else it would be given up, and say nothing.
    assert state(world, relay)[0] == "disconnected"


def test_a_database_that_fails_ends_the_stage(world: World, relay: ScriptedRelay) -> None:
    """Rather than reading on without saving."""
    relay.hold(profiles(10))
    world.execute("ALTER TABLE inbox RENAME TO elsewhere")
    with crawling(world, relay.url) as running:
        error = running.wait_over()
    assert error is not None
    assert "inbox" in str(error)


def test_a_skipped_host_is_dialled_only_if_it_is_a_bootstrap_relay(world: World, relay: ScriptedRelay) -> None:
    with ScriptedRelay() as skipped:
        name(world, skipped, 1, 2)
        settings = {"EVENTS_DISCOVER_RELAYS": "true", "EVENTS_SKIP_RELAYS": skipped.address}
        with crawling(world, relay.url, **settings):
            wait_live(relay)
            wait_until(lambda: state(world, relay)[0] == "connected")
            assert skipped.journal.of(Connected) == []
        with crawling(world, relay.url, skipped.url, **settings):
            skipped.wait_for_connection()


def test_the_document_of_a_relay_is_read_once_a_day(world: World) -> None:
    """Over restarts too; what it says of limits is kept."""
    document = {"limitation": {"max_subscriptions": 7, "max_limit": 50}}
    with ScriptedRelay(Behaviour(nip11=document, cap=50), events=profiles(120)) as relay:
        for number in range(2):
            with crawling(world, relay.url):
                wait_live(relay, number + 1)
                wait_arrived(world, profiles(120))
                wait_until(lambda: json.loads(world.query("SELECT limits FROM relays")[0][0]).get("informed_at", 0) > 0)
        assert len(relay.journal.of(HttpRequest)) == 1
        limits = json.loads(world.query("SELECT limits FROM relays")[0][0])
    assert limits["page_limit"] == 50
    assert limits["max_subscriptions"] <= 7
    assert limits["informed_at"] >= NOW


def is_asked_for(relay: ScriptedRelay, author: Author) -> bool:
    """Whether the live subscriptions have come to `author`, and every request was answered."""
    live = relay.journal.of(Req, is_live)
    return any(map(asks_for(author), live)) and len(relay.journal.of(Answered)) >= len(relay.journal.of(Req))


def open_lives(relay: ScriptedRelay) -> dict[str, Req]:
    """The newest request of each live subscription that was asked for and not closed, by its id."""
    closed = {close.subscription for close in relay.journal.of(Close)}
    return {req.subscription: req for req in relay.journal.of(Req, is_live) if req.subscription not in closed}


def test_plan_changes_multiply_no_events_where_requests_accumulate(world: World) -> None:
    """Once an event has come twice, each change closes what came before it."""
    people = authors(52, 6)
    copies: list[int] = []
    with ScriptedRelay(Behaviour(adds_requests=True)) as relay, crawling(world, relay.url):
        wait_live(relay)
        for number, author in enumerate(people):
            world.register(author.pubkey)
            wait_until(functools.partial(is_asked_for, relay, author))
            event = people[0].sign(f"live {number}", created_at=NOW, kind=1)
            copies.append(relay.publish(event))
            wait_arrived(world, [event])
        # While a successor and the one before it are open there is a copy more.
        assert copies[-1] <= 3, copies
        wait_until(lambda: len(open_lives(relay)) == 1, "the successor is open alone")
        assert relay.publish(people[0].sign("last", created_at=NOW, kind=1)) == 1, copies


def test_document_that_takes_its_time_holds_nothing_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is fetched beside the first requests, and followed as soon as it is there."""
    monkeypatch.setattr(crawler, "_INFORMATION_TIMEOUT_S", PATIENCE_S)
    document = {"limitation": {"max_limit": 7}}
    with ScriptedRelay(Behaviour(nip11=document, nip11_after_req=True), events=profiles(120)) as relay:
        with crawling(world, relay.url):
            first = relay.wait_for_req()
            wait_arrived(world, profiles(120))
            wait_until(lambda: "page_limit" in world.query("SELECT limits FROM relays")[0][0])
        (asked,) = relay.journal.of(HttpRequest)
    assert first.at < asked.at
    assert json.loads(world.query("SELECT limits FROM relays")[0][0])["page_limit"] == 7


@pytest.mark.parametrize("how", [How.ENDLESS_FRAME, How.ENDLESS_MESSAGE, How.RESET, How.CLOSE])
def test_relays_that_break_in_strange_ways_harm_nobody_else(world: World, relay: ScriptedRelay, how: How) -> None:
    events = profiles(40)
    relay.hold(events)
    refusal = Refusal(how, "strange")
    with (
        ScriptedRelay(Behaviour(refusals=(refusal,)), events=events) as strange,
        crawling(world, relay.url, strange.url),
    ):
        strange.wait_for_req()
        wait_arrived(world, events)
        live = profiles(1, first=800)
        wait_live(relay)
        relay.publish(*live)
        wait_arrived(world, live)


def test_rates_of_requests_stay_below_a_relays_limit(world: World) -> None:
    """A relay that counts messages and answers above its rate with a NOTICE is read to the end all the same."""
    events = profiles(1500)
    rate = RateLimit(per_s=20, burst=5)
    with ScriptedRelay(Behaviour(cap=500, rate=rate), events=events) as relay, crawling(world, relay.url):
        wait_arrived(world, events)
