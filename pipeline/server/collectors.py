"""The gauges that are read from the database when they are asked for.

Pending deliveries, the topic `eventSaved`, is the outbox of the sink that is named first and that of the target relay,
as far as they are switched on: an event that both have to be given counts twice, as it takes two deliveries.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipeline.store.disk import DiskUse
from pipeline.store.gauges import QueueGauges, StoreGauges
from pipeline.store.relay_candidates import FIRST_SEEN_HALF_LIFE_MS
from pipeline.store.sinks import SinkName

TOPIC: Final = "eventSaved"
MAX_RELAYS: Final = 5_000
"""Relays with series of their own: more than are ever dialled at once, and some 2 MB of text."""


@dataclass(frozen=True, slots=True, eq=False)  # a registry keeps collectors by identity
class StoreCollector:
    """The gauges of the store, read at `now` (ms)."""

    gauges: StoreGauges
    sinks: Sequence[SinkName]
    disk: DiskUse
    now: int

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges, each family once."""
        yield from self._relays()
        yield from self._handing_on()
        yield from self._queues()
        yield _single("event_service_database_bytes", "Bytes of the database file", self.disk.database)
        yield _single("event_service_wal_bytes", "Bytes of the write-ahead log", self.disk.wal)
        yield _single("event_service_disk_free_bytes", "Free bytes on the disk of the database", self.disk.free)
        yield _single("event_service_disk_size_bytes", "Bytes of the disk of the database", self.disk.size)
        yield _single(
            "event_service_public_keys", "Public keys known, as authors or from contact lists", self.gauges.keys
        )
        yield _single("event_service_registered_users", "Registered users", self.gauges.registered_users)
        yield _single(
            "event_service_wanted_authors", "Registered users and followees in all", self.gauges.budget.authors
        )
        yield _single(
            "event_service_waiting_followees",
            "Followees that wait, since EVENTS_MAX_WANTED_AUTHORS is nearly reached",
            self.gauges.waiting.followees,
        )
        yield from self._audits()
        gaps = GaugeMetricFamily("event_service_open_gaps", "Open gaps of all relays", labels=("reason",))
        for reason, count in self.gauges.gaps.items():
            gaps.add_metric((reason,), count)
        yield gaps

    def _audits(self) -> Iterable[Metric]:
        audit = self.gauges.audit
        recall = math.nan if audit.recall is None else audit.recall
        yield GaugeMetricFamily(
            "event_service_audit_recall",
            "Share held of what relays had in the newest scheduled audit; NaN before it",
            value=recall,
        )
        yield CounterMetricFamily(
            "event_service_audit_missed_events", "Events that audits found missing", value=audit.all_missed
        )

    def _relays(self) -> Iterable[Metric]:
        state = GaugeMetricFamily(
            "relay_connection_state_gauge", "State of relay connections", labels=("address", "state")
        )
        subscriptions = GaugeMetricFamily(
            "relay_connection_subscriptions_gauge", "Open subscriptions", labels=("address",)
        )
        first_seen = GaugeMetricFamily(
            "event_service_relay_first_seen_events",
            "Events first seen here, strangers' in part, halved every three days",
            labels=("address",),
        )
        for relay in self.gauges.relays:
            state.add_metric((relay.address, relay.state.value), 1)
            subscriptions.add_metric((relay.address,), relay.subscriptions)
            age = max(0, self.now - relay.novel_at)
            first_seen.add_metric((relay.address,), relay.novel * 0.5 ** (age / FIRST_SEEN_HALF_LIFE_MS))
        target = self.gauges.target
        is_crawled = target is not None and any(relay.address == target.address for relay in self.gauges.relays)
        if target is not None and SinkName.RELAY in self.sinks and not is_crawled:
            state.add_metric((target.address, target.state.value), 1)
            subscriptions.add_metric((target.address,), 0)
        backoffs = self._backoffs()
        if target is not None and SinkName.RELAY in self.sinks:
            # The Go service never waits for it, and says so.
            backoffs.setdefault(_host(target.address), 0)
        backoff = GaugeMetricFamily(
            "relay_rate_limit_backoff_ms_gauge", "Rate limit backoff left, in milliseconds", labels=("address",)
        )
        for host, milliseconds in backoffs.items():
            backoff.add_metric((host,), milliseconds)
        addresses = _single("stored_relay_addresses_gauge", "Relay addresses known", self.gauges.known_addresses)
        return state, subscriptions, first_seen, backoff, addresses

    def _backoffs(self) -> dict[str, int]:
        """Return what is left now of each host's backoff."""
        left: dict[str, int] = {}
        for relay in self.gauges.relays:
            host = _host(relay.address)
            left[host] = max(left.get(host, 0), relay.state_since + relay.backoff - self.now)
        return {host: max(0, milliseconds) for host, milliseconds in left.items()}

    def _handing_on(self) -> Iterable[Metric]:
        counted = [sink for number, sink in enumerate(self.sinks) if number == 0 or sink == SinkName.RELAY]
        outboxes = [queue for queue in self.gauges.outboxes if queue.sink in counted]
        length = GaugeMetricFamily("subscription_queue_length", "Queue length", labels=("topic",))
        length.add_metric((TOPIC,), sum(outbox.waiting for outbox in outboxes))
        age = GaugeMetricFamily(
            "subscription_queue_oldest_message_age", "Age of the oldest message in seconds", labels=("topic",)
        )
        age.add_metric((TOPIC,), max((self._age_s(outbox) for outbox in outboxes), default=0.0))
        return length, age

    def _queues(self) -> Iterable[Metric]:
        label = ("queue",)
        length = GaugeMetricFamily("event_service_queue_length", "Pending rows, leased ones included", labels=label)
        age = GaugeMetricFamily(
            "event_service_queue_oldest_age_seconds",
            "Seconds since the oldest pending event was first seen",
            labels=label,
        )
        dead = GaugeMetricFamily("event_service_dead_rows", "Dead letters", labels=label)
        size = GaugeMetricFamily("event_service_queue_bytes", "Bytes of the events that wait", labels=label)
        for queue in (self.gauges.inbox, *self.gauges.outboxes):
            name = ("inbox" if queue.sink is None else f"outbox-{queue.sink}",)
            length.add_metric(name, queue.waiting)
            # What is kept for a sink that is off is nothing to be woken for.
            age.add_metric(name, self._age_s(queue) if queue.sink is None or queue.sink in self.sinks else 0.0)
            dead.add_metric(name, queue.dead)
            size.add_metric(name, queue.bytes)
        return length, age, dead, size

    def _age_s(self, queue: QueueGauges) -> float:
        return 0.0 if queue.oldest is None else max(0, self.now - queue.oldest) / 1000


def _single(name: str, text: str, value: int) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _host(address: str) -> str:
    # Stored addresses are canonical, so that no full parse is needed.
    return urlsplit(address).hostname or address
