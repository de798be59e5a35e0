"""What is kept for one user alone, by the rules that an event matched."""

import pytest

from pipeline.nostr.event import event_from_json
from pipeline.store import authors, events, forgetting, outbox, users
from pipeline.store.authors import Authors
from pipeline.store.contacts import ContactList
from pipeline.store.contacts import replace as replace_contacts
from pipeline.store.database import Database, Tx
from pipeline.store.events import Accepted
from pipeline.store.forgetting import DEAD_LETTERS, KEPT_EVENTS, PENDING_ROWS, EventRow, FormerUser
from pipeline.store.lease import DeadLetter
from pipeline.store.sinks import SinkName
from tests.factories.events import Author, SignedEvent
from tests.factories.events import authors as people
from tests.support.stored import store_with_payloads

NOW = 1_700_000_000_000
GONE, FRIEND, OTHER, STRANGER = people(71, 4)


def key(person: Author) -> bytes:
    return bytes.fromhex(person.pubkey)


def former(*, is_followed: bool = False) -> FormerUser:
    return FormerUser(7, key(GONE), is_followed, frozenset({FRIEND.pubkey}))


def row(author: Author, rules: str | None, mentions: bytes | None = None) -> EventRow:
    return EventRow(1, 1, "pubsub", rules, mentions, author.pubkey)


@pytest.mark.parametrize(
    ("author", "rules", "mentions", "is_alone"),
    [
        (GONE, "user", None, True),
        (GONE, "user global", None, True),
        (GONE, "user mention", key(GONE), True),
        (GONE, "user mention", key(OTHER), False),
        (GONE, "global", None, True),
        (GONE, None, None, True),
        (FRIEND, "followee", None, True),
        (FRIEND, "followee mention", key(GONE), True),
        (FRIEND, "followee mention", key(GONE) + key(OTHER), False),
        (FRIEND, "followee global", None, False),
        (FRIEND, None, None, False),
        (GONE, "", None, True),
        (OTHER, "", None, False),
        (STRANGER, "mention", key(GONE), True),
        (STRANGER, "mention", key(OTHER), False),
        (STRANGER, "mention global", key(GONE), False),
        (OTHER, "user", None, False),
        (OTHER, "user mention", key(GONE), False),
        (OTHER, "followee", None, False),
    ],
)
def test_each_rule_must_be_for_the_sake_of_the_user(
    author: Author, rules: str | None, mentions: bytes | None, is_alone: bool
) -> None:
    assert former().is_alone_in(row(author, rules, mentions)) is is_alone


@pytest.mark.parametrize("rules", ["user", "user followee", "user global", None])
def test_what_one_wrote_who_is_followed_by_another_user_stays(rules: str | None) -> None:
    assert not former(is_followed=True).is_alone_in(row(GONE, rules))
    assert former(is_followed=True).is_alone_in(row(STRANGER, "mention", key(GONE)))


def put(tx: Tx, number: int, event: SignedEvent, rules: str, mentions: bytes | None = None) -> None:
    """An event that Pub/Sub and the target relay are owed."""
    payload = event_from_json(event.raw.encode()).to_json()
    accepted = Accepted(
        number, bytes.fromhex(event.id), event.created_at, event.kind, 1, payload, 1, NOW, 2, None, rules, mentions
    )
    events.accept(tx, [accepted], NOW)
    store_with_payloads(tx, [accepted])
    for sink in (SinkName.PUBSUB, SinkName.RELAY):
        outbox.append(tx, sink, [number], NOW)


@pytest.fixture
def left(db: Database) -> Database:
    """One who follows a friend has left; three events wait for both sinks, one of them is another user's."""
    with db.write() as tx:
        users.register(tx, key(GONE), NOW)
        users.register(tx, key(OTHER), NOW)
        gone, friend = Authors().intern_all(tx, [key(GONE), key(FRIEND)])
        replace_contacts(tx, ContactList(gone, bytes(32), 1, [friend]), NOW)
        put(tx, 1, GONE.sign("mine", created_at=1), "user")
        put(tx, 2, FRIEND.sign("followed", created_at=2), "followee")
        put(tx, 3, OTHER.sign("of another", created_at=3, tags=[["p", GONE.pubkey]]), "user mention", key(GONE))
        users.remove(tx, key(GONE), NOW)
    return db


def test_events_of_the_one_who_left_are_dropped_wherever_they_wait(left: Database) -> None:
    """Queued, leased, a dead letter at one sink; nothing points at a payload that is gone."""
    with left.write() as tx:
        user = forgetting.former_user(tx, key(GONE))
        assert user is not None
        assert user.followees == {FRIEND.pubkey}
        claimed = outbox.claim(tx, SinkName.PUBSUB, now=NOW, lease=1000, limit=9)
        letters = [DeadLetter(each.receipt, "no") for each in claimed if each.event == 2]
        outbox.queue.dead_letter(tx, letters, NOW)
        assert KEPT_EVENTS.look(tx, user, 0).found == (), "sinks wait for them"
        for walk, expected in ((PENDING_ROWS, [1, 1, 2]), (DEAD_LETTERS, [2]), (KEPT_EVENTS, [1, 2])):
            found = walk.look(tx, user, 0)
            assert sorted(each.event for each in found.found) == expected
            assert found.last is None
            walk.drop(tx, found.found, NOW)
            assert walk.look(tx, user, 0).found == ()
        for table in ("events", "payloads"):
            assert tx.execute(f"SELECT event FROM {table}").fetchall() == [(3,)]
        assert tx.execute("SELECT DISTINCT event FROM outbox").fetchall() == [(3,)]
        assert tx.execute("SELECT count(*) FROM seen").get == 3
        outcomes = tx.execute("SELECT event, outcome FROM deliveries ORDER BY event, outcome").fetchall()
        assert outcomes == [(1, "forgotten"), (1, "forgotten"), (2, "dropped"), (2, "forgotten")]


def test_walk_goes_on_where_the_step_before_ended(left: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "ROWS", 2)
    with left.write() as tx:
        user = forgetting.former_user(tx, key(GONE))
        assert user is not None
        found, after = [], 0
        while True:
            step = PENDING_ROWS.look(tx, user, after)
            found += [each.event for each in step.found]
            if step.last is None:
                break
            assert step.last > after
            after = step.last
        assert sorted(found) == [1, 1, 2, 2]


def test_followee_of_another_user_too_is_not_the_formers_alone(left: Database) -> None:
    with left.write() as tx:
        other, friend = authors.find(tx, key(OTHER)), authors.find(tx, key(FRIEND))
        assert other is not None
        assert friend is not None
        replace_contacts(tx, ContactList(other, bytes(32), 1, [friend]), NOW)
        user = forgetting.former_user(tx, key(GONE))
        assert user is not None
        assert {each.event for each in PENDING_ROWS.look(tx, user, 0).found} == {1}


def test_registered_user_is_no_former_one(left: Database) -> None:
    with left.write() as tx:
        assert forgetting.former_user(tx, key(OTHER)) is None
        assert forgetting.former_user(tx, key(STRANGER)) is None, "never met"
        users.register(tx, key(GONE), NOW)
        assert forgetting.former_user(tx, key(GONE)) is None
