"""The relays of one crawler process: dialled when their time comes, served by its reactor while they are connected."""

import random
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

from pipeline.crawl.connection import Connection
from pipeline.crawl.context import CrawlContext
from pipeline.crawl.dial_queue import DialBounds, DialQueue, DueRelay
from pipeline.crawl.dialler import Dialler, begin, inform
from pipeline.crawl.ingester import Batch
from pipeline.crawl.lost_relays import LostRelays
from pipeline.crawl.plan_turns import PlanTurns
from pipeline.crawl.reactor import Reactor
from pipeline.crawl.reconnect import ConnectionResult, delay_s, failures_after, is_missing, resumed_at
from pipeline.crawl.relay_metrics import RelayMetrics
from pipeline.crawl.selection import Selected
from pipeline.crawl.sync.absences import Places
from pipeline.crawl.sync.costs import RelayCosts
from pipeline.crawl.sync.cursors import CursorTable
from pipeline.crawl.sync.item_sets import ItemSetProvider
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.relay_lists import RelayLists
from pipeline.crawl.sync.relay_sync import RelaySync
from pipeline.crawl.sync.timing import CrawlSettings, Horizon
from pipeline.nostr.address import RelayAddress
from pipeline.process.metrics import Metrics
from pipeline.relay.authentication import AuthState
from pipeline.relay.dial_gate import DialGate
from pipeline.relay.host_backoff import HostBackoff
from pipeline.relay.learned_limits import LearnedLimits
from pipeline.relay.limits import RelayLimits
from pipeline.settings.choices import CrawlMode
from pipeline.store import cursors, gaps, relay_forms, relay_samples, relay_status, runs, sweeps
from pipeline.store.backfills import Backfill
from pipeline.store.database import Database
from pipeline.store.relay_status import RelayState, RelayStatus
from pipeline.store.runs import Doubt

JOIN_S: Final = 5.0


@dataclass(slots=True)
class _Relay:
    selected: Selected
    crawl: RelaySync
    host: HostBackoff
    metrics: RelayMetrics
    failures: int
    next_dial_at: float
    """By the monotonic clock, which is never set."""
    was_connected: bool = False
    is_dropped: bool = False
    rank: int = 0
    """Its place among those that are crawled, 0 for the best."""
    is_missing: bool = False
    """Nothing was found at the address as it is spelled."""
    connection: Connection | None = None
    """While it is dialled or connected."""


@dataclass(slots=True)
class _Ended:
    relay: int
    ending: ConnectionResult


@dataclass(slots=True)
class RelayPool:
    """Dials, redials and drops relays. All methods are for one thread, the main thread of the crawler."""

    dialler: Dialler
    shared: CrawlContext
    metrics: Metrics
    settings: CrawlSettings
    dials: DialBounds
    holdings: ItemSetProvider | None = None
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
    waiting: int = 0
    """How many relays are due that could not be dialled yet, for the number of dials under way or lately begun."""
    _relays: dict[int, _Relay] = field(default_factory=dict)
    _hosts: dict[str, HostBackoff] = field(default_factory=dict)
    _ended: SimpleQueue[_Ended] = field(default_factory=SimpleQueue)
    _places: Places = field(default_factory=Places)
    _turns: PlanTurns = field(default_factory=PlanTurns)
    _dialling: set[int] = field(default_factory=set)
    _lost: LostRelays = field(init=False)
    _queue: DialQueue = field(init=False)
    _reached: bool = False
    """A relay was connected to since the last look; set by the threads that dial."""
    _reactor: Reactor = field(init=False)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._lost = LostRelays(self.rng)
        self._queue = DialQueue(self.dials, self._lost)
        self._reactor = Reactor(self.shared)
        self._thread = threading.Thread(target=self._reactor.run, name="reactor", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> int:
        """How many relays are being served or dialled."""
        return sum(relay.connection is not None for relay in self._relays.values())

    def seconds_behind(self, wall: int) -> dict[str, int]:
        """For the address of each relay that is connected, how old the oldest of its cursors is at `wall` (seconds)."""
        return {
            relay.selected.address.url: relay.crawl.seconds_behind(wall, relay.connection.newest_live)
            for relay in self._relays.values()
            if relay.connection is not None
        }

    def least_behind(self, wall: int) -> int:
        """How old the cursors of the relay are that got furthest, connected or not; 0 where there is no relay."""
        return min((relay.crawl.seconds_behind(wall) for relay in self._relays.values()), default=0)

    @property
    def firehose_relays(self) -> int:
        """How many relays are asked for everything that they have."""
        return sum(relay.crawl.strategy.is_firehose for relay in self._relays.values() if relay.connection is not None)

    @property
    def unserved_queries(self) -> int:
        """How many queries in all go without a live subscription since their relay has no room for it."""
        return sum(relay.crawl.unserved_queries for relay in self._relays.values() if relay.connection is not None)

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
        now = self.shared.clock.now_ms()
        if never := [each.candidate.relay for each in selected if _crawled_since(each, now) is None]:
            with database.write() as tx:
                relay_status.start_crawling(tx, never, now)
        for each in new:
            self._relays[each.candidate.relay] = self._add(database, each, plan, now)
        for rank, (number, each) in enumerate(wanted.items()):
            self._relays[number].rank = rank
            self._spell(self._relays[number], each)
            self._set_mode(self._relays[number], _mode(each, self.mode), plan)
            self._set_lists(self._relays[number], each.candidate.by_operator or number in self.list_relays, plan)
            self._set_backfills(self._relays[number], tuple(self.backfills.get(number, ())), plan)

    def _spell(self, relay: _Relay, selected: Selected) -> None:
        """Dial by the spelling of now from the next time on, which is at once where nothing was found at another."""
        if relay.selected.address.spelling != selected.address.spelling:
            relay.selected = selected
            if relay.is_missing:
                relay.is_missing, relay.next_dial_at = False, self.shared.clock.monotonic()

    def _set_lists(self, relay: _Relay, fetches_lists: bool, plan: Plan) -> None:
        if relay.crawl.fetches_lists is not fetches_lists:
            relay.crawl.fetches_lists = fetches_lists
            if relay.connection is not None:
                relay.connection.post_plan(plan)

    def _set_mode(self, relay: _Relay, mode: CrawlMode, plan: Plan) -> None:
        if relay.crawl.strategy.mode is not mode:
            relay.crawl.strategy.mode = mode
            if relay.connection is not None:
                # The reactor decides, when it next thinks of what to ask.
                relay.connection.post_plan(plan)

    def _set_backfills(self, relay: _Relay, jobs: tuple[Backfill, ...], plan: Plan) -> None:
        if relay.crawl.backfill_jobs.ordered != jobs:
            relay.crawl.backfill_jobs.ordered = jobs
            if relay.connection is not None:
                relay.connection.post_plan(plan)

    def set_relay_lists(self, changed: Iterable[int], plan: Plan) -> None:
        """Let relays follow at which of them others are named now."""
        for number in self._relays.keys() & set(changed):
            relay = self._relays[number]
            relay.crawl.named = self.lists.at(number)
            if relay.connection is not None:
                relay.connection.post_plan(plan)

    def set_plan(self, plan: Plan) -> None:
        """Let every relay follow `plan`; where it is long, one connection after the other within the next ticks."""
        for relay in self._relays.values():
            if relay.connection is None:
                relay.crawl.set_plan(plan)
        self._turns.add(number for number, relay in self._relays.items() if relay.connection is not None)
        self._post_plan(plan)

    def _post_plan(self, plan: Plan) -> None:
        for number in self._turns.take(len(plan.queries)):
            relay = self._relays.get(number)
            if relay is not None and relay.connection is not None:
                relay.connection.post_plan(plan)

    def tick(self, plan: Plan) -> None:
        """Take note of connections that ended, dial what is due, and let the next follow `plan`."""
        self._post_plan(plan)
        self._reap()
        mono = self.shared.clock.monotonic()
        due = [
            relay
            for number, relay in self._relays.items()
            if relay.connection is None and relay.next_dial_at <= mono and number not in self._dialling
        ]
        self.waiting = len(due)
        for number in self._queue.take(map(_due, due), self._dialling, self.connected, mono):
            self._start(self._relays[number], plan)
            self.waiting -= 1

    @property
    def is_alive(self) -> bool:
        """Whether connections are served; they are until `close`, or until something in it fails."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End all connections and hand over what they brought, within `JOIN_S`."""
        self._reactor.finish()
        self._thread.join(JOIN_S)
        self._reap()

    def _add(self, database: Database, selected: Selected, plan: Plan, now: int) -> _Relay:
        candidate, address = selected.candidate, selected.address
        since = _crawled_since(selected, now)
        with database.read() as tx:
            doubt = runs.last_doubt(tx)
            coverage = CursorTable(
                candidate.relay, cursors.of_relay(tx, candidate.relay), sweeps.of_relay(tx, candidate.relay)
            )
            open_gaps = gaps.of_relay(tx, candidate.relay)
            checks = relay_forms.of_relay(tx, candidate.relay)
            sample = relay_samples.of_relay(tx, candidate.relay)
        limits = LearnedLimits(RelayLimits.from_json(candidate.limits).as_of(now // 1000))
        crawl = RelaySync(
            coverage=coverage,
            limits=limits,
            reach=Horizon(self.settings, (now if since is None else since) // 1000, *_seconds(doubt, now)),
            plan=plan,
            holdings=self.holdings,
            gaps=open_gaps,
            places=self._places,
        )
        crawl.pacing.costs = RelayCosts(self.shared.stranger_byte_rate, self.shared.clock.monotonic())
        crawl.audit.knowledge.recall(checks)
        crawl.identity.recall(sample)
        crawl.named = self.lists.at(candidate.relay)
        host = self._hosts.setdefault(address.host_key, HostBackoff(self.rng))
        wait_ms = resumed_at(candidate.next_dial_at, candidate.state_since, now) - now
        return _Relay(
            selected, crawl, host, RelayMetrics(self.metrics, address.url, self.shared.intake.count_dropped),
            candidate.failures, self.shared.clock.monotonic() + wait_ms / 1000,
        )  # fmt: skip

    def _start(self, relay: _Relay, plan: Plan) -> None:
        number, address = relay.selected.candidate.relay, relay.selected.address
        relay.crawl.set_plan(plan)
        relay.connection = Connection(number, address, relay.crawl, relay.host, relay.metrics, self.shared)
        if relay.was_connected:
            relay.metrics.reconnected()
        self._dialling.add(number)
        threading.Thread(
            target=self._dial, args=(number, address, relay.connection, relay.metrics), name=f"dial-{number}",
            daemon=True,
        ).start()  # fmt: skip

    def _dial(self, number: int, address: RelayAddress, connection: Connection, metrics: RelayMetrics) -> None:
        channel = begin(self.dialler, address, metrics, self.shared)
        if isinstance(channel, ConnectionResult):
            self._ended.put(_Ended(number, channel))
        else:
            self._reached = True
            connection.note_resolved(self._resolved(address))
            self._reactor.register(connection, channel, lambda ending: self._ended.put(_Ended(number, ending)))
            inform(self.dialler, address, connection, self.shared)
        self._dialling.discard(number)

    def _resolved(self, address: RelayAddress) -> str:
        """Return the IP address to which a relay's name led last; empty where that is not known."""
        return "" if self.gate is None else self.gate.resolved(address.host)

    def _reap(self) -> None:
        if self._reached:
            self._reached = False
            self._lost.on_connected(self.shared.clock.monotonic())
        while True:
            try:
                ended = self._ended.get_nowait()
            except Empty:
                return
            relay = self._relays.get(ended.relay)
            if relay is not None:
                self._on_connection_end(ended.relay, relay, ended.ending)

    def _on_connection_end(self, number: int, relay: _Relay, ending: ConnectionResult) -> None:
        now = self.shared.clock.now_ms()
        address = relay.selected.address.url
        relay.connection = None
        relay.was_connected = relay.was_connected or ending.connected
        relay.is_missing = is_missing(ending)
        mono = self.shared.clock.monotonic()
        wait_s = self._lost.on_ending(number, ending, mono)
        is_told = wait_s is not None and not ending.connected
        if wait_s is None:
            relay.failures = failures_after(relay.failures, ending)
            wait_s = delay_s(relay.failures, ending, self.rng)
        elif ending.connected:
            relay.failures = 0
        relay.next_dial_at = mono + wait_s
        relay.metrics.disconnected(ending.reason)
        self.shared.log.debug(
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
            relay.crawl.strategy.name,
            relay.selected.address.spelling if relay.is_missing else "",
            relay.is_missing,
            relay.crawl.absences.since,
            is_forging=ending.is_forging,
            resolved=self._resolved(relay.selected.address),
            is_paced=relay.crawl.costs.paced_since(mono) is not None,
        )
        if not is_told:
            self.shared.intake.submit(Batch(number, now, status=status))
        if relay.is_dropped:
            self._forget(number)

    def _drop(self, number: int) -> None:
        relay = self._relays[number]
        relay.is_dropped = True
        if relay.connection is not None:
            relay.connection.close()
        else:
            self._forget(number)

    def _forget(self, number: int) -> None:
        del self._relays[number]
        self._lost.forget(number)


def _due(relay: _Relay) -> DueRelay:
    candidate = relay.selected.candidate
    return DueRelay(candidate.relay, relay.next_dial_at, relay.rank, candidate.by_operator)


def _crawled_since(selected: Selected, now: int) -> int | None:
    """When (ms) it was first crawled; None if it never was, or by a clock that was ahead."""
    since = selected.candidate.crawled_since
    return None if since is None or since > now else since


def _seconds(doubt: Doubt | None, now: int) -> tuple[int, int]:
    """What `Reach` takes of a doubt, noticed at `now` (ms) at the latest."""
    return (0, 0) if doubt is None else (doubt.since // 1000, min(doubt.noticed_at, now) // 1000)


def _mode(selected: Selected, default: CrawlMode) -> CrawlMode:
    mode = CrawlMode(selected.candidate.ask)
    return default if mode is CrawlMode.AUTO else mode
