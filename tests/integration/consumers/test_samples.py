"""The sample consumers of the documents, as a stranger runs them: against Google's emulators, with each event twice."""

import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from google.cloud import firestore

from pipeline.process.trace_context import deliver as deliver_step
from pipeline.process.trace_context import span_id, traceparent
from pipeline.sinks.base import DELIVERED, Message
from pipeline.sinks.pubsub import PubsubSettings, PubsubSink
from tests.factories.events import SignedEvent, authors
from tests.fakes.child import ROOT, Child
from tests.fakes.collector import Collector
from tests.fakes.emulator import PROJECT, TOPIC_ID, PubSubEmulator, pubsub_emulator
from tests.fakes.firestore import FirestoreEmulator, firestore_emulator
from tests.fakes.net import free_port, loopback_address, wait_listening
from tests.integration.delivery.support import NOW, canonical

SAMPLES = ROOT / "pipeline/docs/consumers"
PATIENCE_S = 300.0
"""What the emulator gave to a consumer that was killed comes again after 60 s, and may have gone there twice."""
ALICE, BOB, CAROL = authors(61, 3)

emulator, documents = pubsub_emulator, firestore_emulator
"""The fixtures, as pytest finds them."""


def message(event: SignedEvent, *rules: str, users: Sequence[str] = (), retracted: str | None = None) -> Message:
    event_id = bytes.fromhex(event.id)
    return Message(event_id, canonical(event), NOW * 1000, retracted, "wss://r.example", rules, tuple(users))


@pytest.fixture
def sink(emulator: PubSubEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[PubsubSink]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.address)
    made = PubsubSink(PubsubSettings(PROJECT, TOPIC_ID, None))
    yield made
    made.close()


def deliver(sink: PubsubSink, *messages: Message) -> None:
    """Publish each message twice, as a retry does whose first answer got lost."""
    for _ in range(2):
        assert sink.deliver(messages) == [DELIVERED] * len(messages)


def consume(sample: str, emulator: PubSubEmulator, database: Path) -> Child:
    subscription = emulator.subscription.rpartition("/")[2]
    return Child([sys.executable, str(SAMPLES / sample), PROJECT, subscription, str(database)])


def wait_lines(child: Child, *expected: str) -> list[str]:
    """All that it says until it has said each of `expected`, as often as it is named; what comes again comes twice."""
    missing, said = Counter(expected), list[str]()
    while +missing:
        said.append(child.wait_line(".+", PATIENCE_S).string)
        missing[said[-1]] -= 1
    return said


@pytest.mark.timeout(1200)
def test_notifier_notifies_each_user_once(emulator: PubSubEmulator, sink: PubsubSink, tmp_path: Path) -> None:
    """Also after it was killed and started again."""
    note = CAROL.sign("hello", created_at=NOW, tags=[["p", ALICE.pubkey], ["p", BOB.pubkey]])
    own = ALICE.sign("me", created_at=NOW + 1, tags=[["p", ALICE.pubkey]])
    gone = CAROL.sign("gone", created_at=NOW + 2, tags=[["p", ALICE.pubkey]])
    old = CAROL.sign("old", created_at=NOW - 86_400, tags=[["p", ALICE.pubkey]])
    other = ALICE.sign("mentions none", created_at=NOW + 3)
    mention = message(note, "mention", users=[ALICE.pubkey, BOB.pubkey])
    with consume("notifier.py", emulator, tmp_path / "notified.db") as child:
        deliver(
            sink,
            mention,
            message(own, "user", "mention", users=[ALICE.pubkey]),
            message(gone, "mention", users=[ALICE.pubkey], retracted="deleted"),
            message(old, "mention", users=[ALICE.pubkey]),
            message(other, "user"),
        )
        skipped = [f"skipped {each.id}" for each in (gone, old, other)]
        notified = [f"{user}: a note by {CAROL.pubkey} {note.id}" for user in (ALICE.pubkey, BOB.pubkey)]
        duplicates = [f"duplicate {note.id}", f"duplicate {own.id}"]
        said = wait_lines(child, *skipped * 2, *notified, *duplicates)
    assert sorted(line for line in said if ": a " in line) == sorted(notified)
    with consume("notifier.py", emulator, tmp_path / "notified.db") as child:
        deliver(sink, mention)
        again = wait_lines(child, *[f"duplicate {note.id}"] * 2)
    assert not [line for line in again if ": a " in line]


@pytest.mark.timeout(1200)
def test_moderation_feed_has_each_event_once_and_none_deleted(
    emulator: PubSubEmulator, sink: PubsubSink, tmp_path: Path
) -> None:
    """Whichever comes first, and no author deletes what another wrote."""
    kept, early, late = (ALICE.sign(text, created_at=NOW) for text in ("kept", "deleted early", "deleted late"))
    report = BOB.sign("spam!", kind=1984, created_at=NOW + 1, tags=[[], ["p", ALICE.pubkey, "spam"], ["p"]])
    by_another = BOB.sign("", kind=5, created_at=NOW + 2, tags=[["e", kept.id], ["e"], []])
    deletions = [ALICE.sign("", kind=5, created_at=NOW + 2, tags=[["e", each.id]]) for each in (early, late)]
    stranger = CAROL.sign("followed, but no user", created_at=NOW)
    path = tmp_path / "feed.db"
    with consume("moderation.py", emulator, path) as child:
        deliver(sink, message(deletions[0], "user"), message(by_another, "user"), message(stranger, "followee"))
        deleted = [f"deleted {each.id}" for each in (deletions[0], by_another)]
        wait_lines(child, *[*deleted, f"skipped {stranger.id}"] * 2)
        deliver(sink, *(message(each, "user") for each in (kept, early, late)), message(report, "mention"))
        events = (kept, early, late, report)
        said = wait_lines(child, *(f"{how} {each.id}" for each in events for how in ("stored", "duplicate")))
        assert sum(line.startswith("stored") for line in said) == len(events)
        deliver(sink, message(deletions[1], "user"))
        wait_lines(child, *[f"deleted {deletions[1].id}"] * 2)
    feed = sqlite3.connect(path)
    assert feed.execute("SELECT id, about, reason FROM feed").fetchall() == [
        (report.id, ALICE.pubkey, "spam"), (kept.id, "", ""),
    ]  # fmt: skip
    feed.close()


@pytest.mark.timeout(1200)
def test_traced_consumer_continues_the_trace(emulator: PubSubEmulator, sink: PubsubSink) -> None:
    """And handles what is not traced without a span."""
    note, other = (ALICE.sign(text, created_at=NOW) for text in ("traced", "not traced"))
    step = deliver_step("pubsub")
    traced = replace(message(note, "user"), traceparent=traceparent(bytes.fromhex(note.id), step))
    command = [sys.executable, str(SAMPLES / "traced.py"), PROJECT, emulator.subscription.rpartition("/")[2]]
    with Collector() as collector:
        env = dict(os.environ) | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with Child(command, env=env) as child:
            deliver(sink, traced, message(other, "user"))
            wait_lines(child, *[f"handled {each.id}" for each in (note, other) for _ in range(2)])
            collector.wait(lambda each: len(each.spans) >= 2, PATIENCE_S)
        spans = [(each.trace_id.hex(), int.from_bytes(each.parent_span_id)) for each in collector.spans]
    assert set(spans) == {(note.id[:32], span_id(bytes.fromhex(note.id), step.name))}


@pytest.mark.timeout(1200)
def test_function_counts_each_event_once(
    emulator: PubSubEmulator, documents: FirestoreEmulator, sink: PubsubSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushed to it by the emulator, as the topic triggers it."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", documents.address)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", PROJECT)
    host = loopback_address()
    port = free_port(host)
    command = [sys.executable, "-m", "functions_framework", f"--source={SAMPLES / 'function/main.py'}"]
    command += ["--target=on_event", "--signature-type=cloudevent", f"--host={host}", f"--port={port}"]
    notes = [CAROL.sign(text, created_at=NOW, tags=[["p", ALICE.pubkey], ["p", BOB.pubkey]]) for text in "ab"]
    own = BOB.sign("me", created_at=NOW, tags=[["p", BOB.pubkey]])
    other = ALICE.sign("mentions none", created_at=NOW)
    with Child(command) as child:
        wait_listening(host, port, PATIENCE_S)
        emulator.push_to(f"http://{host}:{port}/{emulator.topic}")
        deliver(
            sink,
            *(message(each, "mention", users=[ALICE.pubkey, BOB.pubkey]) for each in notes),
            message(own, "user", "mention", users=[BOB.pubkey]),
            message(other, "user"),
        )
        counted = [f"{how} {each.id}" for each in (*notes, own) for how in ("counted", "duplicate")]
        wait_lines(child, *counted, *[f"skipped {other.id}"] * 2)
    client = firestore.Client(project=PROJECT)
    counts = {each.id: each.to_dict()["count"] for each in client.collection("mentions").stream()}
    client.close()
    assert counts == {ALICE.pubkey: 2, BOB.pubkey: 2}
