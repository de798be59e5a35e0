"""What users and the operator do about registrations: register, leave, add, remove, block.

Where several hosts crawl, the hub numbers each act before it is acknowledged, so that a home that is restored from an
older copy does again what came since. All of them are done here, in the order of their numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.errors import EventServiceError
from pipeline.nostr.address import RelayAddress
from pipeline.nostr.event import Event, InvalidEvent, event_from_stored
from pipeline.nostr.registration import InvalidRegistration, parse_departure, parse_registration
from pipeline.store import authors, relay_mentions, users
from pipeline.store.authors import Authors
from pipeline.store.database import Tx
from pipeline.store.relay_mentions import MentionOutcome
from pipeline.store.users import Signed

POSITION = "SELECT number FROM user_act_position"
PUT_POSITION = """
INSERT INTO user_act_position (only_row, number) VALUES (1, ?)
ON CONFLICT (only_row) DO UPDATE SET number = max(number, excluded.number)
"""

SOURCE: Final = "registration"
MAX_RELAYS: Final = 100
"""Relays taken from one registration: lists in use hold a few dozen, and the write lock is held for milliseconds."""


class UserActKind(StrEnum):
    """Who did what."""

    REGISTER = "register"
    """A user, by an event of kind 6666."""
    LEAVE = "leave"
    """A user, by a deletion or a request to vanish."""
    ADD = "add"
    """The operator; a block ends."""
    REMOVE = "remove"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class UserAct:
    """One act; `at` in ms, `event` the verified event of a user. `number`: the hub's, 0 without one."""

    kind: UserActKind
    public_key: bytes
    at: int
    event: bytes | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class ActRules:
    """`public_url`: the address by which users know this service. Private relays are kept where they may be dialled."""

    public_url: RelayAddress | None
    allow_private_relays: bool


@dataclass(frozen=True, slots=True)
class ActOutcome:
    """`was_registered`: before. `has_effect`: a registration began or ended. `surplus`: relays that were left out."""

    was_registered: bool
    has_effect: bool
    surplus: int = 0


class Refusal(StrEnum):
    """Why an event does not register its author."""

    OUTDATED = "outdated"
    BLOCKED = "blocked"
    DELETED = "deleted"


class NotAdmitted(EventServiceError):
    """The event registers its author neither now nor later."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(f"refused: {reason}")
        self.reason: Final = reason


def require_standing(tx: Tx, author: int, signed: Signed) -> None:
    """Raise `NotAdmitted` unless the event registers its author, or did so already."""
    held = users.standing(tx, author)
    if held.is_blocked:
        raise NotAdmitted(Refusal.BLOCKED)
    if not held.admits(signed):
        raise NotAdmitted(Refusal.OUTDATED)
    if users.is_taken_back(tx, author, signed):
        raise NotAdmitted(Refusal.DELETED)


def position(tx: Tx) -> int:
    """Return the number of the newest act of the hub that was done here."""
    row = tx.execute(POSITION).fetchone()
    return 0 if row is None else int(row[0])


def do(tx: Tx, acts: Sequence[UserAct], rules: ActRules) -> ActOutcome:
    """Do the last act, after those before it that were not done yet; return what it did.

    What refuses one before it is passed over. Raises `NotAdmitted` or `InvalidRegistration` for the last.
    """
    redo(tx, acts[:-1], rules)
    outcome = _do(tx, acts[-1], rules)
    _put_position(tx, acts[-1].number)
    return outcome


def redo(tx: Tx, acts: Sequence[UserAct], rules: ActRules) -> int:
    """Do what was not done yet, as far as it is admitted; return how many registrations began or ended."""
    done = position(tx)
    changed = 0
    for act in acts:
        if act.number > done:
            try:
                changed += _do(tx, act, rules).has_effect
            except (NotAdmitted, InvalidRegistration, InvalidEvent):
                # It was refused to its author as well.
                continue
    if acts:
        _put_position(tx, acts[-1].number)
    return changed


def _put_position(tx: Tx, number: int) -> None:
    if number:
        tx.execute(PUT_POSITION, (number,))


def _do(tx: Tx, act: UserAct, rules: ActRules) -> ActOutcome:
    author = authors.find(tx, act.public_key)
    was_registered = author is not None and users.is_registered(tx, author)
    match act.kind:
        case UserActKind.REGISTER:
            return _register(tx, act, rules, was_registered=was_registered)
        case UserActKind.LEAVE:
            departure = parse_departure(_event(act), rules.public_url)
            if departure is None:
                raise InvalidRegistration("it takes no registration back")
            return ActOutcome(was_registered, users.leave(tx, departure, act.at))
        case UserActKind.ADD:
            users.unblock(tx, act.public_key)
            return ActOutcome(was_registered, users.register(tx, act.public_key, act.at))
        case UserActKind.REMOVE:
            users.remove(tx, act.public_key, act.at)
        case UserActKind.BLOCK:
            users.block(tx, act.public_key, act.at)
    if act.number and not was_registered:
        # What it registered by may be what a copy of this database lacks.
        users.note_removal(tx, act.public_key, act.at)
    return ActOutcome(was_registered, was_registered)


def _register(tx: Tx, act: UserAct, rules: ActRules, *, was_registered: bool) -> ActOutcome:
    event = _event(act)
    registration = parse_registration(event)
    signed = Signed(event.id, event.created_at)
    author = Authors().intern(tx, registration.public_key)
    # Checked again by who asks for it: a removal may have come since.
    require_standing(tx, author, signed)
    users.register_signed(tx, registration.public_key, signed, act.at)
    usable = [each.spelling for each in registration.relays if rules.allow_private_relays or not each.is_private]
    namings = [
        relay_mentions.record_mention(tx, address, source=SOURCE, author=author, is_user=True, now=act.at)
        for address in usable[:MAX_RELAYS]
    ]
    surplus = max(0, len(usable) - MAX_RELAYS) + namings.count(MentionOutcome.REFUSED)
    return ActOutcome(was_registered, not was_registered, surplus)


def _event(act: UserAct) -> Event:
    if act.event is None:
        raise InvalidRegistration("the event is missing")
    return event_from_stored(act.event)
