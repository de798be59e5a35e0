"""What all connections of a crawler process share."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.crawl.gate import Backpressure
from pipeline.crawl.hand_over import Parcel
from pipeline.crawl.intake import Intake
from pipeline.process.clock import Clock
from pipeline.process.logs import RateLimited


@dataclass(frozen=True, slots=True)
class Shared:
    """`secret`: the key to authenticate with (NIP-42), if any; `parcel` is for the reactor's thread alone.

    `on_turn` is called by the reactor's thread at every turn.
    """

    clock: Clock
    intake: Intake
    parcel: Parcel
    gate: Backpressure
    log: RateLimited
    secret: bytes | None = None
    on_turn: Callable[[], None] = lambda: None
