"""How much sooner a new user's followees are found where relays are asked first for those whose lists name them.

Many relays in simulated time, each with its own crawl as in the service: what has been wanted for long is had, then a
user is registered who follows some hundred others. A request takes as long everywhere.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.relay.limits import RelayLimits
from pipeline.settings.choices import CrawlMode
from pipeline.store.cursors import Cursor
from tests.simulation.simulation import RELAY, START, Simulation
from tests.support.plans import event
from tests.tools.bench.report import Figure, Limit
from tests.tools.network.world import Network

_SEED = 77
_RELAYS = 100
_KNOWN = 10_000
_NEW = 500
_EVENTS_EACH = 3
_LOST_COPY = 0.1
_DAY = 86_400
# Until the connection has settled, and until all that is new is had.
_SETTLED_S = 60.0
_DONE_S = 200.0
_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class _Found:
    """Over all relays: when each event came first, when each request was made (seconds after the registration)."""

    events: Sequence[float]
    requests: Sequence[float]

    @property
    def seconds(self) -> float:
        """Until so large a share of the events were there."""
        return sorted(self.events)[int(len(self.events) * _SHARE)]

    @property
    def asked(self) -> int:
        """Requests made until then."""
        return sum(at <= self.seconds for at in self.requests)


def figures(*, quick: bool) -> tuple[Figure, ...]:
    """With the order of lists beside that without; and how many requests it takes in all."""
    scale = 2 if quick else 1
    network = Network.make(
        _SEED, relays=_RELAYS // scale, people=(_KNOWN + _NEW) // scale, users=1, wanted=_KNOWN // scale
    )
    asked_by_lists, asked_by_chunks = (_found(network, follows_lists=follows) for follows in (True, False))
    before = "by chunk alone"
    return (
        Figure(f"{_SHARE:g} of new followees' events found after", asked_by_lists.seconds, "s",
               Limit(before, asked_by_chunks.seconds), "asked first where their lists say, 50 ms a request"),
        Figure("requests to all relays until then", asked_by_lists.asked, "", Limit(before, asked_by_chunks.asked)),
        Figure("requests until all relays were asked for all", len(asked_by_lists.requests), "",
               Limit(before, len(asked_by_chunks.requests))),
    )  # fmt: skip


def _found(network: Network, *, follows_lists: bool) -> _Found:
    rng = random.Random(_SEED)
    keys = [rng.randbytes(32) for _ in network.people]
    known, new = keys[: network.wanted], keys[network.wanted :]
    crawled = [_Relay(random.Random(_SEED)) for _ in range(network.relays)]
    for person in network.people[network.wanted :]:
        for number in range(_EVENTS_EACH):
            note = event(START - rng.randrange(_DAY - 3_600), keys[person.number], 1, number)
            kept = [relay for relay in person.relays if rng.random() >= _LOST_COPY] or person.relays[:1]
            for relay in kept:
                crawled[relay].relay.publish(note, 0)
    came: dict[bytes, float] = {}
    requests: list[float] = []
    for number, each in enumerate(crawled):
        here = {keys[person.number] for person in network.people if number in person.relays}
        each.live(known, new, here if follows_lists else ())
        requests += each.asked
        for event_id, at in each.came.items():
            came[event_id] = min(at, came.get(event_id, at))
    return _Found(list(came.values()), requests)


class _Relay(Simulation):
    """One of many, which notes when things happen, in seconds after the registration."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, limits=RelayLimits())
        self.came: dict[bytes, float] = {}
        self.asked: list[float] = []

    def live(self, known: Collection[bytes], new: Collection[bytes], named: Collection[bytes]) -> None:
        """All that there is to be seen of it."""
        self.ask(CrawlMode.QUERY)
        self.name(*named, writes=True)
        self.want(known)
        # It was had by a former process.
        self.cursors = {each.key: Cursor(RELAY, each.key, START, each.generation) for each in self.plan.queries}
        self.restart()
        self.connect()
        self.run_until(_SETTLED_S)
        self.came.clear()
        self.asked.clear()
        self.want(new)
        self.run_until(_DONE_S)

    def _turn(self) -> bool:
        before, requests = len(self.delivered), len(self.relay.requests)
        came = set(self.delivered)
        busy = super()._turn()
        at = self.mono - 100.0 - _SETTLED_S
        if len(self.delivered) > before:
            self.came |= dict.fromkeys(self.delivered - came, at)
        self.asked += [at] * (len(self.relay.requests) - requests)
        return busy

    def missing(self, cursor: Cursor) -> list[object]:  # type: ignore[override]
        """Tests hold that nothing is."""
        return []
