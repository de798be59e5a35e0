"""Relays that say nothing for minutes, and then bring an event live: it must come within moments, not by a poll.

Each brings a few events at first, so that what it does with live requests can show.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import time
from typing import Final

from tests.factories.events import SignedEvent
from tests.fakes.net import pause
from tests.fakes.relay import ScriptedRelay
from tests.tools.completeness.behaviours import BehaviourMatrix, Case
from tests.tools.completeness.run import Peer, Run
from tests.tools.completeness.world import World

_CASES: Final = (
    "honest", "live-without-eose", "zero-refused", "zero-notice", "zero-closed", "zero-eose", "zero-silent",
    "deaf-at-first", "adds-requests", "subs-one",
)  # fmt: skip
# Less than the shortest poll (30 s), and room for a machine that is busy.
WITHIN_S: Final = 20.0
# With one place nothing can be live beside pages. That nothing follows an EOSE shows by what sweeps bring, in a minute.
_SHOWN_LATE: Final = frozenset({"quiet-subs-one", "quiet-zero-eose"})
SHOWN_WITHIN_S: Final = 90.0
_STEPS, _STEP_S = 6, 1.0


@dataclass(slots=True)
class Silences:
    """The relays, and what came to each after the silence."""

    world: World
    peers: Sequence[Peer] = field(init=False)
    _last: dict[str, list[SignedEvent]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        matrix = BehaviourMatrix()
        self.peers = [_peer(f"quiet-{name}", matrix.cases[name]) for name in _CASES]

    def begin(self) -> None:
        """Bring some events live."""
        for _ in range(_STEPS):
            self._publish(1)
            pause(_STEP_S)

    def end(self) -> None:
        """Bring some more; these are looked at."""
        for peer, events in self._publish(3):
            self._last[peer.name] = events

    def fault(self, run: Run, name: str) -> str:
        """What was wrong with the relay of this name; empty if nothing was, or it is none of these."""
        peer = next((each for each in self.peers if each.name == name), None)
        late = 0.0 if peer is None else run.longest_s(peer, self._last[name])
        bound = SHOWN_WITHIN_S if name in _SHOWN_LATE else WITHIN_S
        return f"live after {late:.0f} s" if late > bound else ""

    def _publish(self, count: int) -> list[tuple[Peer, list[SignedEvent]]]:
        made = []
        for peer in self.peers:
            author = self.world.wanted_author
            events = [self.world.event(int(time()), kind=1, author=author()) for _ in range(count)]
            peer.relay.publish(*events)
            peer.offer(self.world, events)
            made.append((peer, events))
        return made


def _peer(name: str, case: Case) -> Peer:
    return Peer(name, case, ScriptedRelay(case.behaviour))
