"""Which series of crawling hosts home shows, so that each series is shown by one host alone.

| series | crawling host | home |
|---|---|---|
| `RELAYED`: of relays and of the crawl, counted by its processes | withholds it | shows it with `host` |
| `OF_DATABASE`: read from its database, of relays and of the plan | withholds it | shows its own copy, of all hosts |
| all else: processes, stages, queues, locks | shows it | shows its own |
| `event_service_host_...` | has none | shows it with `host` |

A sum over all that Prometheus scraped is therefore right, whether it scrapes home alone or every host.
"""

from typing import Final

COUNTERS: Final = (
    "received_events_counter",
    "relay_connection_received_messages_counter",
    "relay_connection_disconnections_counter",
    "relay_connection_reconnections_counter",
    "notice_type",
    "event_service_crawl_gaps",
    "event_service_crawl_pages",
    "event_service_crawl_dense_seconds",
    "event_service_crawl_reconciliations",
    "event_service_crawl_needed_ids",
    "event_service_crawl_reconciliation_bytes",
    "event_service_dial_failures",
)
"""Names of families, as the client names them: without `_total`."""
GAUGES: Final = (
    "relay_downloader_gauge",
    "event_service_crawl_seconds_behind",
    "event_service_crawl_relay_seconds_behind",
    "event_service_crawl_relays_behind",
    "event_service_queries_without_subscription",
    "event_service_crawl_live_missed_relays",
    "event_service_firehose_relays",
    "event_service_crawl_auth_relays",
    "event_service_relays_skipped",
    "event_service_dials_waiting",
)
RELAYED: Final = frozenset((*COUNTERS, *GAUGES))
OF_DATABASE: Final = frozenset({
    "relay_connection_state_gauge",
    "relay_connection_subscriptions_gauge",
    "relay_rate_limit_backoff_ms_gauge",
    "stored_relay_addresses_gauge",
    "event_service_relay_first_seen_events",
    "event_service_open_gaps",
    "event_service_registered_users",
    "event_service_wanted_authors",
    "event_service_waiting_followees",
})  # fmt: skip
WITHHELD: Final = RELAYED | OF_DATABASE
"""What a crawling host does not show."""
