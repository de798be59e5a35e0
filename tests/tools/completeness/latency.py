"""From a relay's acceptance of an event to its row in the inbox, while many relays are busy."""

import random
import sqlite3
import statistics
import tempfile
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

from tests.factories.events import SignedEvent
from tests.fakes.net import pause
from tests.fakes.relay import ScriptedRelay
from tests.fakes.relay_journal import Req
from tests.fakes.service import EventService
from tests.tools.completeness.run import environment, register
from tests.tools.completeness.world import World

RELAYS = 20
RATE = 200
_SECONDS = 20
_TICK_S = 0.005
_RECEIVED = "SELECT lower(hex(event_id)), received_at FROM inbox"


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds; `missing` of `count` events never came."""

    count: int
    missing: int
    median: float
    p99: float
    longest: float

    def text(self) -> str:
        """A line for a reader."""
        return (
            f"{RELAYS} relays, {RATE} events/s in all: median {self.median:.1f} ms, 99 % {self.p99:.1f} ms, longest"
            f" {self.longest:.1f} ms, {self.missing} of {self.count} missing"
        )


def run(seed: int) -> Latency:
    """Only a crawler runs, so that rows stay in the inbox to be seen; its rows are watched as they appear."""
    world = World.make(seed, followees=0, strangers=0)
    events = [world.event(int(time()), kind=1, author=world.rng.choice(world.users)) for _ in range(RATE * _SECONDS)]
    with tempfile.TemporaryDirectory(prefix="event-service-completeness-") as scratch, ExitStack() as stack:
        relays = [stack.enter_context(ScriptedRelay()) for _ in range(RELAYS)]
        directory = Path(scratch)
        env = environment([relay.url for relay in relays])
        env |= {"EVENTS_CRAWLERS": "1", "EVENTS_RESWEEP_EVERY": "6h", "EVENTS_LOG_LEVEL": "ERROR"}
        service = EventService.stage("crawler", directory, env)
        register(service.database, world)
        stack.enter_context(service)
        for relay in relays:
            relay.wait_for_req(_is_live)
        pause(2.0)
        return _measure(service.database, relays, events, random.Random(seed))


def _is_live(req: Req) -> bool:
    return any(one.get("limit") == 0 and "authors" in one for one in req.filters)


def _measure(database: Path, relays: list[ScriptedRelay], events: list[SignedEvent], rng: random.Random) -> Latency:
    sent: dict[str, float] = {}
    came: dict[str, float] = {}
    last = 0
    began = monotonic()
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as rows:
        while monotonic() < began + _SECONDS + 5:
            due = int((monotonic() - began) * RATE)
            for event in events[len(sent) : due]:
                sent[event.id] = monotonic()
                rng.choice(relays).publish(event)
            new = rows.execute("SELECT seq, lower(hex(event_id)) FROM inbox WHERE seq > ?", (last,)).fetchall()
            now = monotonic()
            for seq, event_id in new:
                came[event_id] = now
                last = max(last, seq)
            if len(came) == len(events):
                break
            pause(_TICK_S)
    took = sorted(1000 * (came[each] - sent[each]) for each in sent if each in came)
    percentiles = statistics.quantiles(took, n=100)
    return Latency(len(events), len(events) - len(took), statistics.median(took), percentiles[98], took[-1])
