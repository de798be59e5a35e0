"""The gauges as text, from a real database."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from pipeline.process.clock import SystemClock
from pipeline.process.logs import get_logger
from pipeline.server.collectors import StoreCollector
from pipeline.settings.config import Config
from pipeline.status.snapshot import sinks_of
from pipeline.store import (
    audits,
    gauges,
    inbox,
    outbox,
    relay_candidates,
    relay_mentions,
    relay_status,
    relays,
    target_relay,
    users,
)
from pipeline.store import sinks as sinks_store
from pipeline.store.database import Database, Tx
from pipeline.store.disk import DiskUse
from pipeline.store.events import Accepted
from pipeline.store.inbox import Arrival
from pipeline.store.lease import DeadLetter
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName
from tests.support.stored import store_with_payloads

NOW = 1_700_000_000_000
BOTH = (SinkName.PUBSUB, SinkName.RELAY)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "events.db", SystemClock()) as database:
        yield database


def rendered(database: Database, sinks: tuple[SinkName, ...] = BOTH, max_relays: int = 1000, now: int = NOW) -> str:
    with database.read() as tx:
        state = gauges.read(tx, max_relays=max_relays)
    registry = CollectorRegistry()
    registry.register(StoreCollector(state, sinks, DiskUse(8192, 4096, 1 << 20, 1 << 30), now))
    return generate_latest(registry).decode()


def samples(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def crawl(
    tx: Tx, address: str, state: RelayState, *, backoff: int = 0, subscriptions: int = 0, since: int = NOW
) -> None:
    relay_mentions.record_mention(tx, address, source="test", author=1, is_user=False, now=NOW)
    number = relays.find(tx, address)
    assert number is not None
    relay_status.start_crawling(tx, [number], NOW)
    relay_status.put_statuses(tx, [RelayStatus(number, address, state, since, subscriptions, backoff, 0, 0, "")])


def owe(tx: Tx, event: int, received_at: int, *sinks: SinkName) -> None:
    event_id = event.to_bytes(32, "big")
    store_with_payloads(tx, [Accepted(event, event_id, 0, 1, 1, b"{}", 1, received_at, len(sinks))])
    for sink in sinks:
        outbox.append(tx, sink, [event], received_at)


EMPTY = """\
# HELP relay_connection_state_gauge State of relay connections
# TYPE relay_connection_state_gauge gauge
# HELP relay_connection_subscriptions_gauge Open subscriptions
# TYPE relay_connection_subscriptions_gauge gauge
# HELP event_service_relay_first_seen_events Events first seen here, strangers' in part, halved every three days
# TYPE event_service_relay_first_seen_events gauge
# HELP relay_rate_limit_backoff_ms_gauge Rate limit backoff left, in milliseconds
# TYPE relay_rate_limit_backoff_ms_gauge gauge
# HELP stored_relay_addresses_gauge Relay addresses known
# TYPE stored_relay_addresses_gauge gauge
stored_relay_addresses_gauge 0.0
# HELP subscription_queue_length Queue length
# TYPE subscription_queue_length gauge
subscription_queue_length{topic="eventSaved"} 0.0
# HELP subscription_queue_oldest_message_age Age of the oldest message in seconds
# TYPE subscription_queue_oldest_message_age gauge
subscription_queue_oldest_message_age{topic="eventSaved"} 0.0
# HELP event_service_queue_length Pending rows, leased ones included
# TYPE event_service_queue_length gauge
event_service_queue_length{queue="inbox"} 0.0
event_service_queue_length{queue="outbox-pubsub"} 0.0
event_service_queue_length{queue="outbox-relay"} 0.0
# HELP event_service_queue_oldest_age_seconds Seconds since the oldest pending event was first seen
# TYPE event_service_queue_oldest_age_seconds gauge
event_service_queue_oldest_age_seconds{queue="inbox"} 0.0
event_service_queue_oldest_age_seconds{queue="outbox-pubsub"} 0.0
event_service_queue_oldest_age_seconds{queue="outbox-relay"} 0.0
# HELP event_service_dead_rows Dead letters
# TYPE event_service_dead_rows gauge
event_service_dead_rows{queue="inbox"} 0.0
event_service_dead_rows{queue="outbox-pubsub"} 0.0
event_service_dead_rows{queue="outbox-relay"} 0.0
# HELP event_service_queue_bytes Bytes of the events that wait
# TYPE event_service_queue_bytes gauge
event_service_queue_bytes{queue="inbox"} 0.0
event_service_queue_bytes{queue="outbox-pubsub"} 0.0
event_service_queue_bytes{queue="outbox-relay"} 0.0
# HELP event_service_database_bytes Bytes of the database file
# TYPE event_service_database_bytes gauge
event_service_database_bytes 8192.0
# HELP event_service_wal_bytes Bytes of the write-ahead log
# TYPE event_service_wal_bytes gauge
event_service_wal_bytes 4096.0
# HELP event_service_disk_free_bytes Free bytes on the disk of the database
# TYPE event_service_disk_free_bytes gauge
event_service_disk_free_bytes 1.048576e+06
# HELP event_service_disk_size_bytes Bytes of the disk of the database
# TYPE event_service_disk_size_bytes gauge
event_service_disk_size_bytes 1.073741824e+09
# HELP event_service_public_keys Public keys known, as authors or from contact lists
# TYPE event_service_public_keys gauge
event_service_public_keys 0.0
# HELP event_service_registered_users Registered users
# TYPE event_service_registered_users gauge
event_service_registered_users 0.0
# HELP event_service_wanted_authors Registered users and followees in all
# TYPE event_service_wanted_authors gauge
event_service_wanted_authors 0.0
# HELP event_service_waiting_followees Followees that wait, since EVENTS_MAX_WANTED_AUTHORS is nearly reached
# TYPE event_service_waiting_followees gauge
event_service_waiting_followees 0.0
# HELP event_service_audit_recall Share held of what relays had in the newest scheduled audit; NaN before it
# TYPE event_service_audit_recall gauge
event_service_audit_recall NaN
# HELP event_service_audit_missed_events_total Events that audits found missing
# TYPE event_service_audit_missed_events_total counter
event_service_audit_missed_events_total 0.0
# HELP event_service_open_gaps Open gaps of all relays
# TYPE event_service_open_gaps gauge
"""


def test_an_empty_database_shows_every_family_once(database: Database) -> None:
    assert rendered(database) == EMPTY


def test_only_the_current_state_of_a_crawled_relay_has_a_series(database: Database) -> None:
    with database.write() as tx:
        crawl(tx, "wss://a.example.com", RelayState.INITIALIZING)
        crawl(tx, "wss://a.example.com", RelayState.CONNECTED, subscriptions=7)
        crawl(tx, "wss://b.example.com/x", RelayState.BACKPRESSURED, subscriptions=2)
        crawl(tx, "wss://c.example.com", RelayState.DISCONNECTED)
        relay_mentions.record_mention(tx, "wss://never.example.com", source="test", author=1, is_user=False, now=NOW)
    found = {
        name: value
        for name, value in samples(rendered(database)).items()
        if "relay" in name and "outbox" not in name and "first_seen" not in name
    }
    assert found == {
        'relay_connection_state_gauge{address="wss://a.example.com",state="connected"}': 1,
        'relay_connection_state_gauge{address="wss://b.example.com/x",state="backpressured"}': 1,
        'relay_connection_state_gauge{address="wss://c.example.com",state="disconnected"}': 1,
        'relay_connection_subscriptions_gauge{address="wss://a.example.com"}': 7,
        'relay_connection_subscriptions_gauge{address="wss://b.example.com/x"}': 2,
        'relay_connection_subscriptions_gauge{address="wss://c.example.com"}': 0,
        'relay_rate_limit_backoff_ms_gauge{address="a.example.com"}': 0,
        'relay_rate_limit_backoff_ms_gauge{address="b.example.com"}': 0,
        'relay_rate_limit_backoff_ms_gauge{address="c.example.com"}': 0,
        "stored_relay_addresses_gauge": 4,
    }


def test_events_that_a_relay_brought_first_count_for_less_as_they_age(database: Database) -> None:
    with database.write() as tx:
        crawl(tx, "wss://a.example.com", RelayState.CONNECTED)
        number = relays.find(tx, "wss://a.example.com")
        assert number is not None
        relay_candidates.add_first_seen(tx, {number: 100}, NOW)
    name = 'event_service_relay_first_seen_events{address="wss://a.example.com"}'
    assert samples(rendered(database))[name] == 100
    assert samples(rendered(database, now=NOW + relay_candidates.FIRST_SEEN_HALF_LIFE_MS))[name] == 50


def test_a_hosts_backoff_is_the_longest_of_its_relays_and_runs_down(database: Database) -> None:
    with database.write() as tx:
        crawl(tx, "wss://a.example.com/1", RelayState.DISCONNECTED, backoff=5_000)
        crawl(tx, "ws://a.example.com:8080/2", RelayState.DISCONNECTED, backoff=9_000)
        crawl(tx, "wss://[2606:4700::1]:8080", RelayState.DISCONNECTED, backoff=1_000)
    for passed, left in ((0, 9_000), (2_000, 7_000), (60_000, 0)):
        found = samples(rendered(database, now=NOW + passed))
        assert found['relay_rate_limit_backoff_ms_gauge{address="a.example.com"}'] == left
    assert found['relay_rate_limit_backoff_ms_gauge{address="2606:4700::1"}'] == 0


def test_relays_with_series_are_bounded_connected_ones_first(database: Database) -> None:
    with database.write() as tx:
        for number in range(20):
            crawl(tx, f"wss://old{number}.example.com", RelayState.DISCONNECTED, since=NOW + number)
        crawl(tx, "wss://up.example.com", RelayState.CONNECTED, since=NOW - 1)
    found = [name for name in samples(rendered(database, max_relays=3)) if name.startswith("relay_connection_state")]
    assert found == [
        'relay_connection_state_gauge{address="wss://up.example.com",state="connected"}',
        'relay_connection_state_gauge{address="wss://old19.example.com",state="disconnected"}',
        'relay_connection_state_gauge{address="wss://old18.example.com",state="disconnected"}',
    ]
    assert samples(rendered(database, max_relays=3))["stored_relay_addresses_gauge"] == 21


@pytest.mark.parametrize(
    ("sinks", "length", "age"),
    [(BOTH, 5, 60.0), ((SinkName.PUBSUB,), 3, 30.0), ((SinkName.RELAY,), 2, 60.0), ((), 0, 0.0)],
    ids=["both", "pubsub", "relay", "none"],
)
def test_what_waits_to_be_handed_on_is_that_of_the_sinks_in_use(
    database: Database, sinks: tuple[SinkName, ...], length: int, age: float
) -> None:
    with database.write() as tx:
        owe(tx, 1, NOW - 60_000, SinkName.RELAY)
        owe(tx, 2, NOW - 30_000, SinkName.PUBSUB, SinkName.RELAY)
        owe(tx, 3, NOW - 10_000, SinkName.PUBSUB)
        owe(tx, 4, NOW - 5_000, SinkName.PUBSUB)
    found = samples(rendered(database, sinks))
    assert found['subscription_queue_length{topic="eventSaved"}'] == length
    assert found['subscription_queue_oldest_message_age{topic="eventSaved"}'] == age
    # The own gauges show each queue, in use or not; what is kept for a sink that is off is of no age.
    assert found['event_service_queue_length{queue="outbox-pubsub"}'] == 3
    assert found['event_service_queue_length{queue="outbox-relay"}'] == 2
    assert found['event_service_queue_oldest_age_seconds{queue="outbox-pubsub"}'] == 30 * (SinkName.PUBSUB in sinks)
    assert found['event_service_queue_oldest_age_seconds{queue="outbox-relay"}'] == 60 * (SinkName.RELAY in sinks)


def test_leased_rows_wait_and_buried_rows_are_dead(database: Database) -> None:
    with database.write() as tx:
        inbox.append(tx, [Arrival(bytes([n]) * 32, b"{}", 1, NOW - 1000 * n, 1) for n in (4, 3, 2)])
        (first, *_) = inbox.claim(tx, now=NOW, lease=1000, limit=2)
        inbox.queue.dead_letter(tx, [DeadLetter(first.receipt, "broken")], NOW)
        owe(tx, 9, NOW, SinkName.RELAY)
        (row,) = outbox.claim(tx, SinkName.RELAY, now=NOW, lease=1000, limit=1)
        outbox.queue.dead_letter(tx, [DeadLetter(row.receipt, "refused")], NOW)
    found = samples(rendered(database))
    assert found['event_service_queue_length{queue="inbox"}'] == 2
    assert found['event_service_queue_oldest_age_seconds{queue="inbox"}'] == 3
    assert found['event_service_dead_rows{queue="inbox"}'] == 1
    assert found['event_service_dead_rows{queue="outbox-relay"}'] == 1
    assert found['event_service_dead_rows{queue="outbox-pubsub"}'] == 0


def test_a_clock_that_was_set_back_gives_no_negative_age(database: Database) -> None:
    with database.write() as tx:
        owe(tx, 1, NOW + 60_000, SinkName.PUBSUB)
    assert samples(rendered(database))['subscription_queue_oldest_message_age{topic="eventSaved"}'] == 0


def test_registered_users_are_counted(database: Database) -> None:
    with database.write() as tx:
        for number in range(3):
            users.register(tx, bytes([number + 1]) * 32, NOW)
        users.remove(tx, bytes([1]) * 32, NOW)
    assert samples(rendered(database))["event_service_registered_users"] == 2


@pytest.mark.parametrize(
    ("env", "sinks"),
    [
        ({"EVENTS_ENVIRONMENT": "DEVELOPMENT"}, (SinkName.PUBSUB,)),
        ({"EVENTS_SINK": "stdout"}, BOTH),
        ({"EVENTS_SINK": "none"}, (SinkName.RELAY,)),
        ({"EVENTS_SINK": "none", "EVENTS_TARGET_RELAY": ""}, ()),
        ({"EVENTS_ENVIRONMENT": "DEVELOPMENT", "EVENTS_TARGET_RELAY": "ws://127.0.0.1:7777"}, BOTH),
    ],
)
def test_the_settings_say_which_sinks_are_in_use(
    database: Database, env: dict[str, str], sinks: tuple[SinkName, ...]
) -> None:
    config = Config.from_env({"EVENTS_DATABASE_PATH": str(database.path), **env})
    with database.read() as tx:
        assert sinks_of(config, tx) == sinks


def test_pending_deliveries_are_of_the_first_sink_and_the_target_relay(database: Database) -> None:
    """A further sink has series of its own, and a backlog that nothing waits for."""
    first, other = SinkName.PUBSUB, SinkName("nats")
    enrolled = sinks_store.enroll(database, ("pubsub", "nats"), SystemClock(), get_logger("test"))
    assert enrolled.outboxes == (first, other)
    with database.write() as tx:
        owe(tx, 1, NOW - 60_000, other)
        owe(tx, 2, NOW - 30_000, first, other)
        owe(tx, 3, NOW - 10_000, other, SinkName.RELAY)
    found = samples(rendered(database, (first, other, SinkName.RELAY)))
    assert found['subscription_queue_length{topic="eventSaved"}'] == 2
    assert found['subscription_queue_oldest_message_age{topic="eventSaved"}'] == 30
    assert found['event_service_queue_length{queue="outbox-nats"}'] == 3
    assert found['event_service_queue_oldest_age_seconds{queue="outbox-nats"}'] == 60


def test_target_relay_is_among_the_relays_while_it_is_a_sink(database: Database) -> None:
    """The Go service's dashboards show its state too; it is none of those that are crawled."""
    with database.write() as tx:
        target_relay.put(tx, "wss://target.example", RelayState.CONNECTED, NOW)
    state = 'relay_connection_state_gauge{address="wss://target.example",state="connected"}'
    found = samples(rendered(database, BOTH))
    assert found[state] == 1
    assert found['relay_connection_subscriptions_gauge{address="wss://target.example"}'] == 0
    assert found['relay_rate_limit_backoff_ms_gauge{address="target.example"}'] == 0
    assert state not in samples(rendered(database, (SinkName.PUBSUB,)))


def test_recall_is_no_number_before_an_audit_and_then_its_outcome(database: Database) -> None:
    assert math.isnan(samples(rendered(database))["event_service_audit_recall"])
    with database.write() as tx:
        audits.put(tx, NOW, 3, 1)
        audits.count_missed(tx, 5)
        audits.count_missed(tx, 1)
    shown = samples(rendered(database))
    assert (shown["event_service_audit_recall"], shown["event_service_audit_missed_events_total"]) == (0.75, 6)
