"""Whether a relay returns the second that `since` names, and the one that `until` names. Pure.

NIP-01 includes both; some relays leave out one or both. It shows on a slice at whose border an event was seen before,
unless a cap cut off that end of its page. While the event is missing the slice is asked for again under the next of
these presumptions; the first that brings it back is kept, and when none does, the event is gone or hidden:

| the page lacks the event at | presumed in turn |
|---|---|
| `until` | `until` is left out; as before |
| `since` | `since` is left out; as before |
| both, as with a single second | `until`; `since`; both; as before |
"""

from dataclasses import replace

from pipeline.crawl.sync.paging.slices import Manners, PageResult, Slice

# Whether `since` is left out, and whether `until` is.
_Exclusion = tuple[bool, bool]


class Borders:
    """What is known of one relay's borders, and how a slice is asked for accordingly."""

    __slots__ = ("_before", "_left", "_on_trial", "excludes_since", "excludes_until", "includes_since")

    def __init__(self, manners: Manners) -> None:
        self.excludes_until = manners.excludes_until
        self.excludes_since = manners.excludes_since
        self.includes_since = manners.includes_since
        # The slice that is asked for again, the presumptions not tried yet, and what was known before.
        self._on_trial: tuple[int, int] | None = None
        self._left: list[_Exclusion] = []
        self._before: _Exclusion = (False, False)

    @property
    def knows_since(self) -> bool:
        """Whether it was seen how the relay reads `since`."""
        return self.excludes_since or self.includes_since

    def span(self, part: Slice) -> tuple[int, int]:
        """Return the `since` and `until` to ask for a slice with."""
        return max(0, part.low - self.excludes_since), part.high + self.excludes_until

    def asked_again(self, part: Slice, result: PageResult, *, is_whole: bool, falls: bool) -> Slice | None:
        """Return the slice to ask for again, if its page shows that a border was misread.

        `is_whole`: no cap cut the page off; `falls`: if one did, then not at its newest end.
        """
        if self._on_trial != (part.low, part.high):
            self._on_trial = None
        self._see_included(part, result)
        seen = set(result.within(part.low, part.high))
        lacks_until = part.ends and part.high not in seen and (is_whole or falls)
        lacks_since = part.begins and part.low not in seen and is_whole
        if not (lacks_until or lacks_since):
            self.includes_since |= part.begins and part.low in seen and not self.excludes_since
            self._on_trial = None
            return self._beside(part, result)
        return self._try_next(part, lacks_since=lacks_since, lacks_until=lacks_until)

    def _beside(self, part: Slice, result: PageResult) -> Slice | None:
        """Ask again where a page is full of the extra second, which this relay does not leave out after all."""
        is_beside = result.oldest is not None and result.oldest > part.high
        return replace(part, ends=False) if is_beside else None

    def _try_next(self, part: Slice, *, lacks_since: bool, lacks_until: bool) -> Slice | None:
        """Ask again by the next presumption; by none once all were tried."""
        was_tried = self._on_trial is not None
        if not was_tried:
            self._begin(part, lacks_since=lacks_since, lacks_until=lacks_until)
        if self._left:
            self.excludes_since, self.excludes_until = self._left.pop(0)
            return part
        self._on_trial = None
        self.excludes_since, self.excludes_until = self._before
        return replace(part, begins=False, ends=False) if was_tried else None

    def _see_included(self, part: Slice, result: PageResult) -> None:
        """The second named came back, though it was thought to be left out."""
        since, until = self.span(part)
        if self.excludes_until and until in (*result.times, result.newest):
            self.excludes_until = False
        if self.excludes_since and since in (*result.times, result.oldest):
            self.excludes_since, self.includes_since = False, True

    def _begin(self, part: Slice, *, lacks_since: bool, lacks_until: bool) -> None:
        since, until = self._before = (self.excludes_since, self.excludes_until)
        presumed: list[_Exclusion] = []
        if lacks_until:
            presumed.append((since, True))
        if lacks_since:
            presumed.append((True, until))
        if lacks_since and lacks_until:
            presumed.append((True, True))
        self._left = [each for each in presumed if each != self._before]
        self._on_trial = (part.low, part.high)
