"""When one relay's sweeps were begun last, and before when they may not begin again. Pure; times are monotonic seconds.

By the key of a sweep or of its query. A sweep that nothing can complete is *hopeless* until another member is wanted.
"""

from pipeline.crawl.sync.sweep import Purpose, Sweep

_FROM_CURSOR = frozenset({Purpose.TAIL, Purpose.INITIAL})


class SweepTimes:
    """The times of one relay's sweeps, over all its connections."""

    __slots__ = ("_hopeless", "_not_before", "_swept", "demands")

    def __init__(self) -> None:
        self.demands = 0
        """How often it was demanded that something be swept as soon as may be."""
        # By query, when it was last swept from its cursor on.
        self._swept: dict[str, float] = {}
        # By sweep: until when it may not begin.
        self._not_before: dict[str, float] = {}
        # By sweep, the newest change among the members of one that nothing could complete.
        self._hopeless: dict[str, int] = {}

    def on_begun(self, sweep: Sweep, mono: float) -> None:
        """Note that a sweep begins."""
        if sweep.purpose in _FROM_CURSOR:
            self._swept[sweep.query.key] = mono

    def on_complete(self, key: str) -> None:
        """Note that the sweep of this key came to its end: it may begin again whenever it is due."""
        self._not_before.pop(key, None)
        self._hopeless.pop(key, None)

    def on_incomplete(self, sweep: Sweep, until: float) -> None:
        """Note that nothing can complete a sweep; it waits until a time unless it is about a new member."""
        self.wait(sweep.key, until)
        self._hopeless[sweep.key] = sweep.query.generation

    def must_wait(self, key: str, generation: int, mono: float) -> bool:
        """Return True if a sweep of this generation of its query may not begin now."""
        is_old = self._hopeless.get(key, generation) == generation
        return is_old and self.not_before(key) > mono

    def is_hopeless(self, key: str, generation: int) -> bool:
        """Return True if a sweep of this generation could not be completed the last time."""
        return self._hopeless.get(key) == generation

    def last_swept(self, query: str) -> float | None:
        """Return when a query was last begun to be swept from its cursor on."""
        return self._swept.get(query)

    def swept(self, query: str, mono: float) -> None:
        """Count a query as swept from its cursor on."""
        self._swept[query] = mono

    def sweep_again(self, query: str) -> None:
        """Sweep a query from its cursor on as soon as may be."""
        self.demands += 1
        self._swept.pop(query, None)

    def sweep_all_again(self) -> None:
        """Sweep every query from its cursor on as soon as may be."""
        self.demands += 1
        self._swept.clear()

    def wait(self, key: str, until: float) -> None:
        """Let a sweep not begin before a time."""
        self._not_before[key] = until

    def waits(self, key: str) -> bool:
        """Return True if a sweep failed the last time and was put off."""
        return key in self._not_before

    def not_before(self, key: str) -> float:
        """Return the time from which on a sweep may begin."""
        return self._not_before.get(key, 0.0)

    def due_after(self, mono: float) -> list[float]:
        """Return when those may begin that may not yet."""
        return [at for at in self._not_before.values() if at > mono]
