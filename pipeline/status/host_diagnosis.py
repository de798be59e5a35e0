"""Problems and notes about the hosts that crawl for this one, found in one snapshot. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from pipeline import __version__
from pipeline.printable import count_of
from pipeline.status.diagnosis import Diagnosis, Severity, rough_duration, some_of
from pipeline.status.snapshot import Snapshot
from pipeline.store.hosts import HostState

AWAY_MS: Final = 30_000
"""A host calls every two seconds, and loses its relays to others after so long."""
_SKEW_MS: Final = 60_000
_STALE_MS: Final = 60_000
# Some seconds of a busy network.
_BEHIND_PARCELS: Final = 500


def diagnose_hosts(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Yield what an operator should know about hosts; nothing where this host crawls itself."""
    if not snapshot.hosts:
        return
    away = [each for each in snapshot.hosts if is_away(each)]
    if len(away) == len(snapshot.hosts):
        yield Diagnosis(
            Severity.PROBLEM, "hosts", f"no crawling host calls: {_named(away)}",
            "nothing is crawled: start event-service on one of them",
        )  # fmt: skip
    for each in away:
        since = "has never called" if not each.seen_at else f"is away for {rough_duration(each.read_at - each.seen_at)}"
        yield Diagnosis(
            Severity.NOTE, "hosts", f"{each.host} {since}",
            "other hosts crawl its relays; what it accepted and did not hand over waits there for its start",
        )  # fmt: skip
    yield from _each(snapshot.hosts)
    yield from _behind(snapshot)
    yield from _unfit(snapshot)


def is_away(host: HostState) -> bool:
    """Return True if a host has stopped calling, as of the last look at the hub."""
    return host.read_at - host.seen_at > AWAY_MS


def _each(hosts: Sequence[HostState]) -> Iterator[Diagnosis]:
    for each in hosts:
        if is_away(each):
            continue
        if abs(each.clock_skew) > _SKEW_MS:
            yield Diagnosis(
                Severity.NOTE, "hosts", f"the clock of {each.host} is off by {each.clock_skew / 1000:+.0f} s",
                "correct it: cursors are clamped to the hub's clock, and times of arrival are wrong",
            )  # fmt: skip
    other = [each for each in hosts if each.version not in {__version__, ""} and not is_away(each)]
    if other:
        versions = some_of([f"{each.host} {each.version}" for each in other])
        yield Diagnosis(
            Severity.NOTE, "hosts", f"home runs {__version__}, others do not: {versions}",
            "versions next to each other work together; update all hosts",
        )  # fmt: skip


def _behind(snapshot: Snapshot) -> Iterator[Diagnosis]:
    late = [each for each in snapshot.hosts if each.untaken >= _BEHIND_PARCELS]
    if late:
        waiting = sum(each.untaken for each in late)
        yield Diagnosis(
            Severity.NOTE, "hosts", f"home is behind: {count_of(waiting, 'parcel')} of {_named(late)} wait in the hub",
            "see the queues here: what is full keeps home from taking more",
        )  # fmt: skip
    read_at = min(each.read_at for each in snapshot.hosts)
    if snapshot.now - read_at > _STALE_MS:
        yield Diagnosis(
            Severity.NOTE, "hosts", f"the hub was read {rough_duration(snapshot.now - read_at)} ago for the last time",
            "what is shown of hosts and relays is as old; see the stage hub",
        )  # fmt: skip


def _unfit(snapshot: Snapshot) -> Iterator[Diagnosis]:
    by_host: dict[str, list[str]] = {}
    for each in snapshot.unfit:
        by_host.setdefault(each.host, []).append(f"{each.host_key} ({each.reason})")
    for host, found in by_host.items():
        yield Diagnosis(
            Severity.NOTE, "hosts", f"{host} cannot use relays of {count_of(len(found), 'host')}: {some_of(found)}",
            f"other hosts crawl them where any can; event-service hub fit {host} lets it try again at once",
        )  # fmt: skip


def _named(hosts: Sequence[HostState]) -> str:
    return some_of([each.host for each in hosts])
