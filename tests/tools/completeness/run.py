"""One run: relays that hold and get events, the service on them, and what it has of each in the end."""

import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

from pipeline.process.clock import SystemClock
from pipeline.store import users
from pipeline.store.schema import open_database
from tests.factories.events import SignedEvent
from tests.fakes.net import pause
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Connected, Req
from tests.fakes.scrape import Scrape
from tests.fakes.service import EventService, settings
from tests.tools.completeness.behaviours import Case
from tests.tools.completeness.world import REACH_S, World

GAPS = "event_service_crawl_gaps_total"
RESWEEP_EVERY_S = 15
AUTH_KEY = "11" * 32
_LOOK_EVERY_S = 1.0
_HAVE = "SELECT lower(hex(event_id)) FROM inbox UNION SELECT lower(hex(event_id)) FROM seen"


@dataclass(slots=True)
class Peer:
    """A relay of one case and what it has to give: ids that must come, by when each became available."""

    name: str
    case: Case
    relay: ScriptedRelay
    due: dict[str, float] = field(default_factory=dict)
    beyond: int = 0
    done_at: float | None = None

    @property
    def address(self) -> str:
        """Where the operator says that it is."""
        return self.relay.url + (self.case.behaviour.only_path or "")

    def offer(self, world: World, events: Iterable[SignedEvent]) -> None:
        """Note what it holds from now on."""
        for event in events:
            if not world.is_wanted(event):
                continue
            if self.case.given(world, event):
                self.due.setdefault(event.id, time())
            else:
                self.beyond += 1


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one case. `beyond`: wanted events that no client gets there; `gaps`: what the service reported."""

    name: str
    wanted: int
    got: int
    beyond: int
    gaps: Mapping[str, int]
    pages: int
    connections: int
    seconds: float | None
    cannot: bool
    loses: bool
    fault: str = ""
    """What else was not as it must be."""

    @property
    def recall(self) -> float:
        """The share of what can be had that was had."""
        return self.got / self.wanted if self.wanted else 1.0

    @property
    def is_reported(self) -> bool:
        """Whether the service itself says that something is missing."""
        return sum(self.gaps.values()) > 0

    @property
    def is_good(self) -> bool:
        """Everything is there that can be, and the service says so where something cannot."""
        is_complete = self.got == self.wanted or self.loses
        return is_complete and (self.is_reported or not self.cannot) and not self.fault


def environment(relays: Sequence[str]) -> dict[str, str]:
    """Settings under which late arrivals are found within a run."""
    return settings(
        relays=relays,
        EVENTS_BACKFILL=f"{REACH_S}s",
        EVENTS_NEW_AUTHOR_LOOKBACK=f"{REACH_S}s",
        EVENTS_RESWEEP_WINDOW=f"{REACH_S + 600}s",
        EVENTS_RESWEEP_EVERY=f"{RESWEEP_EVERY_S}s",
        EVENTS_CRAWLERS="2",
        EVENTS_LOG_LEVEL="DEBUG",
    )


class Run:
    """The service on some relays; use as a context manager."""

    def __init__(
        self, directory: Path, world: World, peers: Sequence[Peer], more: Mapping[str, str] | None = None
    ) -> None:
        """`more`: settings besides those of `environment`."""
        self.world = world
        self.peers = peers
        key = {"EVENTS_SECRET_KEY_PATH": str(directory / "key")}
        self.service = EventService(directory, environment([peer.address for peer in peers]) | key | dict(more or {}))
        self._gaps: dict[tuple[str, str], float] = {}
        self._came_at: dict[str, float] = {}
        self._have: set[str] = set()

    @contextmanager
    def started(self) -> Iterator["Run"]:
        """Relays and service, with the users registered."""
        with ExitStack() as stack:
            for peer in self.peers:
                stack.enter_context(peer.relay)
            self.service.directory.mkdir(parents=True, exist_ok=True)
            (self.service.directory / "key").write_text(AUTH_KEY)
            register(self.service.database, self.world)
            stack.enter_context(self.service)
            yield self

    def have(self) -> set[str]:
        """Ids that are in the inbox or were."""
        with closing(sqlite3.connect(f"file:{self.service.database}?mode=ro", uri=True)) as database:
            self._have |= {event_id for (event_id,) in database.execute(_HAVE)}
        return self._have

    def wait_complete(self, timeout_s: float) -> None:
        """Return once every case has all that can be had and has reported what cannot, or the time is up."""
        deadline = monotonic() + timeout_s
        while monotonic() < deadline:
            have = self.have()
            self._read_gaps()
            now = time()
            self._came_at |= dict.fromkeys(have - self._came_at.keys(), now)
            for peer in self.peers:
                if peer.done_at is None and peer.due.keys() <= have:
                    peer.done_at = now
            if all(self._is_done(peer) for peer in self.peers):
                return
            pause(_LOOK_EVERY_S)

    def _is_done(self, peer: Peer) -> bool:
        complete = peer.done_at is not None or peer.case.loses
        return complete and (not peer.case.cannot or bool(self.gaps(peer)))

    def gaps(self, peer: Peer) -> dict[str, int]:
        """What the service reported of this relay."""
        return {reason: int(value) for (url, reason), value in self._gaps.items() if url == peer.relay.url and value}

    def _read_gaps(self) -> None:
        scrape: Scrape = self.service.scrape()
        for sample in scrape.samples(GAPS):
            key = (sample.labels.get("address", ""), sample.labels.get("reason", ""))
            self._gaps[key] = sample.value

    def rows(self, began: float) -> list[Row]:
        """The verdicts, in the order of the cases; relays of one name count together."""
        have = self.have()
        self._read_gaps()
        return [self._row(peer, have, began) for peer in self.peers]

    def _row(self, peer: Peer, have: set[str], began: float) -> Row:
        got = len(peer.due.keys() & have)
        return Row(
            name=peer.name,
            wanted=len(peer.due),
            got=got,
            beyond=peer.beyond,
            gaps=self.gaps(peer),
            pages=len(peer.relay.journal.of(Req)),
            connections=len(peer.relay.journal.of(Connected)),
            seconds=None if peer.done_at is None else peer.done_at - began,
            cannot=peer.case.cannot,
            loses=peer.case.loses,
        )

    def longest_s(self, peer: Peer, events: Iterable[SignedEvent]) -> float:
        """How long the latest of `events` took; seen to a second, infinite if it did not come."""
        late = [self._came_at.get(each.id, math.inf) - peer.due[each.id] for each in events if each.id in peer.due]
        return max(late, default=0.0)

    def missing(self, peer: Peer) -> list[str]:
        """Ids that should have come."""
        return sorted(peer.due.keys() - self._have)


def register(database: Path, world: World) -> None:
    """Register the users in a database that no service uses yet."""
    with open_database(database, SystemClock()) as opened, opened.write() as tx:
        for user in world.users:
            users.register(tx, bytes.fromhex(user.pubkey), round(time() * 1000))


def table(rows: Sequence[Row]) -> str:
    """The rows for a reader."""
    lines = [f"{'behaviour':<40} {'wanted':>6} {'got':>6} {'recall':>7} {'done':>6} {'REQs':>5} {'conn':>4}  reported"]
    for row in rows:
        done = "-" if row.seconds is None else f"{row.seconds:.0f} s"
        gaps = ", ".join(f"{reason} {count}" for reason, count in row.gaps.items()) or "-"
        beyond = f" ({row.beyond} wanted ones are given to nobody)" if row.beyond else ""
        lines.append(
            f"{row.name:<40} {row.wanted:>6} {row.got:>6} {row.recall:>7.4f} {done:>6} {row.pages:>5} "
            f"{row.connections:>4}  {'' if row.is_good else 'BAD '}{gaps}{beyond}{row.fault and f'; {row.fault}'}"
        )
    return "\n".join(lines)
