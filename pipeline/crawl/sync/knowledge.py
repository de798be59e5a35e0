"""What is known of one relay, over all its connections: each part has its one owner here. No I/O, no clock."""

from dataclasses import dataclass, field

from pipeline.crawl.sync.cursors import CursorTable
from pipeline.crawl.sync.forms.forms import FormKnowledge
from pipeline.crawl.sync.query import Query
from pipeline.crawl.sync.quirks import RelayQuirks
from pipeline.crawl.sync.sweep import Purpose, sweep_key
from pipeline.crawl.sync.sweep_gaps import SweepGaps
from pipeline.crawl.sync.sweep_times import SweepTimes
from pipeline.crawl.sync.timing import Horizon
from pipeline.relay.learned_limits import LearnedLimits


@dataclass(slots=True)
class RelayKnowledge:
    """Shared by all that decides about one relay."""

    cursors: CursorTable
    """How far its answers are complete, by query."""
    horizon: Horizon
    """How far back it is asked."""
    limits: LearnedLimits
    """What it allows; its session teaches it too."""
    gaps: SweepGaps
    """What its sweeps could not have."""
    quirks: RelayQuirks = field(default_factory=RelayQuirks)
    """How it answers pages."""
    forms: FormKnowledge = field(default_factory=FormKnowledge)
    """Which forms of filters it answers with holes."""
    times: SweepTimes = field(default_factory=SweepTimes)
    """When its sweeps began last, and when they may begin again."""

    def last_resweep(self, query: Query) -> int:
        """When (Unix seconds) what is late was last looked for; the first crawl counts as such."""
        resweep = self.cursors.get(sweep_key(Purpose.RESWEEP, query))
        return self.horizon.crawled_since if resweep is None else resweep.complete_until
