"""Which state of the last tier of wanted authors each connection of a process asks for. Pure.

A crowd, or a few lists with thousands of invented keys, fills the last tier. Each growth changes all chunks of it, so
that every live request with one of them is sent again: up to two megabytes to each relay, several times a second, by
the one thread that reads from all of them. So the last tier is followed within a budget of bytes. The first change
acts at once, as the budget is full then; the changes of a storm are gathered. The tiers before it are not held up.

Connections ask for one of two states, so that no more are in memory. No connection goes back to the earlier one: what
a sweep completes is for the authors that were asked for.

| state | event | next |
|---|---|---|
| even: all ask for the current state | plan with another last tier, budget left | uneven: that one is current |
| even | plan with another last tier, no budget left | even, until there is |
| uneven: all wait at first, with the previous state | budget left | the next of them ask for the current state |
| uneven | plan with another last tier | uneven: the newest one is current after all have had their turn |
| uneven | the last one that waits has its turn, or begins | even |
| any | connection begins | it asks for the current state, and does not wait |
"""

from collections.abc import Callable, Iterable
from typing import Final

from pipeline.crawl.plan_turns import ROUNDS
from pipeline.crawl.sync.plan import Plan
from pipeline.crawl.sync.query import Query
from pipeline.process.rate import OverdraftBucket, Rate
from pipeline.relay.limits import BYTES_PER_MEMBER, RelayLimits

# A megabyte of live requests takes some 40 ms of the thread that reads from all relays, and as much of their own time.
BUDGET: Final = Rate(burst=2 << 20, per_minute=60 * (1 << 20))


class LastTierTurns:
    """The connections that ask for an older last tier than the newest. Times are monotonic seconds."""

    __slots__ = ("_budget", "_bytes", "_current", "_held", "_most", "_newest", "_previous", "_waiting")

    def __init__(self) -> None:
        self._budget = OverdraftBucket(BUDGET, 0.0)
        # The plans that the two states are of; the same one while all are even.
        self._current: Plan | None = None
        self._previous: Plan | None = None
        self._waiting: dict[int, None] = {}
        # How many may have their turn at once, and the bytes of what changed for them.
        self._most = self._bytes = 0
        # The plan that was looked at last, and what it is with the last tier of each state.
        self._newest: Plan | None = None
        self._held: dict[int, Plan] = {}

    def plan_for(self, relay: int, plan: Plan) -> Plan:
        """Return what the connection of a relay asks for of the newest `plan`."""
        state = self._previous if relay in self._waiting else self._current
        if state is None or state is plan:
            return plan
        if plan is not self._newest:
            self._newest, self._held = plan, {}
        held = self._held.get(id(state))
        if held is None:
            held = self._held[id(state)] = plan.with_last_tier_of(state)
        return held

    def begin(self, relay: int) -> None:
        """Let a relay whose connection begins, or has ended, ask for the current state."""
        self._waiting.pop(relay, None)
        self._settle()

    @property
    def is_uneven(self) -> bool:
        """Whether any connection waits for its turn to ask for the current state."""
        return bool(self._waiting)

    def take(self, plan: Plan, relays: Iterable[int], room: Callable[[int], int], mono: float) -> list[int]:
        """Return the relays whose turn it is, of all `relays` that are connected. `room`: see `live_bytes`."""
        if not self._waiting:
            if not self._advance(plan, mono):
                return []
            self._waiting = dict.fromkeys(relays)
            self._most = -(-len(self._waiting) // ROUNDS)
        taken: list[int] = []
        while self._waiting and len(taken) < self._most and self._budget.left(mono) > 0:
            relay = next(iter(self._waiting))
            del self._waiting[relay]
            self._budget.spend(min(self._bytes, room(relay)), mono)
            taken.append(relay)
        self._settle()
        return taken

    def _advance(self, plan: Plan, mono: float) -> bool:
        """Let the state of `plan` be current if it is another one, and there is budget left; return True if so."""
        before = self._current
        if before is None or before.last_tier == plan.last_tier:
            # Not kept alive longer than it must be.
            self._current = self._previous = plan
            return False
        if self._budget.left(mono) <= 0:
            return False
        self._previous, self._current = before, plan
        self._bytes = BYTES_PER_MEMBER * sum(len(query.members) for query in _changed(plan, before))
        return True

    def _settle(self) -> None:
        if not self._waiting:
            self._previous = self._current


def live_bytes(limits: RelayLimits) -> int:
    """Return how many bytes of live requests a relay takes that is asked by query."""
    return (limits.max_subscriptions - 1) * limits.max_frame_bytes


def _changed(plan: Plan, before: Plan) -> Iterable[Query]:
    """Yield the live queries of the last tier that were not the same before."""
    known = {query.key: query for query in before.last_tier}
    return (query for query in plan.last_tier if query.is_live and known.get(query.key) is not query)
