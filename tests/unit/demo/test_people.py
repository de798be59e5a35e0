"""The people of the demo: their events are real ones."""

import random

from pipeline.demo.people import People
from pipeline.nostr import kinds
from pipeline.nostr.event import verify
from pipeline.nostr.extract import contacts, relay_candidates
from pipeline.nostr.registration import parse_registration
from tests.support.seeds import seeds

RELAY = "ws://127.0.0.1:7777"
NOW = 1_700_000_000


def people() -> People:
    return People(random.Random(seeds(1)[0]), RELAY)


def test_everybody_is_introduced_with_a_profile_and_a_relay() -> None:
    made = people()
    introductions = list(made.introductions(NOW))
    everybody = {person.key for group in (made.users, made.friends, made.strangers) for person in group}
    for kind in (kinds.METADATA, kinds.RELAY_LIST):
        assert {event.pubkey for event in introductions if event.kind == kind} == everybody
    lists = [event for event in introductions if event.kind == kinds.CONTACTS]
    assert {event.pubkey for event in lists} == {user.key for user in made.users}
    assert all(set(contacts(event)) <= {friend.key for friend in made.friends} for event in lists)
    for event in introductions:
        verify(event)
        assert event.kind != kinds.RELAY_LIST or [each.address.url for each in relay_candidates(event)] == [RELAY]


def test_users_can_register() -> None:
    made = people()
    for user in made.users:
        event = made.registration(user, NOW)
        verify(event)
        assert parse_registration(event).public_key == user.key


def test_what_people_do_is_valid_varied_and_never_twice_the_same() -> None:
    made = people()
    events = [made.next_event(NOW) for _ in range(300)]
    for event in events:
        verify(event)
    notes = [event for event in events if event.kind == kinds.TEXT_NOTE]
    assert len({event.id for event in notes}) == len(notes)
    assert {event.kind for event in events} == {kinds.TEXT_NOTE, kinds.REACTION, kinds.CONTACTS}
