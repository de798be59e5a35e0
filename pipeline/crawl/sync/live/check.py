"""Finds out whether one relay's live subscriptions bring what they should, by what its sweeps bring. No I/O, no clock.

A sweep that is complete while a query is subscribed to is its *baseline*: what a later tail sweep brings that was not
in it came to the relay since, and should have come live.

| an event of a tail sweep | then |
|---|---|
| was in the baseline, or is dated before it | it says nothing |
| came live | the query is *proven*, if the event is dated after the baseline |
| neither | it is doubtful, and missed if it does not come live within `GRACE_S` |

Without a proof the first tail sweeps follow each other soon, so that a relay that answers and then sends nothing is
found out within a minute. A quiet relay costs three of them, once in the life of the process. A relay that falls silent
later is swept once the silence is long for it (`silence.py`).
`mono` is monotonic seconds, `wall` Unix seconds.
"""

from dataclasses import dataclass
from typing import Final

from pipeline.crawl.sync.knowledge import RelayKnowledge
from pipeline.crawl.sync.live.silence import LiveSilence
from pipeline.crawl.sync.live.subscriptions import LiveSubscriptions
from pipeline.crawl.sync.live.trust import LiveTrust
from pipeline.crawl.sync.sweep import Purpose, Sweep
from pipeline.crawl.sync.sweeps import SweepSet
from pipeline.relay.limits import RelayLimits
from pipeline.relay.session import Session
from pipeline.relay.subscription import LIVE_PREFIX

GRACE_S: Final = 10.0
"""A relay may answer a page a moment before it sends the same event live."""
PROVE_AFTER_S: Final = (30.0, 60.0, 120.0)
"""How long after its last sweep a query is swept again for a proof, by how often that brought none."""
# An event may be dated so long before it comes; what is older is not judged.
_RECENT_S: Final = 60
# Ids of the baselines of one relay.
_MAX_IDS: Final = 4_096
# Two are enough to be sure.
_MAX_DOUBTFUL: Final = 64
_GOES_THROUGH_ALL: Final = frozenset({Purpose.TAIL, Purpose.INITIAL})


@dataclass(frozen=True, slots=True)
class _Baseline:
    """The last sweep of a query that was complete: when it began (Unix seconds) and ended (monotonic)."""

    started: int
    ended: float
    generation: int


class LiveCheck:
    """What sweeps of one relay show about its live subscriptions."""

    __slots__ = (
        "_baselines", "_doubtful", "_ids", "_known", "_live", "_lost_until", "_proven", "_silence", "_sweeps", "_tries",
        "_trust",
    )  # fmt: skip

    def __init__(self, known: RelayKnowledge, sweeps: SweepSet, live: LiveSubscriptions) -> None:
        self._known = known
        self._sweeps = sweeps
        self._live = live
        self._trust = LiveTrust()
        self._silence = LiveSilence()
        self._baselines: dict[str, _Baseline] = {}
        # What baselines brought, with its date; of what is dated until then some may be forgotten.
        self._ids: dict[bytes, int] = {}
        self._lost_until = 0
        # Since when (monotonic) events are waited for.
        self._doubtful: dict[bytes, float] = {}
        self._proven: set[str] = set()
        self._tries: dict[str, int] = {}

    def on_connected(self) -> None:
        """Forget what belongs to a former connection."""
        self._trust.on_connected()
        self._silence.on_connected()
        self._baselines.clear()
        self._ids.clear()
        self._doubtful.clear()
        self._lost_until = 0

    def on_arrival(
        self, event_id: bytes, created_at: int, subscription: str, session: Session, mono: float, wall: int
    ) -> None:
        """Take an event, whether it is known or new."""
        key = session.key_of(subscription)
        if key is None:
            return
        if subscription.startswith(LIVE_PREFIX):
            self._doubtful.pop(event_id, None)
            self._trust.on_live(event_id, created_at, wall)
            self._silence.on_live(mono)
            return
        sweep = self._sweeps.get(key)
        if sweep is None or sweep.purpose not in _GOES_THROUGH_ALL:
            return
        if sweep.purpose is Purpose.TAIL:
            self._judge(event_id, created_at, sweep, session, mono)
        if created_at > sweep.started - _RECENT_S:
            self._remember(event_id, created_at)

    def on_swept(self, sweep: Sweep, session: Session, mono: float) -> None:
        """A sweep was complete: it is the baseline of its query, if that is subscribed to."""
        if sweep.purpose not in _GOES_THROUGH_ALL:
            return
        key = sweep.query.key
        self._tries[key] = self._tries.get(key, 0) + (self._baselines.pop(key, None) is not None)
        answered_at = self._live.answered_at(key, session)
        # A reconciliation brings only what is not held already.
        if answered_at is not None and not sweep.is_unproven and not sweep.compares:
            self._baselines[key] = _Baseline(sweep.started, mono, sweep.query.generation)

    def proves_after(self, query: str) -> float | None:
        """Return how many seconds after its last sweep a query is to be swept for a proof; None if it is not."""
        tries = self._tries.get(query, 0)
        if query in self._proven or query not in self._baselines or tries >= len(PROVE_AFTER_S):
            return None
        return PROVE_AFTER_S[tries]

    def is_suspect(self, wall: int) -> bool:
        """Return True if something was missed a short time ago."""
        return self._trust.is_suspect(wall)

    def judged(self, limits: RelayLimits, mono: float, wall: int) -> RelayLimits:
        """Return how to ask from now on, by what was missed since the last call that changed it."""
        for event_id in [event_id for event_id, since in self._doubtful.items() if mono - since >= GRACE_S]:
            del self._doubtful[event_id]
            self._trust.on_missed(event_id, wall)
            self._silence.on_missed()
        return self._trust.judged(limits, wall)

    def sweep_long_silence(self, mono: float) -> None:
        """Sweep all that is live once nothing came for long."""
        if self._silence.take_long(mono):
            self._known.times.sweep_all_again()

    def due_times(self) -> list[float]:
        """When it shows whether events were missed, or nothing came for long (monotonic)."""
        return [self._silence.due_at, *(since + GRACE_S for since in self._doubtful.values())]

    def _judge(self, event_id: bytes, created_at: int, sweep: Sweep, session: Session, mono: float) -> None:
        query = sweep.query
        baseline = self._baselines.get(query.key)
        if self._known.limits.now.withholds:
            # Pages bring kinds of no list, too, which are not subscribed to there.
            return
        if baseline is None or baseline.generation != query.generation or event_id in self._ids:
            return
        answered_at = self._live.answered_at(query.key, session)
        if answered_at is None or answered_at > baseline.ended:
            return
        if self._trust.came(event_id):
            if created_at > baseline.started:
                self._proven.add(query.key)
            return
        is_remembered = created_at > self._lost_until and self._trust.remembers(created_at)
        if is_remembered and created_at > baseline.started - _RECENT_S and len(self._doubtful) < _MAX_DOUBTFUL:
            self._doubtful.setdefault(event_id, mono)

    def _remember(self, event_id: bytes, created_at: int) -> None:
        self._ids.pop(event_id, None)
        self._ids[event_id] = created_at
        if len(self._ids) > _MAX_IDS:
            self._lost_until = max(self._lost_until, self._ids.pop(next(iter(self._ids))))
