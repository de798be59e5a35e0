"""What the saver should make of its inbox, written down naively and without the project's own code."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from tests.factories.events import SignedEvent
from tests.integration.stages.support import World

GLOBAL_KINDS = (0, 2, 3, 10002)
TARGET_KINDS = (0, 3, 10002)
MOST_NAMERS = 16
"""Beyond so many nobody counts who else named a relay."""


@dataclass
class ContactList:
    """The newest list known of somebody; its followees are empty when it was taken back."""

    created_at: int
    event_id: str
    followees: set[str]


@dataclass
class SaverModel:
    """Everything that the database should say after each batch; keys and ids are hex, times seconds."""

    now: int
    registered: set[str] = field(default_factory=set)
    lists: dict[str, ContactList] = field(default_factory=dict)
    deleted: set[tuple[str, str]] = field(default_factory=set)
    deleted_until: dict[str, int] = field(default_factory=dict)
    """By address, `kind:author:d`."""
    vanished: dict[str, int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    to_pubsub: list[str] = field(default_factory=list)
    retracted: dict[str, str] = field(default_factory=dict)
    """How what was retracted when it was saved was so, by event id."""
    to_relay: list[str] = field(default_factory=list)
    named: dict[str, set[str]] = field(default_factory=dict)
    named_by_user: set[str] = field(default_factory=set)
    discarded: Counter[str] = field(default_factory=Counter)

    def contacts(self) -> set[tuple[str, str]]:
        """Who follows whom."""
        return {(follower, followee) for follower, known in self.lists.items() for followee in known.followees}

    def wanted(self) -> dict[str, int]:
        """By author, the reasons to want their events: being registered, and each registered follower but oneself."""
        reasons = Counter(self.registered)
        for follower, followee in self.contacts():
            reasons[followee] += follower in self.registered and followee != follower
        return {author: count for author, count in reasons.items() if count}

    def register(self, user: str) -> None:
        """Somebody became a registered user: the relays known to be named by them are a user's from now on."""
        if user not in self.registered:
            self.registered.add(user)
            self.named_by_user |= {address for address, namers in self.named.items() if user in namers}

    def save(self, events: Iterable[SignedEvent]) -> None:
        """One batch, saved in one transaction: contact lists first, then what is taken back, then what is handed on."""
        batch = list({event.id: event for event in events if event.id not in self.seen}.values())
        for event in batch:
            if event.kind == 3 and self._retracted(event) is None:
                self._follow(event)
        for event in batch:
            self._retract(event)
        wanted = self.wanted()
        for event in batch:
            if not self._is_relevant(event, wanted):
                self.discarded["irrelevant"] += 1
            else:
                self._accept(event)
        for event in batch:
            # Users here are registered without an event, at a time that stands still.
            if event.kind == 62 and ("relay", "ALL_RELAYS") in event.tags and event.created_at >= self.now:
                self.registered.discard(event.pubkey)

    def _follow(self, event: SignedEvent) -> None:
        known = self.lists.get(event.pubkey)
        if known is not None and (-event.created_at, event.id) >= (-known.created_at, known.event_id):
            return
        followees = {tag[1] for tag in event.tags if tag[0] == "p" and len(tag) > 1 and _is_key(tag[1])}
        self.lists[event.pubkey] = ContactList(event.created_at, event.id, followees)

    def _retract(self, event: SignedEvent) -> None:
        if event.kind == 5:
            ids = {tag[1] for tag in event.tags if tag[0] == "e"}
            self.deleted |= {(event_id, event.pubkey) for event_id in ids}
            known = self.lists.get(event.pubkey)
            if known is not None and known.event_id in ids:
                known.followees = set()
            for address in (tag[1] for tag in event.tags if tag[0] == "a" and tag[1].split(":")[1] == event.pubkey):
                self.deleted_until[address] = max(self.deleted_until.get(address, 0), event.created_at)
            if ("a", f"3:{event.pubkey}:") in event.tags:
                self._forget_contacts(event.pubkey, event.created_at)
        elif event.kind == 62 and ("relay", "ALL_RELAYS") in event.tags:
            self._forget_contacts(event.pubkey, event.created_at)
            self.vanished[event.pubkey] = max(self.vanished.get(event.pubkey, 0), event.created_at)

    def _forget_contacts(self, author: str, until: int) -> None:
        known = self.lists.get(author)
        if known is None or known.created_at <= until:
            self.lists[author] = ContactList(until, "0" * 64, set())

    def _retracted(self, event: SignedEvent) -> str | None:
        if event.kind in (5, 62):
            return None
        who = {event.pubkey} | (event.mentioned() if event.kind == 1059 else set())
        if event.created_at <= self.deleted_until.get(_address(event), -1):
            return "deleted"
        if any((event.id, each) in self.deleted for each in who):
            return "deleted"
        if any(event.created_at <= self.vanished.get(each, -1) for each in who):
            return "vanished"
        return "expired" if self._is_expired(event) else None

    def _is_expired(self, event: SignedEvent) -> bool:
        return any(int(tag[1]) <= self.now for tag in event.tags if tag[0] == "expiration")

    def _is_relevant(self, event: SignedEvent, wanted: dict[str, int]) -> bool:
        return event.kind in GLOBAL_KINDS or event.pubkey in wanted or bool(self.registered & event.mentioned())

    def _accept(self, event: SignedEvent) -> None:
        self.seen.add(event.id)
        self.to_pubsub.append(event.id)
        how = self._retracted(event)
        if how is not None:
            self.retracted[event.id] = how
            return
        if self._goes_to_target(event):
            self.to_relay.append(event.id)
        for address in _relays_named(event):
            namers = self.named.setdefault(address, set())
            if len(namers) < MOST_NAMERS:
                namers.add(event.pubkey)
            if event.pubkey in self.registered:
                self.named_by_user.add(address)

    def _goes_to_target(self, event: SignedEvent) -> bool:
        return event.kind in TARGET_KINDS and not any(tag[0] == "-" for tag in event.tags)


def _address(event: SignedEvent) -> str:
    """Of an event of a kind that a deletion here names by its address; the others have one that none names."""
    identifiers = [tag[1] for tag in event.tags if tag[0] == "d"]
    return f"{event.kind}:{event.pubkey}:{(identifiers or [''])[0]}"


def _relays_named(event: SignedEvent) -> Iterator[str]:
    """Relay lists, what a request to vanish is made to, and hints beside keys."""
    for tag in event.tags:
        if tag[0] in ("r", "relay") and tag[1].startswith("wss://"):
            yield tag[1]
        elif tag[0] == "p" and len(tag) > 2:
            yield tag[2]


def _is_key(text: str) -> bool:
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)


def check(world: World, model: SaverModel) -> None:
    """The database says what the model says."""
    key = {number: public_key.hex() for number, public_key in world.query("SELECT id, public_key FROM authors")}
    follows = world.query("SELECT follower, followee FROM contacts")
    contacts = {(key[follower], key[followee]) for follower, followee in follows}
    assert contacts == model.contacts()
    wanted = {key[author]: refs for author, refs in world.query("SELECT author, refs FROM wanted WHERE refs > 0")}
    assert wanted == model.wanted()
    assert world.seen() == model.seen
    assert world.query("SELECT event FROM payloads ORDER BY 1") == world.query("SELECT event FROM events ORDER BY 1")
    assert world.queued("pubsub") == sorted(model.to_pubsub)
    assert world.queued("relay") == sorted(model.to_relay)
    retracted = world.query("SELECT event_id, retracted FROM events WHERE retracted IS NOT NULL")
    assert {event_id.hex(): how for event_id, how in retracted} == model.retracted
    deleted = world.query("SELECT event_id, author FROM deletions WHERE until = ?", 2**63 - 1)
    assert {(event_id.hex(), key[author]) for event_id, author in deleted} == model.deleted
    deleted_until = world.query("SELECT event_id, until FROM deletions WHERE until < ?", 2**63 - 1)
    expected = {sha256(address.encode()).digest(): until for address, until in model.deleted_until.items()}
    assert dict(deleted_until) == expected
    assert {key[author]: until for author, until in world.query("SELECT author, until FROM vanished")} == model.vanished
    named = {str(address): namers for address, namers in world.query("SELECT address, namers FROM relays")}
    assert named == {address: len(namers) for address, namers in model.named.items()}
    by_user = {address for (address,) in world.query("SELECT address FROM relays WHERE named_by_user")}
    assert by_user == model.named_by_user
