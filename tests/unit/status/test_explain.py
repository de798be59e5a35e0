"""The story of an event, at each place where it can be."""

from collections.abc import Sequence

import pytest

from pipeline.nostr.event import Event, sign
from pipeline.nostr.nip19 import encode_npub
from pipeline.process.clock import ManualClock, SystemClock
from pipeline.process.logs import get_logger
from pipeline.status import explain
from pipeline.store import contacts, drops, events, inbox, outbox, sinks, users
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.database import Database, Tx
from pipeline.store.drops import Drop
from pipeline.store.events import NO_TIME, Accepted
from pipeline.store.inbox import Arrival
from pipeline.store.lease import DeadLetter, Postponed
from pipeline.store.outbox import Settled
from pipeline.store.schema import open_database
from pipeline.store.sinks import SinkName
from tests.support.stored import store_with_payloads

NOW = 1_700_000_000_000
SECRETS = [bytes(31) + bytes([number]) for number in (1, 2, 3)]


@pytest.fixture
def db(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return open_database(tmp_path_factory.mktemp("story") / "events.db", SystemClock())


def note(secret: bytes = SECRETS[0], kind: int = 1, tags: Sequence[Sequence[str]] = (), created_at: int = 5) -> Event:
    return sign(secret, created_at=created_at, kind=kind, tags=tags, content="x")


def arrive(tx: Tx, event: Event) -> None:
    inbox.append(tx, [Arrival(event.id, event.to_json(), 1, NOW, event.created_at)])


def accept(tx: Tx, event: Event, *, payload: bool = True) -> None:
    author = Authors().intern(tx, event.pubkey)
    accepted = Accepted(7, event.id, event.created_at, event.kind, author, event.to_json(), 1, NOW, 1)
    events.accept(tx, [accepted], NOW)
    if payload:
        store_with_payloads(tx, [accepted])


def told(tx: Tx, event: Event) -> dict[str, str]:
    return {line.subject: line.text for line in explain.explain_event(tx, event.id)}


def test_an_event_that_nobody_gave(db: Database) -> None:
    with db.read() as tx:
        assert list(told(tx, note())) == ["event", "never accepted"]


def test_an_accepted_event_is_found_by_its_time(db: Database) -> None:
    """Or kept under none, as those are whose time was not known."""
    event, timeless = note(created_at=1_000), note(SECRETS[1], created_at=NO_TIME)
    with db.write() as tx:
        accept(tx, event, payload=False)
        author = Authors().intern(tx, timeless.pubkey)
        events.accept(tx, [Accepted(8, timeless.id, NO_TIME, 1, author, b"", 1, NOW, 0)], NOW)
        subjects = {line.subject for line in explain.explain_event(tx, event.id)}
        assert "never accepted" not in subjects
        assert {line.subject for line in explain.explain_event(tx, event.id, 1_000)} == subjects
        assert explain.explain_event(tx, event.id, 1_001)[-1].subject == "never accepted"
        assert explain.explain_event(tx, timeless.id, 77)[-1].subject != "never accepted"


def test_a_refused_copy_is_told_with_its_reason(db: Database) -> None:
    with db.write() as tx:
        drops.append(tx, [Drop(note().id, "invalid-signature", 1)], NOW)
        assert told(tx, note())["dropped"].endswith("a relay that is no longer known: invalid-signature")


def test_an_event_that_waits_for_the_saver(db: Database) -> None:
    with db.write() as tx:
        arrive(tx, note(kind=0))
        lines = told(tx, note(kind=0))
    assert lines["inbox"].startswith("pending for the saver, claimed 0 times")
    assert lines["relevant"] == "kind 0 is relevant from every author"
    assert encode_npub(note().pubkey) in lines["what"]


def test_an_event_that_was_given_up(db: Database) -> None:
    with db.write() as tx:
        arrive(tx, note())
        (row,) = inbox.claim(tx, now=NOW, lease=1, limit=1)
        inbox.queue.dead_letter(tx, [DeadLetter(row.receipt, "ValueError: why")], NOW)
        assert told(tx, note())["dead letter"] == "ValueError: why; see event-service dead show inbox 1"


def test_accepted_event_has_the_rules_that_it_matched_when_it_was_saved(db: Database) -> None:
    """Users come and go; the attributes of its message say the same."""
    event = note()
    with db.write() as tx:
        accept(tx, event, payload=False)
        author = Authors().intern(tx, event.pubkey)
        stored = Accepted(7, event.id, 1_000, 1, author, event.to_json(), 1, NOW, 1, None, "followee mention")
        store_with_payloads(tx, [stored])
        lines = told(tx, event)
    assert lines["accepted"].endswith(", as it matched followee, mention")
    assert lines["relevant"].startswith("no longer relevant")


def test_what_each_sink_said(db: Database) -> None:
    with db.write() as tx:
        accept(tx, note())
        outbox.append(tx, SinkName.PUBSUB, [7], NOW)
        outbox.append(tx, SinkName.RELAY, [7], NOW)
        (row,) = outbox.claim(tx, SinkName.PUBSUB, now=NOW, lease=1, limit=9)
        outbox.settle(tx, [Settled(row, "delivered")], NOW)
        waiting = told(tx, note())
        (row,) = outbox.claim(tx, SinkName.RELAY, now=NOW, lease=1, limit=9)
        outbox.queue.dead_letter(tx, [DeadLetter(row.receipt, "too many claims")], NOW)
        buried = told(tx, note())
    assert waiting["sink pubsub"] == "delivered (2023-11-14T22:13:20Z)"
    assert waiting["sink relay"].startswith("pending, claimed 0 times, failed 0 times")
    assert buried["sink relay"].endswith("see event-service dead show relay 2")


def test_outcome_is_of_the_sink_that_had_the_name_then(db: Database) -> None:
    """One alone goes by `pubsub`; then it is renamed, and Pub/Sub itself has the name."""
    log = get_logger("test")
    sinks.enroll(db, ("jsonl",), ManualClock(NOW), log)
    sinks.enroll(db, ("jsonl", "pubsub"), ManualClock(NOW + 500), log)
    put = "INSERT INTO deliveries (event, sink, outcome, at) VALUES (?, 'pubsub', 'delivered', ?)"
    with db.write() as tx:
        accept(tx, note())
        tx.execute(put, (7, NOW + 500))
        assert told(tx, note())["sink jsonl"].startswith("delivered")
        assert [each.delay_ms for each in explain.newest(tx, 9, SinkName("jsonl"))] == [500]
        assert [each.delay_ms for each in explain.newest(tx, 9, SinkName.PUBSUB)] == [None]
        tx.execute("UPDATE deliveries SET at = ?", (NOW + 501,))
        assert told(tx, note())["sink pubsub"].startswith("delivered")
        assert [each.delay_ms for each in explain.newest(tx, 9, SinkName("jsonl"))] == [None]
        assert [each.delay_ms for each in explain.newest(tx, 9, SinkName.PUBSUB)] == [501]


def test_why_it_matters(db: Database) -> None:
    """To a registered user, to one who follows its author, to one whom it mentions, or not any more."""
    user, friend, stranger = (note(secret) for secret in SECRETS)
    mention = note(SECRETS[2], tags=[["p", user.pubkey.hex()]])
    with db.write() as tx:
        users.register(tx, user.pubkey, NOW)
        authors = Authors()
        followees = frozenset({authors.intern(tx, friend.pubkey)})
        contacts.replace(tx, ContactList(authors.intern(tx, user.pubkey), bytes(32), 1, followees), NOW)
        for event in (user, friend, stranger, mention):
            arrive(tx, event)
        reasons = [told(tx, event)["relevant"] for event in (user, friend, mention, stranger)]
    assert reasons == [
        "its author is a registered user",
        "its author is in the contact list of a registered user",
        f"it mentions registered user {encode_npub(user.pubkey)}",
        "no longer relevant: no registered user wrote it, is mentioned in it, or follows its author",
    ]


def test_what_is_left_when_the_payload_is_gone(db: Database) -> None:
    with db.write() as tx:
        accept(tx, note(), payload=False)
        lines = told(tx, note())
    assert lines["what"] == f"kind 1 by {encode_npub(note().pubkey)}; the payload is gone"
    assert "its payload, which had the mentions, is gone" in lines["relevant"]
    assert "sinks" in lines


def test_an_impossible_date_harms_nothing(db: Database) -> None:
    event = note(created_at=2**63 - 1)
    with db.write() as tx:
        arrive(tx, event)
        assert "s after 1970" in told(tx, event)["what"]


def test_a_row_that_cannot_be_read_is_told_all_the_same(db: Database) -> None:
    """It is what somebody asks for who wants to know why it is not saved."""
    with db.write() as tx:
        inbox.append(tx, [Arrival(b"\7" * 32, b"{}", 1, NOW, 1)])
        (row,) = inbox.claim(tx, now=NOW, lease=1, limit=1)
        inbox.queue.nack(tx, [Postponed(row.receipt, NOW + 60_000)])
        waiting = {line.subject: line.text for line in explain.explain_event(tx, b"\7" * 32)}
        (row,) = inbox.claim(tx, now=NOW + 60_000, lease=1, limit=1)
        inbox.queue.dead_letter(tx, [DeadLetter(row.receipt, "InvalidEvent: why")], NOW)
        buried = {line.subject: line.text for line in explain.explain_event(tx, b"\7" * 32)}
    assert waiting["what"] == buried["what"] == "2 bytes that are no event"
    assert waiting["inbox"] == (
        "pending for the saver, claimed 1 time, failed 1 time; tried again at 2023-11-14T22:14:20Z"
    )
    assert waiting["why"].endswith((b"\7" * 32).hex())
    assert buried["dead letter"].startswith("InvalidEvent: why")
