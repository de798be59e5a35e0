"""Whether `since` and `until` select their own second, as NIP-01 says, and whether they select at all."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.nostr.event import Event
from pipeline.probe.exchange import Reply, req
from pipeline.probe.known import Known, Steps
from pipeline.probe.observation import Observation, refused, unknown

_LIMIT: Final = 500
BORDERS: Final = ("since", "until")


@dataclass(frozen=True, slots=True)
class TimeBorders:
    """`since` and `until` at the second of an event: with its author and kind, or alone (`by` "everything")."""

    by: str

    @property
    def names(self) -> tuple[str, ...]:
        """One line for each."""
        return tuple(f"border.{border}_{self.by}" for border in BORDERS)

    def ask(self, known: Known) -> Steps:
        """Ask at the event's second and a second off it."""
        if self.by == "everything" and not known.is_sample_kindless:
            return [unknown(name, "a filter without conditions brings nothing") for name in self.names]
        control = self._control(known)
        if control is None:
            return [unknown(name, "no event to check with") for name in self.names]
        found = []
        for border, off in zip(BORDERS, (1, -1), strict=True):
            name = f"border.{border}_{self.by}"
            at = yield req(known.new_id(), self._filter(control, border, 0))
            beyond = yield req(known.new_id(), self._filter(control, border, off))
            found.append(_observed(name, control, at, beyond))
        return found

    def _control(self, known: Known) -> Event | None:
        """Return the newest of its author and kind, so that it is the first of any page; or the newest of all.

        The other conditions may bring events from others only beyond it.
        """
        controls = known.controls()
        if self.by == "everything":
            return _alone_in_window(known)
        counts = Counter((each.pubkey, each.kind) for each in controls)
        return min(controls, key=lambda each: counts[each.pubkey, each.kind], default=None)

    def _filter(self, control: Event, border: str, off: int) -> Mapping[str, Any]:
        chosen: dict[str, Any] = {border: control.created_at + off, "limit": _LIMIT}
        if self.by != "everything":
            return {"authors": [control.pubkey.hex()], "kinds": [control.kind], **chosen}
        # A window of some seconds on the other side, so that the event is on any page.
        other, width = ("until", 2) if border == "since" else ("since", -2)
        return {**chosen, other: control.created_at + width}


def _alone_in_window(known: Known) -> Event | None:
    """Return an event with few neighbours in time."""
    times = Counter(each.created_at // 4 for each in known.pool.values())
    return min(known.controls(), key=lambda each: (times[each.created_at // 4], -each.created_at), default=None)


def _observed(name: str, control: Event, at: Reply, beyond: Reply) -> Observation:
    if control.id in beyond.ids:
        return Observation(name, "ignored")
    if control.id in at.ids:
        return Observation(name, "inclusive")
    if at.complaint is not None:
        return refused(name, at)
    if not at.is_answered:
        return unknown(name, at.manner)
    return Observation(name, "exclusive")
