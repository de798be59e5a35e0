"""Relays of a trial that are away for a while or quiet, and how soon the service is back and has their events."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from statistics import median
from time import monotonic

from tests.fakes.net import pause
from tests.tools.completeness.foreign.subject import Subject

_LOOK_EVERY_S = 0.1
_BACK_TIMEOUT_S = 180.0


def be_away(subjects: Sequence[Subject], seconds: float) -> tuple[float, list[float]]:
    """Kill all relays and keep the service from them for so long, while they run again and events arrive.

    Returns when they could be reached again (monotonic), and after how many seconds each was asked for something.
    """
    with ExitStack() as stack:
        for subject in subjects:
            stack.enter_context(subject.proxy.cut())
        began = monotonic()
        for subject in subjects:
            subject.revive()
            subject.restart()
        pause(began + seconds - monotonic())
        asked = [_requests(subject) for subject in subjects]
    returned_at = monotonic()
    back: dict[int, float] = {}
    while len(back) < len(subjects) and monotonic() < returned_at + _BACK_TIMEOUT_S:
        for number, subject in enumerate(subjects):
            if number not in back and _requests(subject) > asked[number]:
                back[number] = monotonic() - returned_at
        pause(_LOOK_EVERY_S)
    return returned_at, [back.get(number, _BACK_TIMEOUT_S) for number in range(len(subjects))]


def _requests(subject: Subject) -> int:
    return subject.proxy.traffic.messages["REQ"]


class Lateness:
    """How long after they were given to a relay events are with the service; seen to a tenth of a second."""

    def __init__(self, have: Callable[[], set[str]]) -> None:
        self._have = have
        self._given_at: dict[str, float] = {}
        self._late: dict[str, float] = {}

    def on_given(self, event_id: str) -> None:
        """Note that a relay is given an event now; in any thread."""
        self._given_at[event_id] = monotonic()

    def look(self) -> None:
        """Note what the service has by now."""
        now, waiting = monotonic(), self._given_at.keys() - self._late.keys()
        self._late |= {event_id: now - self._given_at[event_id] for event_id in waiting & self._have()}

    def text(self, due: Collection[str]) -> str:
        """The median and the longest of those that were due."""
        late = [self._late[event_id] for event_id in due if event_id in self._late]
        return f"late: median {median(late):.1f} s, longest {max(late):.1f} s" if late else "none came"
