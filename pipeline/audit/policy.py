"""How an audit is done by the settings of the service."""

import math
from typing import Final

from pipeline.audit.audit import AuditPolicy
from pipeline.audit.client import AskPolicy
from pipeline.audit.judge import CrawlReach
from pipeline.nostr.frame_bounds import FrameBounds
from pipeline.relay.dial import DialPolicy
from pipeline.relay.secret_key import read_secret_key
from pipeline.rules.acceptance import EventLimits
from pipeline.settings.choices import RetractedEvents
from pipeline.settings.config import Config
from pipeline.store.relay_records import RelayRecord
from pipeline.store.relay_status import RelayState
from pipeline.store.relays import OperatorOverride

USER_AGENT: Final = "event-service"
SETTLE_S: Final = 60.0
"""Live events arrive within a second, and those of relays that are polled within a minute."""
RATE: Final = 2.0
"""Requests a second to one relay."""


def policy_of(
    config: Config, *, rate: float = RATE, settle_s: float = SETTLE_S, fetches: bool = True, relay_s: float = math.inf
) -> AuditPolicy:  # fmt: skip
    """Return the policy for the settings: relays are dialled, and events are bounded, as by the crawl."""
    dial = DialPolicy(
        allow_private=config.allow_private_relays, user_agent=USER_AGENT, socks_proxy=config.socks_proxy,
        own=config.listen_address,
    )  # fmt: skip
    return AuditPolicy(
        AskPolicy(
            dial, rate, read_secret_key(config.secret_key_path),
            FrameBounds(config.max_event_bytes, config.max_event_tags), relay_s,
        ),
        EventLimits(config.max_event_bytes, config.max_event_tags),
        CrawlReach(config.backfill // 1000, config.new_author_lookback // 1000),
        settle_s, fetches, config.retracted is RetractedEvents.SUPPRESS,
    )  # fmt: skip


def is_auditable(record: RelayRecord) -> bool:
    """Return True for a relay that the crawl has been connected to, and that the operator has not removed."""
    is_connected = record.state in (RelayState.CONNECTED, RelayState.BACKPRESSURED)
    was_connected = is_connected or record.connected_ms > 0
    return record.crawled_since is not None and was_connected and record.operator is not OperatorOverride.REMOVED
