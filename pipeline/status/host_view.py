"""The hosts that crawl for this one, as status and page show them."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.printable import count_of
from pipeline.status.diagnosis import rough_duration
from pipeline.status.host_diagnosis import is_away
from pipeline.status.snapshot import Snapshot, counted


@dataclass(frozen=True, slots=True)
class HostRow:
    """One crawling host in words; `state` is `ok`, `away` or `draining`."""

    host: str
    state: str
    version: str
    called: str
    clock: str
    relays: int
    events: int
    """Events that wait in its inbox."""
    parcels: int
    """Parcels that wait on it."""
    untaken: int
    """Its parcels that wait in the hub."""
    dropped: str
    unfit: int
    """Hosts of relays that it cannot use."""


def skew_text(milliseconds: int) -> str:
    """Return by how much a clock is ahead, in seconds and with a sign, as `+0.0 s`."""
    return f"{round(milliseconds / 1000, 1) + 0.0:+.1f} s"


def host_rows(snapshot: Snapshot) -> list[HostRow]:
    """Return a row for each host."""
    return [
        HostRow(
            each.host, "away" if is_away(each) else "draining" if each.is_draining else "ok", each.version or "-",
            f"{rough_duration(max(0, snapshot.now - each.seen_at))} ago" if each.seen_at else "never",
            skew_text(each.clock_skew), each.relays, each.backlog_events, each.backlog_parcels, each.untaken,
            counted({why: count for (host, why), count in snapshot.dropped_by_host.items() if host == each.host}),
            sum(unfit.host == each.host for unfit in snapshot.unfit),
        )
        for each in snapshot.hosts
    ]  # fmt: skip


def host_lines(snapshot: Snapshot) -> Iterator[str]:
    """Yield a line for each host, as `event-service status` prints it."""
    for row in host_rows(snapshot):
        unfit = f", cannot use {row.unfit}" if row.unfit else ""
        dropped = f"; dropped: {row.dropped}" if row.dropped else ""
        yield (
            f"{f'host {row.host}':<14} {row.state:<9} {row.version}, called {row.called}, clock {row.clock},"
            f" asks {count_of(row.relays, 'host')} of relays{unfit}; {count_of(row.events, 'event')} and"
            f" {count_of(row.parcels, 'parcel')} pending there, {count_of(row.untaken, 'parcel')} in the hub{dropped}"
        )
