"""Users who register with the service (kind 6666), from the verified event to the committed rows."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import apsw

from pipeline.errors import EventServiceError
from pipeline.nostr.event import Event, InvalidEvent, verify
from pipeline.nostr.kinds import DELETION, REGISTRATION, VANISH
from pipeline.nostr.registration import (
    MAX_AHEAD_S,
    InvalidRegistration,
    parse_departure,
    parse_registration,
)
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.metrics import Metrics
from pipeline.server.admission import Admission
from pipeline.server.limits import Rejected, RejectReason
from pipeline.server.worker import DatabaseThread
from pipeline.store import authors, user_acts, users
from pipeline.store.database import Database
from pipeline.store.user_acts import ActOutcome, ActRules, NotAdmitted, UserAct, UserActKind
from pipeline.store.users import Signed

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
    RejectReason.NOT_HOME: "restricted: this host takes no registrations, another one of this service does",
    RejectReason.BLOCKED: "blocked: the operator does not accept this key",
}


@dataclass(frozen=True, slots=True)
class _Stored:
    outcome: ActOutcome
    seconds: float


Record = Callable[[Database, UserAct], Sequence[UserAct]]


def alone(_: Database, act: UserAct) -> Sequence[UserAct]:
    """Record an act nowhere but in the database: one host does everything."""
    return (act,)


def refuse(_: Database, __: UserAct) -> NoReturn:
    """Record no act: users are known to another host."""
    raise Rejected(RejectReason.NOT_HOME)


class Registrations:
    """Registrations, processed one after the other; used from the event loop."""

    def __init__(  # noqa: PLR0913  (what it is made of)
        self,
        thread: DatabaseThread,
        clock: Clock,
        metrics: Metrics,
        log: RateLimitedLogger,
        *,
        rules: ActRules,
        admission: Callable[[], Admission],
        record: Record = alone,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`admission`: the rule for new users, as it is now.
        `record`: called before anything is stored; it returns what is to be done, the given act last.
        `on_change`: called after each commit of a registration or a departure, in the thread that works on them.
        """
        self._on_change = on_change
        self._rules = rules
        self._record = record
        self._admission = admission
        self._thread = thread
        self._clock = clock
        self._log = log
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
            stored = await self._thread.run(functools.partial(self._accept, event))
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
        self._discard(RejectReason.SURPLUS_RELAYS, stored.outcome.surplus)
        self._log.debug("registered", "user registered", public_key=event.pubkey, new=stored.outcome.has_effect)
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

    def _accept(self, event: Event, database: Database) -> _Stored:
        try:
            return self._register(event, database)
        except NotAdmitted as error:
            raise Rejected(RejectReason(error.reason)) from error

    def _register(self, event: Event, database: Database) -> _Stored:
        verify(event)
        if event.kind in (DELETION, VANISH):
            return self._leave(event, database)
        parse_registration(event)
        if event.created_at > self._clock.now_ms() // 1000 + MAX_AHEAD_S:
            raise Rejected(RejectReason.AHEAD)
        self._require_room(event, Signed(event.id, event.created_at), database)
        return self._do(UserActKind.REGISTER, event, database)

    def _leave(self, event: Event, database: Database) -> _Stored:
        """End the registration that the event takes back, or remember that it may not come any more."""
        if parse_departure(event, self._rules.public_url) is None:
            raise InvalidRegistration("it takes no registration back")
        stored = self._do(UserActKind.LEAVE, event, database)
        if stored.outcome.was_registered and not stored.outcome.has_effect:
            raise InvalidRegistration("it does not name your registration, or is older")
        return stored

    def _do(self, kind: UserActKind, event: Event, database: Database) -> _Stored:
        """Do what the event asks for, once it is recorded; a client that gets OK does not send it again."""
        began = self._clock.monotonic()
        act = UserAct(kind, event.pubkey, self._clock.now_ms(), event.to_json())
        acts = self._record(database, act)
        with database.write(durable=True) as tx:
            outcome = user_acts.do(tx, acts, self._rules)
        self._on_change()
        return _Stored(outcome, self._clock.monotonic() - began)

    def _require_room(self, event: Event, signed: Signed, database: Database) -> None:
        """Raise `Rejected` or `NotAdmitted` for an event that registers no user and for a new user who is not admitted.

        Who is registered may always renew.
        """
        with database.read() as tx:
            author = authors.find(tx, event.pubkey)
            if author is not None:
                user_acts.require_standing(tx, author, signed)
                if users.is_registered(tx, author):
                    return
            self._admission().require(event, users.count(tx))
