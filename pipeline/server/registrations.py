"""Users who register with the service (kind 6666), from the verified event to the committed rows."""

import functools
from dataclasses import dataclass
from typing import Final

import apsw

from pipeline.errors import EventServiceError
from pipeline.nostr.event import Event, InvalidEvent, verify
from pipeline.nostr.registration import InvalidRegistration, Registration, parse_registration
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimited
from pipeline.process.metrics import Metrics
from pipeline.server.limits import Refusal, Refused
from pipeline.server.worker import DatabaseThread
from pipeline.store import authors, monitored, relays, wanted
from pipeline.store.database import Database

SOURCE: Final = "registration"
MAX_RELAYS: Final = 100
"""Relays taken from one registration: lists in use hold a few dozen, and the write lock is held for milliseconds."""

_STAGE: Final = "server"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a client is told of its event; the reason is empty when it is accepted."""

    accepted: bool
    reason: str


ACCEPTED: Final = Verdict(True, "")
_EXPLAINED: Final = {
    Refusal.BUSY: "error: too many registrations wait, try again later",
    Refusal.USERS: "restricted: no more users are taken",
    Refusal.WANTED_AUTHORS: "restricted: no more users are taken",
}


@dataclass(frozen=True, slots=True)
class UserBounds:
    """How many users may be registered, and how many authors wanted for their sake, before nobody new is taken."""

    users: int
    wanted_authors: int


@dataclass(frozen=True, slots=True)
class _Stored:
    is_new_user: bool
    surplus_relays: int
    seconds: float


class Registrations:
    """Takes registrations one after the other; used from the event loop."""

    def __init__(
        self,
        thread: DatabaseThread,
        clock: Clock,
        metrics: Metrics,
        log: RateLimited,
        *,
        bounds: UserBounds,
        allow_private_relays: bool,
    ) -> None:
        """Private relays are stored only where `allow_private_relays` lets crawlers dial them."""
        self._bounds = bounds
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

    async def take(self, event: Event) -> Verdict:
        """Verify and store a registration; accepted only once it is committed."""
        self._taken.inc()
        began = self._clock.monotonic()
        try:
            stored = await self._thread.run(functools.partial(self._register, event))
        except InvalidEvent as error:
            return self._refuse(Refusal.INVALID_EVENT, f"invalid: {error}")
        except InvalidRegistration as error:
            return self._refuse(Refusal.INVALID_REGISTRATION, f"invalid: {error}")
        except Refused as error:
            return self._refuse(error.reason, _EXPLAINED.get(error.reason, "error: try again later"))
        except (apsw.Error, EventServiceError) as error:
            self._failed.record(self._clock.monotonic() - began)
            self._errors.inc()
            self._log.error("registration", "a registration could not be stored", error=error)
            return Verdict(False, "error: the registration could not be stored, try again later")
        self._succeeded.record(stored.seconds)
        self._stored.inc()
        self._discard(Refusal.SURPLUS_RELAYS, stored.surplus_relays)
        self._log.debug("registered", "user registered", public_key=event.pubkey, new=stored.is_new_user)
        return ACCEPTED

    def refuse_malformed(self, reason: str) -> Verdict:
        """The verdict on an event that could not even be read."""
        self._taken.inc()
        return self._refuse(Refusal.INVALID_EVENT, f"invalid: {reason}")

    def _refuse(self, refusal: Refusal, reason: str) -> Verdict:
        self._discard(refusal, 1)
        self._log.debug("refused", "registration refused", reason=reason)
        return Verdict(False, reason)

    def _discard(self, refusal: Refusal, count: int) -> None:
        if count:
            self._discarded.labels(_STAGE, refusal.value).inc(count)

    def _register(self, event: Event, database: Database) -> _Stored:
        verify(event)
        registration = parse_registration(event)
        self._require_room(registration, database)
        began = self._clock.monotonic()
        usable = [relay.spelling for relay in registration.relays if self._allow_private_relays or not relay.is_private]
        is_new, refused = _store(database, registration, usable[:MAX_RELAYS], self._clock)
        surplus = max(0, len(usable) - MAX_RELAYS) + refused
        return _Stored(is_new, surplus, self._clock.monotonic() - began)

    def _require_room(self, registration: Registration, database: Database) -> None:
        """Raise `Refused` for a new user beyond the bounds; who is registered may always renew."""
        with database.read() as tx:
            author = authors.find(tx, registration.public_key)
            if author is not None and monitored.is_registered(tx, author):
                return
            if monitored.count(tx) >= self._bounds.users:
                raise Refused(Refusal.USERS)
            if wanted.count(tx) >= self._bounds.wanted_authors:
                raise Refused(Refusal.WANTED_AUTHORS)


def _store(database: Database, registration: Registration, addresses: list[str], clock: Clock) -> tuple[bool, int]:
    """Store a registration; return whether the user is new, and how many of the relays were refused."""
    # The client is told that it is kept, and does not come again.
    with database.write(durable=True) as tx:
        now = clock.now_ms()
        is_new = monitored.register(tx, registration.public_key, now)
        author = authors.find(tx, registration.public_key)
        assert author is not None
        namings = [
            relays.name(tx, address, source=SOURCE, author=author, is_user=True, now=now) for address in addresses
        ]
    return is_new, namings.count(relays.Naming.REFUSED)
