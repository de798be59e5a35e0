"""What the crawl of one relay counts."""

from collections import Counter
from dataclasses import dataclass, field, replace

from pipeline.crawl.sync.paging.slices import Gap


@dataclass(slots=True)
class SyncStats:
    """What happened since the crawl began."""

    pages: int = 0
    incomplete_pages: int = 0
    sweeps: int = 0
    dense_seconds: int = 0
    reconciliations: Counter[str] = field(default_factory=Counter)
    """Sweeps that were tried by comparing sets, by result."""
    needed: int = 0
    """Ids that reconciliations found only the relay to have."""
    compared_bytes: int = 0
    gap_reasons: Counter[Gap] = field(default_factory=Counter)

    @property
    def gaps(self) -> int:
        """How often something could not be had."""
        return self.gap_reasons.total()

    def copy(self) -> "SyncStats":
        """The counts as they are now."""
        return replace(self, gap_reasons=Counter(self.gap_reasons), reconciliations=Counter(self.reconciliations))
