"""One relay for one thread that asks a single question at a time: pages, and comparisons of sets (NIP-77).

What the relay allows is what the crawl has learned of it, and what it refuses on the way. A refusal for too many
requests is waited out; a lost connection is opened again, a few times in all.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.errors import EventServiceError
from pipeline.nostr.address import RelayAddress
from pipeline.nostr.auth import addresses_for_auth, auth_event
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.nostr.message import EventMessage, InvalidEventMessage, InvalidMessage, parse_relay_message
from pipeline.nostr.negentropy import InvalidNegentropy, ItemSet, Reconciliation
from pipeline.process.clock import Clock
from pipeline.process.stop import Stop
from pipeline.relay.blocking_websocket import BlockingWebSocket
from pipeline.relay.dial import DialPolicy, dial
from pipeline.relay.errors import ConnectionLost, LossReason
from pipeline.relay.host_backoff import HostBackoff
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.relay.negentropy_session import NegFinished, NegMessageReceived
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session, SessionEvent
from pipeline.relay.session_auth import AuthWanted
from pipeline.relay.subscription import PageEnded

MAX_LOST: Final = 4
"""Connections that are lost over one page."""
MAX_RATIONED: Final = 8
"""Refusals of one page for too many requests; the last ones are minutes apart."""
MAX_CONNECTIONS: Final = 5
"""Of one audit of a relay."""
MAX_PAGE_EVENTS: Final = 10_000
"""No relay in use returns as many at once; one that goes on is disconnected."""
MAX_PAGE_BYTES: Final = 32 << 20
PAGE_S: Final = 120.0
"""The longest that one page may take, however steadily it comes."""
COMPARISON_S: Final = 120.0
MAX_NEED: Final = 20_000
"""Of one comparison; what names more is asked for page by page."""
_LOOK_S: Final = 1.0
_REDIAL_S: Final = 2.0
_KEY: Final = "audit"
# Hexadecimal takes two bytes each; what else a NEG message has is short.
_NEG_ENVELOPE: Final = 100


class Interrupted(Exception):
    """The audit is to end; what was asked for last is asked for again when it goes on."""


class AskedTooLong(EventServiceError):
    """The relay has had all the time that one audit gives it."""


@dataclass(slots=True)
class AuditPage:
    """What came of one filter; without a `refusal` it came to its end.

    `returned` events in all: `events`, which match the filter, others that do not, and `malformed` ones.
    """

    filters: tuple[Filter, ...] = ()
    returned: int = 0
    events: list[Event] = field(default_factory=list)
    malformed: int = 0
    refusal: RelayRefusal | None = None
    detail: str = ""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class AskPolicy:
    """How relays are asked: `rate` requests a second at most, as whom (`secret`), and how large an event may be.

    `relay_s`: for how long each is asked at most.
    """

    dial: DialPolicy
    rate: float
    secret: bytes | None
    bounds: FrameBounds
    relay_s: float = math.inf


class RelayClient:
    """A connection to `address`, opened when it is first needed. `close` it in the end."""

    def __init__(self, address: RelayAddress, limits: str, policy: AskPolicy, clock: Clock, stop: Stop) -> None:
        """`limits`: what the crawl has learned, as the relay's row has it."""
        self._address = address
        self._limits = LearnedLimits(RelayLimits.from_json(limits))
        self._policy = policy
        self._clock = clock
        self._stop = stop
        self._backoff = HostBackoff(random.Random(address.url))
        self._names = addresses_for_auth(address)
        self._websocket: BlockingWebSocket | None = None
        self._session = self._new_session()
        self._connections = 0
        self._asked_at = -1.0 / policy.rate
        self._until = clock.monotonic() + policy.relay_s
        self.requests = 0
        """How many were sent."""

    @property
    def limits(self) -> RelayLimits:
        """What the relay allows, as far as is known now."""
        return self._session.limits

    def close(self) -> None:
        """End the connection."""
        if self._websocket is not None:
            self._websocket.close()
            self._websocket = None

    def page(self, filters: Filter | Sequence[Filter]) -> AuditPage:
        """Return what the relay has for `filters`.

        Raises `DialError`, `ConnectionLost`, `AskedTooLong` or `Interrupted`.
        """
        lost = rationed = 0
        while True:
            try:
                page = self._page_once(filters)
            except ConnectionLost:
                self.close()
                lost += 1
                if lost == MAX_LOST:
                    raise
                continue
            rationed += 1
            if page.refusal is not RelayRefusal.RATE_LIMITED or rationed == MAX_RATIONED:
                return page
            self._backoff.on_rate_limited(self._clock.monotonic())

    def compare(self, query: Filter, items: ItemSet) -> Reconciliation | None:
        """Return how `items` compare with what the relay has; None where it compares no sets, or not these.

        Raises `DialError`, `AskedTooLong` or `Interrupted`.
        """
        websocket = self._begin()
        frame = (self.limits.max_frame_bytes - _NEG_ENVELOPE) // 2 - len(query.encode())
        try:
            found = Reconciliation(items, frame_limit=min(60_000, frame), max_need=MAX_NEED)
            self._session.reconciliation.open(_KEY, query, found.open(), self._clock.monotonic())
            until = self._clock.monotonic() + COMPARISON_S
            while self._clock.monotonic() < until:
                for outcome in self._turn(websocket, None):
                    if isinstance(outcome, NegFinished):
                        return None
                    if isinstance(outcome, NegMessageReceived):
                        reply = found.receive(outcome.payload)
                        if reply is None:
                            return found
                        self._session.reconciliation.answer(reply, self._clock.monotonic())
        except (InvalidNegentropy, ValueError):
            return None
        except ConnectionLost:
            # Some relays end the connection for a message that they do not know.
            self.close()
            return None
        finally:
            self._session.reconciliation.close()
        return None

    def _page_once(self, filters: Filter | Sequence[Filter]) -> AuditPage:
        websocket = self._begin()
        page = AuditPage(filters=(filters,) if isinstance(filters, Filter) else tuple(filters))
        self._session.open_page(_KEY, filters, self._clock.monotonic())
        until = self._clock.monotonic() + PAGE_S
        while True:
            for outcome in self._turn(websocket, page):
                if isinstance(outcome, PageEnded) and outcome.key == _KEY:
                    page.refusal, page.detail = outcome.refusal, outcome.detail
                    if page.refusal is None:
                        self._backoff.on_success()
                    return page
            is_endless = page.returned > MAX_PAGE_EVENTS or page.bytes > MAX_PAGE_BYTES
            if is_endless or self._clock.monotonic() > until:
                # What is on its way would be taken for the answer to the next.
                self.close()
                page.refusal, page.detail = RelayRefusal.TIMEOUT, "an answer without an end"
                return page

    def _begin(self) -> BlockingWebSocket:
        """Return an open connection, once the relay may be asked for something more."""
        if self._websocket is None:
            self._session = self._new_session()
            if self._connections >= MAX_CONNECTIONS:
                raise ConnectionLost(LossReason.EOF, f"lost {MAX_CONNECTIONS} connections")
            # Some relays let an address wait after a disconnection.
            self._stop.wait(_REDIAL_S * self._connections)
            self._connections += 1
            channel = dial(self._address, self._policy.dial, self._clock, self._stop.is_set)
            self._websocket = BlockingWebSocket(channel, self._clock)
        websocket = self._websocket
        while (wait_s := self._wait_s()) > 0:
            if self._stop.is_set():
                raise Interrupted
            # Pings are answered, and challenges are heard.
            for _ in self._turn(websocket, None, min(wait_s, _LOOK_S)):
                pass
        self._asked_at = self._clock.monotonic()
        self.requests += 1
        return websocket

    def _wait_s(self) -> float:
        now = self._clock.monotonic()
        paced = self._session.pages_wait_until(now) or now
        return max(self._asked_at + 1 / self._policy.rate - now, paced - now, self._backoff.remaining_ms(now) / 1000)

    def _turn(
        self, websocket: BlockingWebSocket, page: AuditPage | None, most_s: float = _LOOK_S
    ) -> list[SessionEvent]:
        """Send what is due, and read what comes; returns what it means. Events go into `page`."""
        if self._stop.is_set():
            raise Interrupted
        if self._clock.monotonic() > self._until:
            raise AskedTooLong(f"not done after {self._policy.relay_s:,.0f} s")
        while self._session.outgoing:
            websocket.send(self._session.outgoing.popleft())
        due, now = self._session.next_deadline(), self._clock.monotonic()
        outcomes: list[SessionEvent] = []
        skipped = websocket.skipped
        for raw in websocket.receive(most_s if due is None else max(0.0, min(most_s, due - now))):
            outcomes += self._take(raw, page)
        if page is not None:
            # Too long to be read; the relay counts them to its limit.
            page.returned += websocket.skipped - skipped
            page.malformed += websocket.skipped - skipped
        outcomes += self._session.on_timeout(self._clock.monotonic())
        for each in outcomes:
            if isinstance(each, AuthWanted):
                self._authenticate(each)
        return outcomes

    def _take(self, raw: bytes, page: AuditPage | None) -> list[SessionEvent]:
        now = self._clock.monotonic()
        if page is not None:
            page.bytes += len(raw)
        try:
            if self._policy.bounds.excess(raw) is not None:
                self._count_malformed(page)
                return []
            message = parse_relay_message(raw)
        except InvalidEventMessage as error:
            self._session.record_event_time(error.subscription, error.created_at, now)
            self._count_malformed(page)
            return []
        except InvalidMessage:
            return []
        if not isinstance(message, EventMessage):
            return list(self._session.receive(message, now))
        is_open = self._session.key_of(message.subscription) == _KEY
        self._session.note_event(message.subscription, message.event, now)
        if page is not None and is_open:
            page.returned += 1
            # The session takes events of other times for asked for, too.
            if any(each.matches(message.event) for each in page.filters):
                page.events.append(message.event)
        return []

    @staticmethod
    def _count_malformed(page: AuditPage | None) -> None:
        if page is not None:
            page.returned += 1
            page.malformed += 1

    def _authenticate(self, wanted: AuthWanted) -> None:
        assert self._policy.secret is not None, "wanted only where it can be given"
        now_s = self._clock.now_ms() // 1000
        event = auth_event(self._policy.secret, self._names[wanted.address], wanted.challenge, now_s)
        self._session.authenticate(event, self._clock.monotonic())

    def _new_session(self) -> Session:
        return Session(self._limits, can_authenticate=self._policy.secret is not None, auth_addresses=len(self._names))
