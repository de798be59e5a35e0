"""What dashboards, probes and users of the deployments before us rely on, asked of a running service."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from time import monotonic, time

import pytest
import websocket

from tests.factories.events import Author, authors, forge_signature
from tests.fakes.pubsub import FakePubSub
from tests.fakes.relay import ScriptedRelay
from tests.fakes.scrape import Scrape
from tests.fakes.service import EventService, settings

USER, FRIEND, STRANGER = authors(3, 3)
TYPES = {
    "application_handler_calls_total": "counter",
    "application_handler_calls_duration": "histogram",
    "version": "gauge",
    "subscription_queue_length": "gauge",
    "subscription_queue_oldest_message_age": "gauge",
    "relay_downloader_gauge": "gauge",
    "relay_connection_state_gauge": "gauge",
    "received_events_counter": "counter",
    "relay_connection_subscriptions_gauge": "gauge",
    "relay_connection_received_messages_counter": "counter",
    "relay_connection_disconnections_counter": "counter",
    "relay_connection_reconnections_counter": "counter",
    "relay_rate_limit_backoff_ms_gauge": "gauge",
    "stored_relay_addresses_gauge": "gauge",
    "events_sent_to_relay_counter": "counter",
    "notice_type_total": "counter",
}
LABELS = {
    "application_handler_calls_total": {"handlerName", "result"},
    "application_handler_calls_duration_count": {"handlerName", "result"},
    "application_handler_calls_duration_bucket": {"handlerName", "result", "le"},
    "version": {"vcsRevision", "vcsTime", "go"},
    "subscription_queue_length": {"topic"},
    "subscription_queue_oldest_message_age": {"topic"},
    "relay_downloader_gauge": set(),
    "relay_connection_state_gauge": {"address", "state"},
    "received_events_counter": {"address"},
    "relay_connection_subscriptions_gauge": {"address"},
    "relay_connection_received_messages_counter": {"address", "messageType", "result"},
    "relay_connection_disconnections_counter": {"address", "reason"},
    "relay_connection_reconnections_counter": {"address"},
    "relay_rate_limit_backoff_ms_gauge": {"address"},
    "stored_relay_addresses_gauge": set(),
    "events_sent_to_relay_counter": {"address", "decision", "result"},
    "notice_type_total": {"address", "noticeType"},
}
HANDLERS = {
    "saveReceivedEvent",
    "processSavedEvent",
    "updateMetrics",
    "addPublicKeyToMonitor",
    "getPublicKeyInfo",
    "cleanupProcessedEvents",
}


@dataclass(frozen=True, slots=True)
class UsedService:
    """A service in use: one relay, one target relay, a topic, a user who follows a friend."""

    service: EventService
    relay: ScriptedRelay
    target: ScriptedRelay
    topic: FakePubSub
    events: int


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsedService]:
    now = int(time())
    profile = USER.sign("{}", kind=0, created_at=now - 20)
    follows = USER.contact_list([FRIEND], now - 10)
    note = FRIEND.sign("hello", kind=1, created_at=now - 5)
    mention = STRANGER.sign("hi", kind=1, created_at=now - 4, tags=[("p", USER.pubkey)])
    protected = STRANGER.sign("{}", kind=0, created_at=now - 3, tags=[("-",)])
    irrelevant = STRANGER.sign("to nobody", kind=1, created_at=now - 2)
    with ScriptedRelay() as relay, ScriptedRelay() as target, FakePubSub() as topic:
        relay.hold([profile, follows, note, mention, protected, irrelevant])
        env = settings(relays=[relay.url], target=target.url, pubsub=topic.address)
        with EventService(tmp_path_factory.mktemp("surface"), env) as service:
            accepted, reason = service.register(USER, ["wss://relay.example.com"])
            assert accepted, reason
            topic.wait_count(5)
            service.public_key(USER.pubkey)
            _provoke(service, relay)
            yield UsedService(service, relay, target, topic, 5)


def _provoke(service: EventService, relay: ScriptedRelay) -> None:
    """Let happen what shows in counters only then: a notice, a lost connection, a new one, OKs of the target."""
    relay.shout(json.dumps(["NOTICE", "slow down, please"]))
    service.wait_metric("notice_type_total", lambda value: value >= 1, noticeType="RATE_LIMIT")
    relay.drop()
    service.wait_metric("relay_connection_reconnections_counter", lambda value: value >= 1)
    service.wait_metric("events_sent_to_relay_counter", lambda value: value >= 2, decision="send", result="success")
    service.wait_metric(
        "application_handler_calls_total", lambda value: value >= 1, handlerName="cleanupProcessedEvents"
    )
    service.wait_metric("events_sent_to_relay_counter", lambda value: value >= 3, decision="ignore")
    service.wait_metric("application_handler_calls_total", lambda value: value >= 5, handlerName="processSavedEvent")
    # The relay that is crawled, and the one that events are sent to.
    service.wait_metric("relay_connection_state_gauge", lambda value: value == 2, state="connected")


@pytest.fixture
def scrape(used: UsedService) -> Scrape:
    return used.service.scrape()


def test_every_metric_has_its_name_and_type(scrape: Scrape) -> None:
    types = scrape.types()
    assert {name: types.get(name) for name in TYPES} == TYPES


def test_every_sample_has_its_labels(scrape: Scrape) -> None:
    for name, labels in LABELS.items():
        samples = scrape.samples(name)
        assert samples, name
        for sample in samples:
            assert set(sample.labels) == labels, sample


def test_counters_do_not_show_the_suffix_of_the_python_client(scrape: Scrape) -> None:
    renamed = {name for name, kind in TYPES.items() if kind == "counter" and not name.endswith("_total")}
    assert not {f"{name}_total" for name in renamed} & scrape.names()
    assert not [name for name in scrape.names() if name.endswith("_created")]


def test_every_handler_is_counted(scrape: Scrape) -> None:
    samples = scrape.samples("application_handler_calls_total")
    assert {sample.labels["handlerName"] for sample in samples} == HANDLERS
    assert {sample.labels["result"] for sample in samples} <= {"success", "error"}


def test_one_count_per_event(used: UsedService, scrape: Scrape) -> None:
    saved = scrape.value("application_handler_calls_total", handlerName="saveReceivedEvent", result="success")
    published = scrape.value("application_handler_calls_total", handlerName="processSavedEvent", result="success")
    assert saved == used.events
    # Two of them also went to the target relay, which counts on its own.
    assert published == used.events


def test_only_the_current_state_of_a_relay_has_a_series(used: UsedService, scrape: Scrape) -> None:
    (sample,) = scrape.samples("relay_connection_state_gauge", address=used.relay.url)
    assert sample.labels["state"] == "connected"
    assert sample.value == 1


def test_what_does_not_go_to_the_target_relay_counts_as_ignored(used: UsedService, scrape: Scrape) -> None:
    ignored = scrape.value("events_sent_to_relay_counter", address=used.target.url, decision="ignore", result="success")
    assert ignored == 3, "two notes, and a profile that only its author may publish"
    assert {event.kind for event in used.target.stored()} == {0, 3}


def test_the_queue_topic_is_the_one_of_old(scrape: Scrape) -> None:
    assert [sample.labels for sample in scrape.samples("subscription_queue_length")] == [{"topic": "eventSaved"}]


def test_the_version_tells_the_runtime(scrape: Scrape) -> None:
    (sample,) = scrape.samples("version")
    assert sample.value == 1
    assert sample.labels["go"].startswith("python3.")


def test_health_is_the_json_text_ok(used: UsedService) -> None:
    assert used.service.get("/_health") == (200, '"ok"')


def test_counts_of_a_key_in_either_case(used: UsedService) -> None:
    assert used.service.public_key(USER.pubkey) == {"followers": 0, "followees": 1}
    assert used.service.public_key(FRIEND.pubkey.upper()) == {"followers": 1, "followees": 0}
    status, body = used.service.get("/public-keys/xyz")
    assert (status, body) == (400, '{"statusCode":400,"message":"invalid hex public key"}')


def test_registrations_are_answered_with_the_reason(used: UsedService) -> None:
    now = int(time())
    newcomer = Author.from_seed(99, 1)
    assert used.service.register(newcomer) == (True, "")
    for wrong in (
        newcomer.sign("{}", kind=1, created_at=now),
        newcomer.sign("no json", kind=6666, created_at=now),
        newcomer.sign('{"relays":[{"address":"https://example.com"}]}', kind=6666, created_at=now),
        forge_signature(newcomer.registration(now)),
    ):
        accepted, reason = used.service.register(wrong)
        assert not accepted
        assert reason


def test_other_messages_are_ignored_and_junk_closes(used: UsedService) -> None:
    client = websocket.create_connection(used.service.url.replace("http:", "ws:"), timeout=10)
    # The library forgets its socket when the other side closes first.
    with closing(client.sock):
        event = Author.from_seed(99, 2).registration(int(time()))
        client.send(json.dumps(["CLOSE", "x"]))
        client.send(f'["EVENT",{event.raw}]')
        assert json.loads(client.recv()) == ["OK", event.id, True, ""]
        client.send(json.dumps(["REQ", "x", {}]))
        assert json.loads(client.recv())[:2] == ["CLOSED", "x"]
        client.send("junk")
        assert client.recv_data()[0] == websocket.ABNF.OPCODE_CLOSE


def test_a_scrape_is_quick(used: UsedService) -> None:
    began = monotonic()
    used.service.scrape()
    print(f"scrape in {1000 * (monotonic() - began):.0f} ms")
