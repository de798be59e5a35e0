"""The Pub/Sub sink: the real client against the fake server, and against Google's emulator where it is installed."""

import base64
import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from google.api_core.exceptions import from_grpc_status
from google.auth.exceptions import TransportError

from pipeline.delivery import outbox_client
from pipeline.errors import CannotStart
from pipeline.process.clock import ManualClock
from pipeline.rules import relevance
from pipeline.sinks import pubsub
from pipeline.sinks.attributes import MAX_VALUE_BYTES, attributes, size_in_call
from pipeline.sinks.base import DELIVERED, Message, Refused, Retry, SinkDown, Verdict
from pipeline.sinks.pubsub import MAX_CALL_BYTES, MAX_CALLS, PubsubSettings, PubsubSink
from tests.factories.events import Author
from tests.fakes.credentials import write_key_file
from tests.fakes.emulator import PubSubEmulator, pubsub_emulator
from tests.fakes.pubsub import MAX_REQUEST_BYTES, MAX_REQUEST_MESSAGES, PROJECT, TOPIC, FakePubSub
from tests.fakes.pubsub_rules import Rule
from tests.integration.delivery.support import NOW, PATIENCE_S, message, messages, notes
from tests.oracle.delivery import read_payload

emulator = pubsub_emulator
"""The fixture, as pytest finds it."""
DEAD_LETTER = Refused("INVALID_ARGUMENT", dead_letter=True)
TOPIC_ID = TOPIC.rpartition("/")[2]
Connect = Callable[..., PubsubSink]
untyped: Any = from_grpc_status


@pytest.fixture
def server() -> Iterator[FakePubSub]:
    with FakePubSub() as running:
        yield running


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Makes sinks that publish to an address, closed after the test."""
    made: list[PubsubSink] = []

    def to(address: str, *, topic: str = TOPIC_ID, project: str = PROJECT) -> PubsubSink:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
        made.append(PubsubSink(PubsubSettings(project, topic, None)))
        return made[-1]

    yield to
    for sink in made:
        sink.close()


@pytest.fixture
def sink(server: FakePubSub, connect: Connect) -> PubsubSink:
    return connect(server.address)


def works(sink: PubsubSink) -> PubsubSink:
    """A sink that has published before."""
    assert sink.deliver([message(Author.from_seed(99, 1).sign("first", created_at=NOW))]) == [DELIVERED]
    return sink


def test_a_batch_is_one_call_in_order(server: FakePubSub, sink: PubsubSink) -> None:
    batch = messages(notes(300))
    assert sink.deliver(batch) == [DELIVERED] * 300
    assert [call.messages for call in server.calls()] == [300]
    assert [each.data for each in server.deliveries()] == [each.payload for each in batch]


def test_data_is_the_events_json_and_nothing_else(server: FakePubSub, sink: PubsubSink) -> None:
    """Seven fields, lowercase hex, the id and signature still right; whatever text an author signs."""
    strange = [
        "",
        "\x00\x1f\x7f",
        'quote " backslash \\ slash /',
        "\u2028\ufeff",
        "🙂 ünïcödé",
        "</script>",
        "\ud83d alone",
        "x\udfff",
    ]
    author = Author.from_seed(5, 5)
    signed = [author.sign(text, created_at=NOW, tags=[["p", text], ["-"]]) for text in strange]
    assert sink.deliver(messages(signed)) == [DELIVERED] * len(strange)
    for event, delivered in zip(signed, server.deliveries(), strict=True):
        found, faults = read_payload(delivered.data)
        assert not faults
        assert found == event
        assert set(json.loads(delivered.data)) == {"id", "pubkey", "created_at", "kind", "tags", "content", "sig"}


def test_attributes_are_exactly_these(server: FakePubSub, sink: PubsubSink) -> None:
    event = Author.from_seed(1, 1).sign("x", kind=10002, created_at=NOW)
    sink.deliver([message(event)])
    found = server.deliveries()[0].attributes
    assert found is not None
    uuid = found["_watermill_message_uuid"]
    assert re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", uuid)
    assert found == {
        "_watermill_message_uuid": uuid,
        "event_id": event.id,
        "kind": "10002",
        "pubkey": event.pubkey,
        "created_at": str(NOW),
        "first_seen": str(NOW),
        "late": "60",
        "schema": "1",
    }


def test_the_uuid_is_the_events_own(server: FakePubSub, sink: PubsubSink) -> None:
    """Over retries, over another process, and when another row was first seen at another time."""
    event, other = notes(2)
    server.set_rules(Rule(status="UNAVAILABLE", store=True, times=1))
    with pytest.raises(SinkDown):
        sink.deliver([message(event)])
    sink.deliver([message(event, received_at=NOW * 1000 + 86_400_000), message(other)])
    taken = server.deliveries()
    assert [each.data for each in taken] == [message(event).payload] * 2 + [message(other).payload]
    uuids = [(each.attributes or {})["_watermill_message_uuid"] for each in taken]
    assert uuids[0] == uuids[1] != uuids[2]
    assert uuids[0] == attributes(message(event))["_watermill_message_uuid"]


@pytest.mark.parametrize("created_at", [0, 2**48 // 1000 + 1, 2**63 - 1])
def test_any_time_an_author_signs_gives_a_uuid(created_at: int) -> None:
    event = Author.from_seed(1, 1).sign("x", created_at=created_at)
    assert len(attributes(message(event))["_watermill_message_uuid"]) == 26


def test_calls_hold_at_most_1000_messages(server: FakePubSub, sink: PubsubSink) -> None:
    batch = messages(notes(20)) * 105
    assert sink.deliver(batch) == [DELIVERED] * 2100
    assert [call.messages for call in server.calls()] == [1000, 1000, 100]
    assert sink.max_messages == MAX_REQUEST_MESSAGES == 1000


@pytest.mark.parametrize("size", [900_000, 1_048_576, 300_000])
def test_calls_stay_below_10_mb(server: FakePubSub, sink: PubsubSink, size: int) -> None:
    """Attributes and framing included."""
    batch = messages(notes(2, size=size)) * 17
    assert sink.deliver(batch) == [DELIVERED] * 34
    assert all(len(each.raw) < MAX_REQUEST_BYTES for each in server.batches())
    assert len(server.calls()) >= 34 * size // MAX_REQUEST_BYTES + 1
    assert MAX_CALL_BYTES < MAX_REQUEST_BYTES


def test_small_messages_with_their_attributes_stay_below_10_mb(server: FakePubSub, sink: PubsubSink) -> None:
    """What they and the framing take is counted: 1,000 messages of just under 9 kB, with the longest attributes."""
    relay, mentions = "w" * MAX_VALUE_BYTES, ("a" * 64,) * relevance.MAX_MENTIONS
    batch = [
        replace(each, relay=relay, mentions=mentions, rules=tuple(relevance.Rule), retracted="vanished")
        for each in messages(notes(5, size=8_600)) * 200
    ]
    assert sink.deliver(batch) == [DELIVERED] * 1000
    assert len(server.batches()) > 1
    for each in server.batches():
        counted = sum(size_in_call(one.data, one.attributes) for one in each.messages())
        assert len(each.raw) <= counted + 100
        assert counted < MAX_CALL_BYTES < MAX_REQUEST_BYTES


@pytest.mark.parametrize(
    ("status", "advised"),
    [
        ("UNAVAILABLE", None),
        ("DEADLINE_EXCEEDED", None),
        ("RESOURCE_EXHAUSTED", None),
        ("ABORTED", None),
        ("INTERNAL", None),
        ("UNKNOWN", None),
        ("CANCELLED", None),
        ("NOT_FOUND", "EVENTS_PUBSUB_TOPIC"),
        ("PERMISSION_DENIED", "roles/pubsub.publisher"),
        ("UNAUTHENTICATED", "EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH"),
    ],
)
def test_errors_that_are_no_messages_fault(
    server: FakePubSub, sink: PubsubSink, status: str, advised: str | None
) -> None:
    """The sink is down, after one call; with advice where an operator must act."""
    server.set_rules(Rule(status=status, detail="so it is", times=1))
    batch = messages(notes(10))
    with pytest.raises(SinkDown) as down:
        sink.deliver(batch)
    assert down.value.reason == status
    assert "so it is" in str(down.value)
    assert down.value.verdicts == ()
    assert advised in down.value.advice if advised else not down.value.advice
    assert len(server.calls()) == 1
    assert sink.deliver(batch) == [DELIVERED] * 10


def test_a_missing_topic_is_told_by_name(server: FakePubSub, connect: Connect) -> None:
    with pytest.raises(SinkDown, match=r"NOT_FOUND.*EVENTS_PUBSUB_TOPIC"):
        connect(server.address, topic="no-such-topic").deliver(messages(notes(1)))
    assert server.topics == {TOPIC}, "the service never creates it"


@pytest.mark.parametrize("bad", [{0}, {999}, {500}, {3, 4}, set(range(0, 1000, 97))])
def test_only_the_guilty_messages_are_refused(server: FakePubSub, sink: PubsubSink, bad: set[int]) -> None:
    """Whatever their place; every other message is published exactly once."""
    works(sink)
    before = server.count
    batch = messages(notes(1000))
    server.set_rules(*(Rule(status="INVALID_ARGUMENT", containing=batch[index].event_id.hex()) for index in bad))
    others = 0
    refused, delivered, rest, rounds = set[int](), set[int](), list(range(1000)), 0
    while rest:
        verdicts = sink.deliver([batch[index] for index in rest])
        rounds += 1
        judged = dict(zip(rest, verdicts, strict=True))
        assert any(verdict is not None for verdict in verdicts), "each round comes further"
        refused |= {index for index, verdict in judged.items() if verdict == DEAD_LETTER}
        delivered |= {index for index, verdict in judged.items() if verdict == DELIVERED}
        rest = [index for index, verdict in judged.items() if verdict is None or isinstance(verdict, Retry)]
        if any(isinstance(verdict, Retry) for verdict in verdicts):
            # Whether it is the topic or the last of a batch is known once another is taken.
            works(sink)
            others += 1
    assert refused == bad
    assert delivered == set(range(1000)) - bad
    assert server.count - before - others == 1000 - len(bad)
    assert rounds <= len(bad) + others, "at most one round for each of them"


@pytest.mark.parametrize("count", [3, 500, 1000])
def test_topic_that_refuses_everything_after_it_worked_is_down(
    server: FakePubSub, sink: PubsubSink, count: int
) -> None:
    """Another schema: no message is to blame; each attempt costs a few calls, and all is delivered in the end."""
    works(sink)
    batch = messages(notes(count))
    server.set_rules(Rule(status="INVALID_ARGUMENT"))
    for _ in range(20):
        calls = len(server.calls())
        with pytest.raises(SinkDown, match="schema") as down:
            sink.deliver(batch)
        assert all(verdict is None for verdict in down.value.verdicts)
        assert len(server.calls()) - calls <= MAX_CALLS
    server.set_rules()
    assert sink.deliver(batch) == [DELIVERED] * count


def test_nothing_is_dead_lettered_if_the_topic_recovers_within_a_batch(server: FakePubSub, sink: PubsubSink) -> None:
    """What was refused last was refused by a topic that refused everything."""
    for calls in range(1, 16):
        works(sink)
        batch = messages(notes(60, first=100 * calls))
        server.set_rules(Rule(status="INVALID_ARGUMENT", times=calls))
        verdicts: list[Verdict | None] = []
        with contextlib.suppress(SinkDown):
            verdicts = list(sink.deliver(batch))
        assert DEAD_LETTER not in verdicts
        server.set_rules()


@pytest.mark.parametrize("count", [1, 2])
def test_few_messages_refused_alone_are_tried_again_until_another_is_taken(
    server: FakePubSub, sink: PubsubSink, count: int
) -> None:
    works(sink)
    bad = messages(notes(count))
    server.set_rules(*(Rule(status="INVALID_ARGUMENT", containing=each.event_id.hex()) for each in bad))
    for _ in range(5):
        assert sink.deliver(bad) == [Retry("INVALID_ARGUMENT")] * count
    assert sink.deliver(messages(notes(1, first=100))) == [DELIVERED]
    assert sink.deliver(bad) == [DEAD_LETTER] * count


def test_many_bad_messages_before_good_ones_are_to_blame(server: FakePubSub, sink: PubsubSink) -> None:
    works(sink)
    batch = messages(notes(300))
    bad = set(range(12)) | {100, 200}
    server.set_rules(*(Rule(status="INVALID_ARGUMENT", containing=batch[index].event_id.hex()) for index in bad))
    settled: dict[int, Verdict] = {}
    while rest := [index for index in range(300) if index not in settled]:
        verdicts = sink.deliver([batch[index] for index in rest])
        settled |= {index: verdict for index, verdict in zip(rest, verdicts, strict=True) if verdict is not None}
    assert {index for index, verdict in settled.items() if verdict == DEAD_LETTER} == bad


def test_lone_bad_messages_are_blamed_once_another_thread_delivers(server: FakePubSub, sink: PubsubSink) -> None:
    works(sink)
    bad = messages(notes(5))
    server.set_rules(*(Rule(status="INVALID_ARGUMENT", containing=each.event_id.hex()) for each in bad))
    with pytest.raises(SinkDown):
        sink.deliver(bad)
    sink.deliver(messages(notes(1, first=100)))
    settled: set[int] = set()
    for _ in range(4):
        with contextlib.suppress(SinkDown):
            verdicts = sink.deliver(bad)
            settled |= {index for index, verdict in enumerate(verdicts) if verdict == DEAD_LETTER}
        sink.deliver(messages(notes(1, first=101)))
    assert settled == set(range(5))


def test_a_batch_of_slow_calls_is_over_before_its_lease(server: FakePubSub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there was no time for is offered again, under a new lease."""
    assert pubsub._BATCH_LIMIT_S + pubsub.CALL_TIMEOUT_S < outbox_client.LEASE_MS / 1000 / 1.5
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.address)
    clock = ManualClock()
    sink = PubsubSink(PubsubSettings(PROJECT, TOPIC_ID, None), clock)
    works(sink)
    publish = PubsubSink._publish

    def slowly(sink: PubsubSink, part: Sequence[pubsub._Outgoing]) -> tuple[str | None, str]:
        clock.advance(15.0)
        return publish(sink, part)

    monkeypatch.setattr(PubsubSink, "_publish", slowly)
    batch = messages(notes(3)) * 1500
    assert [verdict is not None for verdict in sink.deliver(batch)] == [True] * 3000 + [False] * 1500
    sink.close()


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_a_topic_that_never_took_anything_refuses_no_message(server: FakePubSub, sink: PubsubSink, count: int) -> None:
    """A name that is none, a schema that fits no event: INVALID_ARGUMENT for everything must lose nothing."""
    server.set_rules(Rule(status="INVALID_ARGUMENT", detail="Invalid resource name given"))
    for _ in range(3):
        with pytest.raises(SinkDown, match="EVENTS_PUBSUB_TOPIC") as down:
            sink.deliver(messages(notes(count)))
        assert all(verdict is None for verdict in down.value.verdicts)
    assert len(server.calls()) <= 3 * 20
    server.set_rules()
    assert sink.deliver(messages(notes(count))) == [DELIVERED] * count


def test_a_bad_first_message_of_the_first_batch_is_refused(server: FakePubSub, sink: PubsubSink) -> None:
    """The others show that the topic works."""
    batch = messages(notes(50))
    server.set_rules(Rule(status="INVALID_ARGUMENT", containing=batch[0].event_id.hex()))
    assert sink.deliver(batch) == [DEAD_LETTER] + [DELIVERED] * 49


def test_what_was_published_before_the_sink_went_down_stays_published(server: FakePubSub, sink: PubsubSink) -> None:
    """A large batch takes several calls: the verdicts on the first are told with the failure of the second."""
    batch = messages(notes(3)) * 400
    server.set_rules(Rule(status="UNAVAILABLE", skip=1, times=1))
    with pytest.raises(SinkDown) as down:
        sink.deliver(batch)
    assert down.value.verdicts == (DELIVERED,) * 1000
    assert server.count == 1000


def test_what_was_published_while_a_batch_was_taken_apart_stays_published(server: FakePubSub, sink: PubsubSink) -> None:
    works(sink)
    batch = messages(notes(4))
    server.set_rules(
        Rule(status="UNAVAILABLE", containing=batch[3].event_id.hex(), skip=2),
        Rule(status="INVALID_ARGUMENT", containing=batch[1].event_id.hex()),
        Rule(status="INVALID_ARGUMENT", containing=batch[3].event_id.hex(), times=2),
    )
    with pytest.raises(SinkDown) as down:
        sink.deliver(batch)
    settled = down.value.verdicts
    assert settled[:2] == (DELIVERED, DEAD_LETTER)
    assert DELIVERED not in settled[3:]


def test_a_call_that_hangs_ends_with_the_call_timeout(
    server: FakePubSub, sink: PubsubSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pubsub.CALL_TIMEOUT_S <= 30, "well inside the lease"
    monkeypatch.setattr(pubsub, "CALL_TIMEOUT_S", 0.5)
    server.set_rules(Rule(hang=True))
    began = monotonic()
    with pytest.raises(SinkDown, match="DEADLINE_EXCEEDED"):
        sink.deliver(messages(notes(1)))
    assert monotonic() - began > 0.4
    server.set_rules()
    monkeypatch.setattr(pubsub, "CALL_TIMEOUT_S", PATIENCE_S)
    assert sink.deliver(messages(notes(1))) == [DELIVERED]


def test_a_server_that_dies_in_a_call_and_comes_back(server: FakePubSub, sink: PubsubSink) -> None:
    """The same channel serves again, without a new client."""
    works(sink)
    server.set_rules(Rule(die=True, times=1))
    with pytest.raises(SinkDown, match=r"UNAVAILABLE|CANCELLED"):
        sink.deliver(messages(notes(5)))
    server.stop()
    server.set_rules()
    with pytest.raises(SinkDown, match="UNAVAILABLE"):
        sink.deliver(messages(notes(5)))
    server.start()
    deadline = monotonic() + PATIENCE_S
    while True:
        try:
            assert sink.deliver(messages(notes(5))) == [DELIVERED] * 5
            break
        except SinkDown:
            assert monotonic() < deadline, "no way back"
    assert server.count == 6


@pytest.mark.parametrize("is_emulator", [True, False], ids=["emulator", "credentials"])
def test_after_an_outage_it_connects_again_within_seconds(
    server: FakePubSub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_emulator: bool
) -> None:
    """However long that was: by default gRPC comes to wait for two minutes between attempts."""
    given: list[tuple[str, Any]] = []
    insecure = grpc.insecure_channel

    def channel(*arguments: Any, options: Sequence[tuple[str, Any]], **_: Any) -> grpc.Channel:
        given.extend(options)
        return insecure(server.address, options=options)

    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.address)
    if not is_emulator:
        monkeypatch.delenv("PUBSUB_EMULATOR_HOST")
        monkeypatch.setattr("google.api_core.grpc_helpers.create_channel", channel)
    monkeypatch.setattr(grpc, "insecure_channel", channel)
    write_key_file(tmp_path / "key.json")
    sink = PubsubSink(PubsubSettings(PROJECT, TOPIC_ID, tmp_path / "key.json"))
    assert sink.deliver(messages(notes(1))) == [DELIVERED]
    sink.close()
    assert dict(given)["grpc.max_reconnect_backoff_ms"] <= 5_000
    assert is_emulator or dict(given)["grpc.max_send_message_length"] == -1, "and all that the client asks for"


def test_nobody_listens_at_the_address(connect: Connect) -> None:
    with pytest.raises(SinkDown, match="UNAVAILABLE"):
        connect("127.0.0.1:1").deliver(messages(notes(1)))


def test_one_sink_serves_several_threads(server: FakePubSub, sink: PubsubSink) -> None:
    batches = [messages(notes(50, first=50 * number)) for number in range(4)]
    results: list[list[Any]] = []
    threads = [
        threading.Thread(target=lambda batch=batch: results.append(list(sink.deliver(batch)))) for batch in batches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert results == [[DELIVERED] * 50] * 4
    assert {each.data for each in server.deliveries()} == {each.payload for batch in batches for each in batch}


class FailedCall(grpc.RpcError):
    """As gRPC raises it."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "Getting metadata from plugin failed with error: ('invalid_grant: no', {})"

    def trailing_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize(
    ("error", "reason"),
    [(FailedCall(), "UNAUTHENTICATED"), (TransportError("cannot reach oauth2.googleapis.com"), "UNAVAILABLE")],
)
def test_troubles_with_tokens(sink: PubsubSink, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    """A key that was revoked is the operator's to replace; a token server out of reach is not."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(sink, "_call", fail)
    with pytest.raises(SinkDown) as down:
        sink.deliver(messages(notes(1)))
    assert down.value.reason == reason
    assert bool(down.value.advice) is (reason == "UNAUTHENTICATED")


SECRET = base64.b64encode(b"the private key that nobody may see").decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json " + SECRET,
        "{",
        "[]",
        "[1, 2]",
        "null",
        "5",
        f'"{SECRET}"',
        "{}",
        json.dumps({"type": "service_account", "private_key": SECRET}),
        json.dumps({"client_email": "a@b", "token_uri": "https://x", "private_key": SECRET}),
        json.dumps({"client_email": "a@b", "token_uri": "https://x", "private_key": None}),
        json.dumps({"client_email": "a@b", "token_uri": "https://x", "private_key": 5}),
        json.dumps(
            {
                "client_email": "a@b",
                "token_uri": "https://x",
                "private_key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n",
            }
        ),
        json.dumps({"type": "authorized_user", "client_id": "x", "client_secret": SECRET}),
        json.dumps({"type": "external_account", "audience": SECRET}),
        json.dumps({"type": "impersonated_service_account", "source_credentials": {"type": SECRET}}),
        json.dumps({"type": SECRET}),
        "\udcff\udcfe",
    ],
)
def test_a_credentials_file_that_is_none_stops_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """At once, with the file's name and nothing of what is in it."""
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    path = tmp_path / "credentials.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CannotStart) as error:
        PubsubSink(PubsubSettings("p", "t", path))
    assert str(path) in str(error.value)
    assert SECRET not in str(error.value)
    assert error.value.__suppress_context__, "the traceback must not show it either"


@pytest.mark.parametrize("path", [Path("/nonexistent/key.json"), Path("/")])
def test_no_credentials_file(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    with pytest.raises(CannotStart):
        PubsubSink(PubsubSettings("p", "t", path))


@pytest.fixture
def no_machine_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is found by the way, and nobody is asked for it over the network."""
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


def test_no_credentials_at_all_name_the_variable(no_machine_credentials: None) -> None:
    with pytest.raises(CannotStart, match="EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH: none is set"):
        PubsubSink(PubsubSettings("p", "t", None))


def _source() -> dict[str, object]:
    return {"type": "authorized_user", "client_id": "x", "client_secret": SECRET, "refresh_token": SECRET}


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (_source(), "google.oauth2.credentials"),
        (
            {
                "type": "external_account", "audience": "//iam/x", "token_url": "https://sts.googleapis.com/v1/token",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "credential_source": {"file": "/var/run/token"},
            },
            "google.auth.identity_pool",
        ),
        (
            {
                "type": "impersonated_service_account", "source_credentials": _source(),
                "service_account_impersonation_url":
                    "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@b:generateAccessToken",
            },
            "google.auth.impersonated_credentials",
        ),
    ],
)  # fmt: skip
def test_every_type_of_credentials_makes_a_client(
    no_machine_credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: dict[str, object], kind: str
) -> None:
    """By the setting, and as the machine's own."""
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps(found))
    assert type(pubsub._credentials(path)).__module__ == kind
    PubsubSink(PubsubSettings("p", "t", path)).close()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    assert type(pubsub._credentials(None)).__module__ == kind


def test_the_emulator_takes_what_we_send(emulator: PubSubEmulator, connect: Connect) -> None:
    """Bytes and attributes as the fake server has them; a missing topic and a bad name as real ones answer."""
    sink = connect(emulator.address)
    signed = notes(1200, size=700)
    batch: list[Message] = messages(signed)
    assert sink.deliver(batch) == [DELIVERED] * 1200
    taken = emulator.drain_count(1200)
    assert {each.data: each.attributes for each in taken} == {each.payload: attributes(each) for each in batch}
    with pytest.raises(SinkDown, match="NOT_FOUND"):
        connect(emulator.address, topic="another").deliver(batch[:2])
    with pytest.raises(SinkDown, match="EVENTS_PUBSUB_TOPIC"):
        connect(emulator.address, topic="no name!").deliver(batch)
    large = messages(notes(12, size=900_000))
    assert sink.deliver(large) == [DELIVERED] * 12
    assert {each.data for each in emulator.drain_count(12)} == {each.payload for each in large}


def test_call_names_its_topic_for_routing_and_the_library(sink: PubsubSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the generated client adds to each call."""
    sent: dict[str, str] = {}
    monkeypatch.setattr(sink, "_call", lambda _, metadata, **__: sent.update(metadata))
    sink.deliver(messages(notes(1)))
    assert unquote(sent["x-goog-request-params"]) == f"topic={TOPIC}"
    assert "gccl/" in sent["x-goog-api-client"]
