"""Events by their ids from relays, several relays side by side, each asked politely by one thread.

All relays have the same ids to look for. Each begins at another place among them and passes over what others have
returned since, so that the work is shared; it is through when it was asked for everything that was still missing.
"""

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pipeline.audit.client import AskedTooLong, AskPolicy, Interrupted, RelayClient
from pipeline.errors import EventServiceError
from pipeline.nostr.address import InvalidAddress, parse_address
from pipeline.nostr.event import Event
from pipeline.nostr.filter import Filter
from pipeline.process.clock import Clock
from pipeline.process.stop import Stop
from pipeline.relay.errors import ConnectionLost, DialError
from pipeline.rules.acceptance import EventLimits, rejection_reason
from pipeline.store.relay_records import RelayRecord

RELAYS_AT_ONCE: Final = 8
IDS_PER_PAGE: Final = 100
MAX_REFUSED: Final = 3
"""So many pages refused one after the other, and the relay is asked no more."""
MAX_READY: Final = 1_000
"""Events that relays returned and that are not queued yet; beyond these no relay is asked for more."""
# No relay returns so few events for a larger limit.
_LEAST_CAP: Final = 5
_LOOK_S: Final = 0.5
_IDLE_S: Final = 20.0


class NoRelayAnswered(EventServiceError):
    """No relay could be asked."""


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How relays are asked, and which events are fit to be delivered."""

    ask: AskPolicy
    limits: EventLimits


class Fetcher:
    """Asks `relays` for events; `problems` has why some could not be asked for everything, by address."""

    def __init__(self, relays: Sequence[RelayRecord], policy: FetchPolicy, clock: Clock, stop: Stop) -> None:
        self.relays = relays
        self.problems: dict[str, str] = {}
        self._policy = policy
        self._clock = clock
        self._stop = stop

    def fetch(self, ids: Sequence[bytes]) -> Iterator[list[Event]]:
        """Yield the events of these ids that relays return, verified, each once.

        Raises `Interrupted`, and `NoRelayAnswered` at the end if every relay had a problem.
        """
        search = _IdSearch(ids)
        problems: list[str] = []
        with ThreadPoolExecutor(RELAYS_AT_ONCE, "fetch") as pool:
            try:
                pending = {
                    pool.submit(self._ask, each, search, index * len(ids) // len(self.relays)): each
                    for index, each in enumerate(self.relays)
                }
                while pending or not search.ready.empty():
                    yield from search.take()
                    for done in [each for each in pending if each.done()]:
                        problems += self._end(pending.pop(done), done)
                    if self._stop.is_set():
                        raise Interrupted
            finally:
                search.over.set()
                pool.shutdown(wait=False, cancel_futures=True)
        if len(problems) == len(self.relays) and not search.is_over:
            raise NoRelayAnswered(problems[0] if problems else "no relay was connected yet; does the service run?")

    def _end(self, record: RelayRecord, done: "Future[str]") -> list[str]:
        problem = done.result()
        if problem:
            self.problems[record.address] = problem
        else:
            self.problems.pop(record.address, None)
        return [f"{record.address}: {problem}"] if problem else []

    def _ask(self, record: RelayRecord, search: "_IdSearch", first: int) -> str:
        """Ask one relay for what is missing; return why not for everything, empty if for all."""
        try:
            address = parse_address(record.dialled)
        except InvalidAddress as error:
            return str(error)
        walk = _Walk(search, first)
        while True:
            client = RelayClient(address, record.limits, self._policy.ask, self._clock, search.over)
            try:
                problem = self._walk(client, search, walk)
            except (DialError, ConnectionLost, AskedTooLong) as error:
                problem = str(error)
            except Interrupted:
                problem = ""
            finally:
                client.close()
            if problem is not None:
                return problem

    def _walk(self, client: RelayClient, search: "_IdSearch", walk: "_Walk") -> str | None:
        """Ask on one connection; return why not for everything, empty if for all, `None` to go on with another one."""
        refused = largest = 0
        most = IDS_PER_PAGE
        asked = walk.next(self._most(client))
        while asked and not search.over.is_set():
            if search.wait_for_room(self._clock) > _IDLE_S:
                # The relay's pings were not answered. That it may hang up then is not its fault.
                walk.put_back(asked)
                return None
            page = client.page(Filter(ids=frozenset(asked), limit=len(asked)))
            new = search.put(self._genuine(page.events))
            # Some relays close each request by ids, after its events.
            if page.refusal is not None and not page.events:
                if len(asked) > 1 and (page.refusal.asks_for_less or page.refusal.may_be_of_size):
                    most = min(self._most(client), len(asked) // 2)
                    walk.put_back(asked)
                    asked = walk.next(most)
                    continue
                refused += 1
                if page.refusal.is_lasting or refused >= MAX_REFUSED:
                    return f"{page.refusal}: {page.detail}"
                continue
            refused = 0
            # A page that is smaller than another one was not cut off; of one that may be, the rest is asked for again.
            is_cut = new and _LEAST_CAP <= page.returned < len(asked) and page.returned >= largest
            largest = max(largest, page.returned)
            asked = walk.rest(asked) if is_cut else []
            asked = asked or walk.next(min(most, self._most(client)))
        return ""

    @staticmethod
    def _most(client: RelayClient) -> int:
        return max(1, min(IDS_PER_PAGE, client.limits.max_ids, client.limits.page_limit))

    def _genuine(self, events: Sequence[Event]) -> list[Event]:
        now_s = self._clock.now_ms() // 1000
        return [
            each for each in events
            if rejection_reason(each, len(each.to_json()), self._policy.limits, now_s) is None
        ]  # fmt: skip


class _IdSearch:
    """The ids that are looked for by all relays, and what was found; thread-safe."""

    def __init__(self, ids: Sequence[bytes]) -> None:
        self.ids = ids
        self.ready: queue.Queue[list[Event]] = queue.Queue()
        self.over = Stop()
        """Set when the search ends."""
        self._missing = set(ids)
        self._waiting = 0
        self._lock = threading.Condition()

    @property
    def is_over(self) -> bool:
        """True if everything was found."""
        return not self._missing

    def is_missing(self, event_id: bytes) -> bool:
        """Return True if no relay has returned it yet."""
        return event_id in self._missing

    def put(self, events: Sequence[Event]) -> int:
        """Pass on what is looked for; return how many were not found before."""
        with self._lock:
            new = list({each.id: each for each in events if each.id in self._missing}.values())
            self._missing.difference_update(each.id for each in new)
            self._waiting += len(new)
        if new:
            self.ready.put(new)
        return len(new)

    def take(self) -> Iterator[list[Event]]:
        """Yield what was found since; wait a moment for it if there is nothing."""
        try:
            found = self.ready.get(timeout=_LOOK_S)
        except queue.Empty:
            return
        yield found
        with self._lock:
            self._waiting -= len(found)
            self._lock.notify_all()

    def wait_for_room(self, clock: Clock) -> float:
        """Wait until most of what was found is taken, or the search ends; return for how many seconds."""
        began = clock.monotonic()
        with self._lock:
            while self._waiting > MAX_READY and not self.over.is_set():
                self._lock.wait(_LOOK_S)
        return clock.monotonic() - began


class _Walk:
    """One relay's way through the ids, from `first` to the end and on from the beginning."""

    def __init__(self, search: _IdSearch, first: int) -> None:
        self._search = search
        self._left = len(search.ids)
        self._at = first
        self._again: deque[bytes] = deque()

    def next(self, most: int) -> list[bytes]:
        """Return the next ids that are missing; [] when the relay is through."""
        found: list[bytes] = []
        while (self._again or self._left) and len(found) < most:
            event_id = self._again.popleft() if self._again else self._step()
            if self._search.is_missing(event_id):
                found.append(event_id)
        return found

    def _step(self) -> bytes:
        event_id = self._search.ids[self._at % len(self._search.ids)]
        self._at += 1
        self._left -= 1
        return event_id

    def put_back(self, asked: Sequence[bytes]) -> None:
        """Have these ids come next."""
        self._again.extendleft(reversed(asked))

    def rest(self, asked: Sequence[bytes]) -> list[bytes]:
        """Return which of the ids are missing still."""
        return [each for each in asked if self._search.is_missing(each)]
