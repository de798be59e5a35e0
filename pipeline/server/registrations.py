"""Users who register with the service (kind 6666), from the verified event to the committed rows."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import apsw

from pipeline.errors import EventServiceError
from pipeline.nostr.address import RelayAddress
from pipeline.nostr.event import Event, InvalidEvent, verify
from pipeline.nostr.kinds import DELETION, REGISTRATION, VANISH
from pipeline.nostr.registration import (
    MAX_AHEAD_S,
    InvalidRegistration,
    Registration,
    parse_departure,
    parse_registration,
)
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.metrics import Metrics
from pipeline.server.admission import Admission
from pipeline.server.limits import Rejected, RejectReason
from pipeline.server.worker import DatabaseThread
from pipeline.store import authors, relay_mentions, users
from pipeline.store.authors import Authors
from pipeline.store.database import Database, Tx
from pipeline.store.users import Signed

SOURCE: Final = "registration"
MAX_RELAYS: Final = 100
"""Relays taken from one registration: lists in use hold a few dozen, and the write lock is held for milliseconds."""

_STAGE: Final = "server"


@dataclass(frozen=True, slots=True)
class RegistrationVerdict:
    """Answer to a client's event; the reason is empty if it is accepted."""

    accepted: bool
    reason: str


ACCEPTED: Final = RegistrationVerdict(True, "")
_EXPLAINED: Final = {
    RejectReason.BUSY: "error: too many registrations wait, try again later",
    RejectReason.AHEAD: f"invalid: dated more than {MAX_AHEAD_S} seconds ahead",
    RejectReason.OUTDATED: "invalid: not newer than your last registration or its removal",
    RejectReason.DELETED: "invalid: you have deleted this registration, or vanished since",
    RejectReason.BLOCKED: "blocked: the operator does not accept this key",
}


@dataclass(frozen=True, slots=True)
class _Stored:
    is_new_user: bool
    surplus_relays: int
    seconds: float


class Registrations:
    """Registrations, processed one after the other; used from the event loop."""

    def __init__(  # noqa: PLR0913  (what it is made of)
        self,
        thread: DatabaseThread,
        clock: Clock,
        metrics: Metrics,
        log: RateLimitedLogger,
        *,
        allow_private_relays: bool,
        admission: Callable[[], Admission],
        public_url: RelayAddress | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Private relays are stored only where `allow_private_relays` lets crawlers dial them.

        `admission`: the rule for new users, as it is now.
        `public_url`: the address by which users know this service; a request to vanish from it is one to leave.
        `on_change`: called after each commit of a registration or a departure, in the thread that works on them.
        """
        self._on_change = on_change
        self._public_url = public_url
        self._admission = admission
        self._thread = thread
        self._clock = clock
        self._log = log
        self._allow_private_relays = allow_private_relays
        self._succeeded = metrics.handler("addPublicKeyToMonitor")
        self._failed = metrics.handler("addPublicKeyToMonitor", success=False)
        self._taken = metrics.stage_in.labels(_STAGE)
        self._stored = metrics.stage_out.labels(_STAGE)
        self._errors = metrics.stage_errors.labels(_STAGE, "registration")
        self._discarded = metrics.stage_discarded

    async def take(self, event: Event) -> RegistrationVerdict:
        """Verify and store a registration; accepted only once it is committed."""
        self._taken.inc()
        began = self._clock.monotonic()
        try:
            stored = await self._thread.run(functools.partial(self._register, event))
        except InvalidEvent as error:
            return self._refuse(RejectReason.INVALID_EVENT, f"invalid: {error}")
        except InvalidRegistration as error:
            return self._refuse(RejectReason.INVALID_REGISTRATION, f"invalid: {error}")
        except Rejected as error:
            explained = _EXPLAINED | self._admission().explanation
            return self._refuse(error.reason, explained.get(error.reason, "error: try again later"))
        except (apsw.Error, EventServiceError) as error:
            self._failed.record(self._clock.monotonic() - began)
            self._errors.inc()
            self._log.error("registration", "a registration could not be stored", error=error)
            return RegistrationVerdict(False, "error: the registration could not be stored, try again later")
        self._stored.inc()
        if event.kind != REGISTRATION:
            self._log.debug("left", "user left", public_key=event.pubkey)
            return ACCEPTED
        self._succeeded.record(stored.seconds)
        self._discard(RejectReason.SURPLUS_RELAYS, stored.surplus_relays)
        self._log.debug("registered", "user registered", public_key=event.pubkey, new=stored.is_new_user)
        return ACCEPTED

    def refuse_malformed(self, reason: str) -> RegistrationVerdict:
        """Return the verdict on an event that could not even be read."""
        self._taken.inc()
        return self._refuse(RejectReason.INVALID_EVENT, f"invalid: {reason}")

    def _refuse(self, refusal: RejectReason, reason: str) -> RegistrationVerdict:
        self._discard(refusal, 1)
        self._log.debug("refused", "registration refused", reason=reason)
        return RegistrationVerdict(False, reason)

    def _discard(self, reason: RejectReason, count: int) -> None:
        if count:
            self._discarded.labels(_STAGE, reason.value).inc(count)

    def _register(self, event: Event, database: Database) -> _Stored:
        verify(event)
        if event.kind in (DELETION, VANISH):
            return self._leave(event, database)
        registration = parse_registration(event)
        if event.created_at > self._clock.now_ms() // 1000 + MAX_AHEAD_S:
            raise Rejected(RejectReason.AHEAD)
        signed = Signed(event.id, event.created_at)
        self._require_room(event, signed, database)
        began = self._clock.monotonic()
        usable = [relay.spelling for relay in registration.relays if self._allow_private_relays or not relay.is_private]
        is_new, refused = _store(database, registration, signed, usable[:MAX_RELAYS], self._clock)
        self._on_change()
        surplus = max(0, len(usable) - MAX_RELAYS) + refused
        return _Stored(is_new, surplus, self._clock.monotonic() - began)

    def _leave(self, event: Event, database: Database) -> _Stored:
        """End the registration that the event takes back, or remember that it may not come any more."""
        began = self._clock.monotonic()
        departure = parse_departure(event, self._public_url)
        if departure is None:
            raise InvalidRegistration("it takes no registration back")
        with database.read() as tx:
            author = authors.find(tx, departure.public_key)
            is_registered = author is not None and users.is_registered(tx, author)
        with database.write(durable=True) as tx:
            has_left = users.leave(tx, departure, self._clock.now_ms())
        self._on_change()
        if is_registered and not has_left:
            raise InvalidRegistration("it does not name your registration, or is older")
        return _Stored(False, 0, self._clock.monotonic() - began)

    def _require_room(self, event: Event, signed: Signed, database: Database) -> None:
        """Raise `Rejected` for an event that registers no user and for a new user who is not admitted.

        Who is registered may always renew.
        """
        with database.read() as tx:
            author = authors.find(tx, event.pubkey)
            if author is not None:
                _require_standing(tx, author, signed)
                if users.is_registered(tx, author):
                    return
            self._admission().require(event, users.count(tx))


def _require_standing(tx: Tx, author: int, signed: Signed) -> None:
    """Raise `Rejected` unless the event registers its author, or did so already."""
    held = users.standing(tx, author)
    if held.is_blocked:
        raise Rejected(RejectReason.BLOCKED)
    if not held.admits(signed):
        raise Rejected(RejectReason.OUTDATED)
    if users.is_taken_back(tx, author, signed):
        raise Rejected(RejectReason.DELETED)


def _store(
    database: Database, registration: Registration, signed: Signed, addresses: list[str], clock: Clock
) -> tuple[bool, int]:
    """Store a registration; return whether the user is new, and how many of the relays were refused."""
    # The client gets OK and does not send it again.
    with database.write(durable=True) as tx:
        now = clock.now_ms()
        author = Authors().intern(tx, registration.public_key)
        # Checked again: a removal may have come since.
        _require_standing(tx, author, signed)
        is_new = users.register_signed(tx, registration.public_key, signed, now)
        namings = [
            relay_mentions.record_mention(tx, address, source=SOURCE, author=author, is_user=True, now=now)
            for address in addresses
        ]
    return is_new, namings.count(relay_mentions.MentionOutcome.REFUSED)
