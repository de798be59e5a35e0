"""What all connections of a crawler process share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.crawl.fence import Fence
from pipeline.crawl.flow_control import Backpressure, TransactionBatcher
from pipeline.crawl.ingester import Ingester
from pipeline.crawl.sync.late_pace import LatePace
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimitedLogger
from pipeline.process.stage_times import Waiting, uncounted


@dataclass(frozen=True, slots=True)
class CrawlContext:
    """`bounds`: no frame beyond them is parsed; `secret`: the key to authenticate with (NIP-42), if any.

    `batcher` is for the reactor's thread alone. `on_turn` is called by that thread at every turn.
    `waiting` counts what that thread waits for. `stranger_byte_rate`: see `RelayCosts`. `late_pace` is followed by all
    relays and adapted by that thread. `fence`: None where relays may be asked at all times.
    """

    clock: Clock
    ingester: Ingester
    batcher: TransactionBatcher
    backpressure: Backpressure
    log: RateLimitedLogger
    bounds: FrameBounds
    secret: bytes | None = None
    on_turn: Callable[[], None] = lambda: None
    stranger_byte_rate: Callable[[], int] = lambda: 0
    late_pace: LatePace = field(default_factory=LatePace)
    waiting: Waiting = uncounted
    fence: Fence | None = None

    def may_ask(self, host_key: str) -> bool:
        """Return True if the relays of a host may be asked now; safe in every thread."""
        return self.fence is None or self.fence.permits(host_key)
