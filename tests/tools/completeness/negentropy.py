"""What comparing sets (NIP-77) saves: the last days of a relay that has hardly anything new, compared and paged."""

import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

from pipeline.process.clock import SystemClock
from pipeline.relay.limits import RelayLimits
from pipeline.store import events, relay_status, relays, wanted_authors
from pipeline.store.authors import Authors
from pipeline.store.events import Accepted
from pipeline.store.schema import open_database
from tests.factories.events import Author, SignedEvent, authors
from tests.fakes.independent_relay import IndependentRelay
from tests.fakes.net import pause
from tests.fakes.proxy import CountingProxy
from tests.fakes.service import EventService
from tests.tools.completeness.independent import have
from tests.tools.completeness.run import environment

AUTHORS = 200
SPAN_S = 70 * 3600
_RESWEEP_EVERY_S = 4
_LOOK_EVERY_S = 0.05
_SWEPT = "SELECT count(*) FROM cursors WHERE query = 'resweep:authors/'"


@dataclass(frozen=True, slots=True)
class ReconciliationSavings:
    """Bytes that one resweep moved, both ways, compared and paged; `missing` events that only the relay had."""

    common: int
    missing: int
    compared_bytes: int
    compared_s: float
    compared_got: int
    paged_bytes: int
    paged_s: float
    paged_got: int

    def text(self) -> str:
        """Lines for a reader."""
        return "\n".join(
            (
                f"{self.common:,} common events, {self.missing:,} missing",
                f"  compared: {self.compared_bytes:>12,} bytes, {self.compared_s:5.1f} s, {self.compared_got} got",
                f"  paged:    {self.paged_bytes:>12,} bytes, {self.paged_s:5.1f} s, {self.paged_got} got",
                f"  {self.paged_bytes / max(self.compared_bytes, 1):.0f} times less",
            )
        )

    @property
    def is_good(self) -> bool:
        """Whether both ways brought everything."""
        return self.compared_got == self.paged_got == self.missing


def run(seed: int, timeout_s: float, *, common: int = 100_000, missing: int = 100) -> ReconciliationSavings:
    """Measure both against the same independent relay."""
    people = authors(seed, AUTHORS)
    newest = int(time()) - 3600
    step = SPAN_S / (common + missing)
    made = [people[n % AUTHORS].sign(str(n), created_at=newest - int(n * step)) for n in range(common + missing)]
    every = len(made) // missing
    lacking = made[every // 2 :: every][:missing]
    lacked = {event.id for event in lacking}
    known = [event for event in made if event.id not in lacked]
    with tempfile.TemporaryDirectory(prefix="event-service-completeness-") as name:
        scratch = Path(name)
        with IndependentRelay(max_reqs=1_000_000, lmdb=scratch / "lmdb") as relay:
            assert relay.load(made) == len(made)
            compared = _resweep(scratch / "compared", relay, people, known, lacked, timeout_s, compares=True)
            paged = _resweep(scratch / "paged", relay, people, known, lacked, timeout_s, compares=False)
    return ReconciliationSavings(len(known), missing, *compared, *paged)


def _resweep(
    directory: Path, relay: IndependentRelay, people: Sequence[Author], known: Sequence[SignedEvent],
    lacked: set[str], timeout_s: float, *, compares: bool,
) -> tuple[int, float, int]:  # fmt: skip
    """Bytes, seconds and the number of lacked events that the first resweep brought."""
    with CountingProxy(relay.address, relay.port) as proxy:
        settings = environment([proxy.url]) | {
            "EVENTS_BACKFILL": "60s", "EVENTS_NEW_AUTHOR_LOOKBACK": "60s", "EVENTS_RESWEEP_WINDOW": "72h",
            "EVENTS_RESWEEP_EVERY": f"{_RESWEEP_EVERY_S}s", "EVENTS_LOG_LEVEL": "ERROR", "EVENTS_CRAWLERS": "1",
        }  # fmt: skip
        service = EventService.stage("crawler", directory, settings)
        _remember(service.database, people, known, proxy.url, compares=compares)
        with service:
            began = monotonic()
            while monotonic() < began + timeout_s and not _count(service.database):
                pause(_LOOK_EVERY_S)
            return proxy.sent + proxy.received, monotonic() - began - _RESWEEP_EVERY_S, len(lacked & have(service))


def _count(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as rows:
        return int(rows.execute(_SWEPT).fetchone()[0])


def _remember(path: Path, people: Sequence[Author], known: Sequence[SignedEvent], url: str, *, compares: bool) -> None:
    """Everybody wanted, and what other relays gave accepted long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    now = round(time() * 1000)
    numbers = Authors()
    with open_database(path, SystemClock()) as database, database.write() as tx:
        of = {author.pubkey: numbers.intern(tx, bytes.fromhex(author.pubkey)) for author in people}
        wanted_authors.acquire(tx, of.values(), now)
        rows = (
            Accepted(n, bytes.fromhex(each.id), each.created_at, each.kind, of[each.pubkey], b"", 1, now, 0)
            for n, each in enumerate(known)
        )
        events.accept(tx, rows, now)
        relays.set_bootstrap(tx, [url], now)
        relay = relays.find(tx, url)
        assert relay is not None
        if not compares:
            relay_status.put_limits(tx, relay, RelayLimits(negentropy_failed_at=now // 1000).to_json())
