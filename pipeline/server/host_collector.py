"""What home shows of the hosts that crawl for it; see `host_metrics` for which host shows which series."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipeline.store import host_counts, hosts
from pipeline.store.database import Tx
from pipeline.store.host_counts import HostCount
from pipeline.store.hosts import HostState

_OUTCOMES: Final = {"taken": "in", "handed-on": "out", "discarded": "dropped"}
_NEVER_S: Final = float("inf")


@dataclass(frozen=True, slots=True, eq=False)  # a registry keeps collectors by identity
class HostCollector:
    """The hosts at `now` (ms), and what they count."""

    states: Sequence[HostState]
    counters: Sequence[HostCount]
    gauges: Sequence[HostCount]
    now: int

    @classmethod
    def read(cls, tx: Tx, now: int) -> "HostCollector":
        """Return what home's database has of hosts."""
        return cls(hosts.every(tx), host_counts.counters(tx), host_counts.gauges(tx), now)

    def relayed(self) -> list[Metric]:
        """Return the series that hosts count and do not show themselves, with a label `host`."""
        found: dict[str, Metric] = {}
        for kind, rows in (("counter", self.counters), ("gauge", self.gauges)):
            for each in rows:
                if each.name == host_counts.TALLY:
                    continue
                family = found.get(each.name)
                if family is None:
                    family = found[each.name] = Metric(each.name, "Of the hosts that crawl for this one", kind)
                sample = each.name + ("_total" if kind == "counter" else "")
                family.add_sample(sample, {**dict(each.labels), "host": each.host}, each.value)
        return list(found.values())

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges of hosts and what their stages counted; nothing where there are none."""
        if not self.states:
            return
        yield self._gauge("seen_age_seconds", "Seconds since the host called the hub", self._age_s)
        yield self._gauge("clock_skew_seconds", "By how much its clock is ahead", lambda each: each.clock_skew / 1000)
        yield self._gauge("backlog_events", "Events in its inbox", lambda each: each.backlog_events)
        yield self._gauge("backlog_parcels", "Parcels that it has not sent", lambda each: each.backlog_parcels)
        yield self._gauge("untaken_parcels", "Its parcels that wait for home in the hub", lambda each: each.untaken)
        yield self._gauge("relay_hosts", "Hosts of relays that it holds", lambda each: each.relays)
        yield self._gauge("draining", "1 while it drains", lambda each: each.is_draining)
        yield GaugeMetricFamily(
            "event_service_hub_read_age_seconds", "Seconds since home read the state of hosts in the hub",
            value=max(0, self.now - min(each.read_at for each in self.states)) / 1000,
        )  # fmt: skip
        info = GaugeMetricFamily(
            "event_service_host_info", "1 for each crawling host and its version", labels=("host", "version")
        )
        for state in self.states:
            info.add_metric((state.host, state.version), 1)
        yield info
        yield self._events()

    def _gauge(self, name: str, text: str, value: Callable[[HostState], float]) -> Metric:
        family = GaugeMetricFamily(f"event_service_host_{name}", text, labels=("host",))
        for each in self.states:
            family.add_metric((each.host,), value(each))
        return family

    def _age_s(self, state: HostState) -> float:
        return max(0, self.now - state.seen_at) / 1000 if state.seen_at else _NEVER_S

    def _events(self) -> Metric:
        totals: dict[tuple[str, str, str, str], float] = {}
        for each in self.counters:
            labels = dict(each.labels)
            outcome = _OUTCOMES.get(labels.get("what", "")) if each.name == host_counts.TALLY else None
            if outcome is not None:
                stage = labels["slot"].rpartition("-")[0]
                key = (each.host, stage, outcome, labels["reason"])
                totals[key] = totals.get(key, 0.0) + each.value
        family = CounterMetricFamily(
            "event_service_host_events", "Events that stages of crawling hosts took, passed on and dropped",
            labels=("host", "stage", "outcome", "reason"),
        )  # fmt: skip
        for key, value in totals.items():
            family.add_metric(key, value)
        return family
