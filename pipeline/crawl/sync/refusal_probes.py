"""When a relay that refused pages for good is asked for them again. No I/O, no clock.

A relay may relent: it admits us, or its policy changes. Still no page is asked for twice in the same form within a day
of a lasting end. In between a *probe*, for one event about one member, finds out whether the relay answers now.

| a sweep | event | then |
|---|---|---|
| asked | a page is refused for good | it waits for a day; a probe is due after `PROBE_EVERY_S` |
| waits | its page has a form that was not refused | it is asked at once |
| waits | its probe is answered | it is asked at once; the first probes of others that wait are due |
| waits | its probe is not answered | the next probe is due after the same time |
| asked again | refused for good once more | it waits; its next probe is due after twice the time, at most a day |
| asked again | a page is answered | its refusals are forgotten |

The form of a page is everything but its time. `mono` is monotonic seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.crawl.sync.sweep import Sweep
from pipeline.crawl.sync.timing import FINAL_RETRY_S, PROBE_EVERY_S
from pipeline.nostr.filter import Filter
from pipeline.relay.refusals import RelayRefusal
from pipeline.relay.session import Session
from pipeline.relay.subscription import PageEnded

# Between two probes of which the first was not answered.
PAUSE_S: Final = 5.0
_FIRST: Final = 1


@dataclass(slots=True)
class _Refused:
    sweep: Sweep
    due_at: float
    wait_s: float = PROBE_EVERY_S
    has_relented: bool = False
    """Whether a probe was answered since."""
    forms: set[Filter] = field(default_factory=set)


class RefusalProbes:
    """The sweeps of one relay that were refused for good, over all its connections."""

    KEY: Final = "probe"

    __slots__ = ("_open", "_paused_until", "_refused")

    def __init__(self) -> None:
        self._refused: dict[str, _Refused] = {}
        # The sweep whose probe is open.
        self._open: str | None = None
        self._paused_until = 0.0

    def on_refused(self, sweep: Sweep, refusal: RelayRefusal, mono: float) -> None:
        """Note that the page of `sweep` was refused for good."""
        if refusal is RelayRefusal.FORBIDDEN:
            # Who was told so after AUTH asks no more (NIP-42).
            self._refused.pop(sweep.key, None)
            return
        refused = self._refused.get(sweep.key)
        if refused is None:
            refused = self._refused[sweep.key] = _Refused(sweep, mono + PROBE_EVERY_S)
        elif refused.has_relented:
            refused.wait_s = min(2 * refused.wait_s, FINAL_RETRY_S)
            refused.due_at = mono + refused.wait_s
        refused.sweep, refused.has_relented = sweep, False
        refused.forms.add(_form(sweep))

    def on_answered(self, sweep: Sweep) -> None:
        """Note that the page of `sweep` was answered."""
        self._refused.pop(sweep.key, None)

    def on_connected(self) -> None:
        """A new connection stands: what was open is asked for again."""
        self._open = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the sweeps that were refused."""
        return tuple(self._refused)

    def knows(self, sweep: Sweep) -> bool:
        """Return True if this very sweep was refused, rather than one whose place it took."""
        return self._refused[sweep.key].sweep is sweep

    def asks_otherwise(self, sweep: Sweep) -> bool:
        """Return True if the next page of `sweep` has a form that was not refused, or there is none."""
        refused = self._refused[sweep.key]
        refused.sweep = sweep
        return not sweep.window.has_page or _form(sweep) not in refused.forms

    def forget(self, key: str) -> None:
        """Note that the sweep of this key is over."""
        del self._refused[key]

    def open_next(self, session: Session, mono: float) -> None:
        """Ask for the probe that is due, if there is room."""
        if self._open is not None or not session.has_room_for_page():
            return
        key, refused = min(self._with_page(), key=lambda item: item[1].due_at, default=("", None))
        if refused is None or mono < max(refused.due_at, self._paused_until):
            return
        self._open = key
        session.open_page(self.KEY, _small(refused.sweep.window.page()), mono)

    def on_page_ended(self, ended: PageEnded, mono: float) -> None:
        """Take the answer."""
        refused, self._open = self._refused.get(self._open or ""), None
        if refused is None:
            return
        if ended.refusal is not None:
            refused.due_at, self._paused_until = mono + refused.wait_s, mono + PAUSE_S
            return
        refused.due_at, refused.has_relented = mono + FINAL_RETRY_S, True
        refused.sweep.not_before = mono
        for other in self._refused.values():
            if not other.has_relented and other.wait_s == PROBE_EVERY_S:
                other.due_at = min(other.due_at, mono)

    def due_times(self) -> Iterator[float]:
        """When the next probe is due (monotonic)."""
        due = min((refused.due_at for _, refused in self._with_page()), default=None)
        if due is not None and self._open is None:
            yield max(self._paused_until, due)

    def _with_page(self) -> Iterator[tuple[str, _Refused]]:
        return ((key, refused) for key, refused in self._refused.items() if refused.sweep.window.has_page)


def _form(sweep: Sweep) -> Filter:
    return replace(sweep.window.page(), since=None, until=None)


def _small(page: Filter) -> Filter:
    """Return `page` for one event about its first member."""
    return replace(
        page,
        authors=None if page.authors is None else frozenset(sorted(page.authors)[:_FIRST]),
        tags=tuple((name, frozenset(sorted(values)[:_FIRST])) for name, values in page.tags),
        limit=1,
        last=(),
    )
