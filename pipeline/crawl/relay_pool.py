"""The relays of one crawler process: dialled when their time comes, served by its reactor while they are connected."""

import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

from pipeline.crawl.connection import Connection
from pipeline.crawl.context import CrawlContext
from pipeline.crawl.crawled_relay import CrawledRelay, RelayLoader, RelayOrders, crawled_since
from pipeline.crawl.dial_queue import DialBounds, DialQueue
from pipeline.crawl.dialler import Dialler, begin, inform
from pipeline.crawl.ingester import Batch
from pipeline.crawl.last_tier_turns import LastTierTurns, live_bytes
from pipeline.crawl.lost_relays import LostRelays
from pipeline.crawl.plan_turns import PlanTurns
from pipeline.crawl.reactor import Reactor
from pipeline.crawl.reconnect import ConnectionResult, delay_s, failures_after, is_missing
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.crawl.selection import Selected
from pipeline.crawl.sync.item_sets import ItemSetProvider
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.relay_lists import RelayLists
from pipeline.crawl.sync.timing import CrawlSettings
from pipeline.nostr.address import RelayAddress
from pipeline.process.metrics import Metrics
from pipeline.relay.authentication import AuthState
from pipeline.relay.dial_gate import DialGate
from pipeline.settings.choices import CrawlMode
from pipeline.store import relay_status
from pipeline.store.backfills import Backfill
from pipeline.store.database import Database
from pipeline.store.relay_status import RelayState, RelayStatus

JOIN_S: Final = 5.0


@dataclass(slots=True)
class _Ended:
    relay: int
    ending: ConnectionResult


@dataclass(slots=True)
class RelayPool:
    """Dials, redials and drops relays. All methods are for one thread, the main thread of the crawler."""

    dialler: Dialler
    context: CrawlContext
    metrics: Metrics
    settings: CrawlSettings
    dials: DialBounds
    item_sets: ItemSetProvider | None = None
    mode: CrawlMode = CrawlMode.AUTO
    """How relays are asked for which the operator wants nothing else."""
    list_relays: Collection[int] = ()
    """Which relays, besides the operator's, are asked for the relay lists of all wanted authors."""
    backfills: Mapping[int, Sequence[Backfill]] = field(default_factory=dict)
    """By relay, what the operator ordered and it has not come to the end of."""
    lists: RelayLists = field(default_factory=RelayLists)
    """Where authors say that they are to be found; changed by the owner, who then calls `set_relay_lists`."""
    rng: random.Random = field(default_factory=random.Random)
    gate: DialGate | None = None
    """What bounds the dialler's dials, and knows where names led."""
    on_ended: Callable[[], object] = lambda: None
    """Called, in any thread, when a connection has ended, which the next `tick` takes note of."""
    on_result: Callable[[str, ConnectionResult, bool], object] | None = None
    """Called with the host key, how a connection or dial ended, and whether other relays are connected."""
    waiting: int = 0
    """How many relays are due that could not be dialled yet, for the number of dials under way or lately begun."""
    _relays: dict[int, CrawledRelay] = field(default_factory=dict)
    _ended: SimpleQueue[_Ended] = field(default_factory=SimpleQueue)
    _loader: RelayLoader = field(init=False)
    _turns: PlanTurns = field(default_factory=PlanTurns)
    _last_tier: LastTierTurns = field(default_factory=LastTierTurns)
    _dialling: set[int] = field(default_factory=set)
    _lost: LostRelays = field(init=False)
    _queue: DialQueue = field(init=False)
    _reached: bool = False
    """A relay was connected to since the last look; set by the threads that dial."""
    _reactor: Reactor = field(init=False)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._loader = RelayLoader(self.context, self.metrics, self.settings, self.item_sets, self.lists, self.rng)
        self._lost = LostRelays(self.rng)
        self._queue = DialQueue(self.dials, self._lost)
        self._reactor = Reactor(self.context)
        self._thread = threading.Thread(target=self._reactor.run, name="reactor", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> int:
        """How many relays are being served or dialled."""
        return sum(relay.connection is not None for relay in self._relays.values())

    def seconds_behind(self, wall: int) -> dict[str, int]:
        """For the address of each relay that is connected, how old the oldest of its cursors is at `wall` (seconds)."""
        return {
            relay.selected.address.url: relay.sync.seconds_behind(wall, relay.connection.newest_live)
            for relay in self._relays.values()
            if relay.connection is not None
        }

    def least_behind(self, wall: int) -> int:
        """How old the cursors of the relay are that got furthest, connected or not; 0 where there is no relay."""
        return min((relay.sync.seconds_behind(wall) for relay in self._relays.values()), default=0)

    @property
    def host_keys(self) -> set[str]:
        """The hosts of all relays that are crawled, and of dropped ones whose connections are not over."""
        return {relay.selected.address.host_key for relay in self._relays.values()}

    @property
    def firehose_relays(self) -> int:
        """How many relays are asked for everything that they have."""
        return sum(relay.sync.strategy.is_firehose for relay in self._relays.values() if relay.connection is not None)

    @property
    def unserved_queries(self) -> int:
        """How many queries in all go without a live subscription since their relay has no room for it."""
        return sum(relay.sync.unserved_queries for relay in self._relays.values() if relay.connection is not None)

    @property
    def polled_for_misses(self) -> int:
        """How many of the relays that are being served left out events of their live subscriptions."""
        connections = [relay.connection for relay in self._relays.values()]
        return sum(each.limits.live_missed_at > 0 for each in connections if each is not None)

    def auth_states(self) -> Counter[AuthState]:
        """How many of the relays that are being served stand how on AUTH (NIP-42)."""
        connections = [relay.connection for relay in self._relays.values()]
        return Counter(each.auth for each in connections if each is not None)

    def set_relays(self, database: Database, selected: list[Selected], plan: Plan) -> None:
        """Crawl exactly `selected` from now on; those that were crawled before go on undisturbed."""
        wanted = {each.candidate.relay: each for each in selected}
        for number in [number for number in self._relays if number not in wanted]:
            self._drop(number)
        new = [each for number, each in wanted.items() if number not in self._relays]
        now = self.context.clock.now_ms()
        if never := [each.candidate.relay for each in selected if crawled_since(each, now) is None]:
            with database.write() as tx:
                relay_status.start_crawling(tx, never, now)
        for each in new:
            number = each.candidate.relay
            self._relays[number] = self._loader.load(database, each, self._last_tier.plan_for(number, plan), now)
        mono = self.context.clock.monotonic()
        for rank, (number, each) in enumerate(wanted.items()):
            orders = RelayOrders(
                self._mode(each), each.candidate.by_operator or number in self.list_relays,
                tuple(self.backfills.get(number, ())),
            )  # fmt: skip
            self._relays[number].rank = rank
            self._relays[number].spell(each, mono)
            self._relays[number].follow(orders, self._last_tier.plan_for(number, plan))

    def _mode(self, selected: Selected) -> CrawlMode:
        mode = CrawlMode(selected.candidate.ask)
        return self.mode if mode is CrawlMode.AUTO else mode

    def set_relay_lists(self, changed: Mapping[int, Collection[bytes]], plan: Plan) -> None:
        """Let relays follow who is named at which of them unlike before."""
        for number in self._relays.keys() & changed.keys():
            relay = self._relays[number]
            relay.sync.named = relay.sync.named.after(changed[number])
            relay.post_plan(self._last_tier.plan_for(number, plan))

    def set_plan(self, plan: Plan) -> None:
        """Let every relay follow `plan`; where it is long, one connection after the other within the next ticks."""
        for number, relay in self._relays.items():
            if relay.connection is None:
                self._last_tier.begin(number)
                relay.sync.set_plan(self._last_tier.plan_for(number, plan))
        self._turns.add(self._connected)
        self._post_plan(plan)

    @property
    def _connected(self) -> list[int]:
        return [number for number, relay in self._relays.items() if relay.connection is not None]

    def _post_plan(self, plan: Plan) -> None:
        last = self._last_tier.take(plan, self._connected, self._live_bytes, self.context.clock.monotonic())
        for number in dict.fromkeys((*self._turns.take(len(plan.queries)), *last)):
            if (relay := self._relays.get(number)) is not None:
                relay.post_plan(self._last_tier.plan_for(number, plan))

    def _live_bytes(self, number: int) -> int:
        """Return how many bytes of live requests a relay is sent at most that follows a plan."""
        relay = self._relays.get(number)
        if relay is None or relay.connection is None or relay.sync.strategy.is_firehose:
            return 0
        return live_bytes(relay.connection.limits)

    def tick(self, plan: Plan) -> None:
        """Take note of connections that ended, dial what is due, and let the next follow `plan`."""
        self._post_plan(plan)
        self._reap()
        mono = self.context.clock.monotonic()
        due = [
            relay
            for number, relay in self._relays.items()
            if self._may_dial(relay) and relay.next_dial_at <= mono and number not in self._dialling
        ]
        self.waiting = len(due)
        for number in self._queue.take((relay.due for relay in due), self._dialling, self.connected, mono):
            self._start(self._relays[number], plan)
            self.waiting -= 1

    def rest_s(self) -> float:
        """Return for how long `tick` has nothing to do unless a connection ends; 0 if it may have at any moment."""
        is_following = not self._turns.are_over or self._last_tier.is_uneven
        if self.waiting or self._dialling or self._reached or is_following:
            return 0.0
        dials_at = (relay.next_dial_at for relay in self._relays.values() if self._may_dial(relay))
        return max(0.0, min(dials_at, default=math.inf) - self.context.clock.monotonic())

    @property
    def is_alive(self) -> bool:
        """Whether connections are served; they are until `close`, or until something in it fails."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End all connections and hand over what they brought, within `JOIN_S`."""
        self._reactor.finish()
        self._thread.join(JOIN_S)
        self._reap()

    def _may_dial(self, relay: CrawledRelay) -> bool:
        return relay.connection is None and self.context.may_ask(relay.selected.address.host_key)

    def _start(self, relay: CrawledRelay, plan: Plan) -> None:
        number, address = relay.selected.candidate.relay, relay.selected.address
        self._last_tier.begin(number)
        relay.sync.set_plan(self._last_tier.plan_for(number, plan))
        relay.connection = Connection(number, address, relay.sync, relay.host, relay.metrics, self.context)
        if relay.was_connected:
            relay.metrics.reconnected()
        is_fast = self._lost.is_fast(number, self.context.clock.monotonic())
        self._dialling.add(number)
        threading.Thread(
            target=self._dial, args=(number, address, relay.connection, relay.metrics), kwargs={"is_fast": is_fast},
            name=f"dial-{number}", daemon=True,
        ).start()  # fmt: skip

    def _dial(
        self, number: int, address: RelayAddress, connection: Connection, metrics: RelayMetrics, *, is_fast: bool
    ) -> None:
        channel = begin(self.dialler, address, metrics, self.context, is_fast=is_fast)
        if isinstance(channel, ConnectionResult):
            self._end(number, channel)
        else:
            self._reached = True
            connection.note_resolved(self._resolved(address))
            self._reactor.register(connection, channel, lambda ending: self._end(number, ending))
            inform(self.dialler, address, connection, self.context)
        self._dialling.discard(number)

    def _end(self, number: int, ending: ConnectionResult) -> None:
        self._ended.put(_Ended(number, ending))
        self.on_ended()

    def _resolved(self, address: RelayAddress) -> str:
        """Return the IP address to which a relay's name led last; empty where that is not known."""
        return "" if self.gate is None else self.gate.resolved(address.host)

    def _reap(self) -> None:
        if self._reached:
            self._reached = False
            self._lost.on_connected(self.context.clock.monotonic())
        while True:
            try:
                ended = self._ended.get_nowait()
            except Empty:
                return
            relay = self._relays.get(ended.relay)
            if relay is not None:
                self._on_connection_end(ended.relay, relay, ended.ending)

    def _on_connection_end(self, number: int, relay: CrawledRelay, ending: ConnectionResult) -> None:
        now = self.context.clock.now_ms()
        address = relay.selected.address.url
        relay.connection = None
        relay.was_connected = relay.was_connected or ending.connected
        relay.is_missing = is_missing(ending)
        mono = self.context.clock.monotonic()
        wait_s = self._lost.on_ending(number, ending, mono)
        is_told = wait_s is not None and not ending.connected
        if wait_s is None:
            relay.failures = failures_after(relay.failures, ending)
            wait_s = delay_s(relay.failures, ending, self.rng)
        elif ending.connected:
            relay.failures = 0
        relay.next_dial_at = mono + wait_s
        relay.metrics.disconnected(ending.reason)
        if self.on_result is not None:
            self.on_result(relay.selected.address.host_key, ending, self._is_online)
        self.context.log.debug(
            address, "relay disconnected", relay=address, reason=ending.reason, detail=ending.detail,
            redial_in_s=int(wait_s),
        )  # fmt: skip
        status = RelayStatus(
            number,
            address,
            RelayState.DISCONNECTED,
            now,
            0,
            0,
            relay.failures,
            now + round(wait_s * 1000),
            ending.detail,
            relay.sync.strategy.name,
            relay.selected.address.spelling if relay.is_missing else "",
            relay.is_missing,
            relay.sync.absences.since,
            is_forging=ending.is_forging,
            resolved=self._resolved(relay.selected.address),
            is_paced=relay.sync.costs.paced_since(mono) is not None,
        )
        if not is_told:
            self.context.ingester.submit(Batch(number, now, status=status))
        if relay.is_dropped:
            self._forget(number)

    @property
    def _is_online(self) -> bool:
        return any(each.connection is not None and n not in self._dialling for n, each in self._relays.items())

    def _drop(self, number: int) -> None:
        relay = self._relays[number]
        relay.is_dropped = True
        if relay.connection is not None:
            relay.connection.close()
        else:
            self._forget(number)

    def _forget(self, number: int) -> None:
        del self._relays[number]
        self._last_tier.begin(number)
        self._lost.forget(number)
