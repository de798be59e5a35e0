"""Problems and notes about relays, found in one snapshot. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pipeline.printable import count_of
from pipeline.status import gaps
from pipeline.status.diagnosis import Diagnosis, Severity, rough_duration, some_of
from pipeline.status.snapshot import Snapshot
from pipeline.store.relay_records import RelayRecord
from pipeline.store.relay_status import RelayState
from pipeline.store.relays import OperatorOverride

_CROWDED: Final = "crowded"
"""What a relay's last error begins with if it was not dialled for the sake of others at its address."""
_DAY_MS: Final = 86_400_000


def diagnose_relays(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Yield what an operator should know about relays."""
    yield from _relays(snapshot)
    yield from _gaps(snapshot)
    yield from _absences(snapshot)
    yield from _live(snapshot)
    yield from _costs(snapshot)


def _relays(snapshot: Snapshot) -> Iterator[Diagnosis]:
    crawled = [
        relay for relay in snapshot.relays
        if relay.crawled_since is not None and relay.operator is not OperatorOverride.REMOVED
    ]  # fmt: skip
    up = [relay for relay in crawled if relay.state in (RelayState.CONNECTED, RelayState.BACKPRESSURED)]
    if crawled and not up:
        yield Diagnosis(
            Severity.PROBLEM, "relays", f"none of {len(crawled)} is connected: {_named(crawled)}",
            "event-service hub hosts shows the hosts that crawl them" if snapshot.hosts
            else "event-service check --online says whether they can be reached from here",
        )  # fmt: skip
    yield from _connected(up)
    if up:
        yield from _unreachable(crawled)


def _connected(up: Sequence[RelayRecord]) -> Iterator[Diagnosis]:
    held = [relay for relay in up if relay.state is RelayState.BACKPRESSURED]
    if held:
        yield Diagnosis(
            Severity.PROBLEM, "relays", f"{count_of(len(held), 'relay', 'are')} not read: too many events are pending",
            "see the queues: the stage that empties the longest one is too slow or down",
        )  # fmt: skip
    refusing = [relay for relay in up if relay.last_error]
    if refusing:
        yield Diagnosis(
            Severity.NOTE, "relays", f"{count_of(len(refusing), 'relay', 'refuse')} some requests: "
            f"{_named(refusing)}", "event-service relays show ADDRESS",
        )  # fmt: skip


def _unreachable(crawled: Sequence[RelayRecord]) -> Iterator[Diagnosis]:
    down = [relay for relay in crawled if relay.state is RelayState.DISCONNECTED and relay.failures]
    # Those that were cut off are reported separately.
    down = [relay for relay in down if not relay.forged_at or relay.forged_at < relay.state_since]
    if down:
        yield Diagnosis(
            Severity.NOTE, "relays", f"{count_of(len(down), 'relay')} cannot be reached: {_named(down)}",
            "they are dialled again, ever later; event-service relays remove ADDRESS ends that",
        )  # fmt: skip


def _gaps(snapshot: Snapshot) -> Iterator[Diagnosis]:
    reasons: dict[str, list[str]] = {}
    for gap in snapshot.gaps:
        more = f" and {gap.count - 1:,} more" if gap.count > 1 else ""
        reasons.setdefault(gap.reason, []).append(f"{gap.address} ({gaps.describe(gap)}{more})")
    for reason, found in reasons.items():
        yield Diagnosis(
            Severity.NOTE, "gaps", f"{reason} at {some_of(found)}: {gaps.describe_reason(reason)}",
            "it closes by itself once the relay returns what it holds; other relays may hold the same events."
            " event-service relays show ADDRESS lists all",
        )  # fmt: skip


def _absences(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Relays that are swept since they were away, the longest first."""
    owed = sorted((relay for relay in snapshot.relays if relay.owed_since), key=lambda relay: relay.owed_since)
    for relays, what in (
        ([relay for relay in owed if relay.is_resweeping], "being swept for what came while we were away"),
        ([relay for relay in owed if not relay.is_resweeping], "still to be swept for what came while we were away"),
    ):
        if relays:
            since = rough_duration(max(0, snapshot.now - 1000 * relays[0].owed_since))
            yield Diagnosis(
                Severity.NOTE,
                "relays",
                f"{count_of(len(relays), 'relay')} {what}, the oldest for {since}: {_named(relays)}",
            )


def _live(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Relays that are polled since their live subscriptions left out events."""
    polled = [relay for relay in snapshot.relays if relay.crawled_since is not None and relay.live_missed_at]
    if polled:
        yield Diagnosis(
            Severity.NOTE,
            "relays",
            f"{count_of(len(polled), 'relay')} left out events of live subscriptions: polled. {_named(polled)}",
            "nothing: they are trusted again after a day",
        )


def _costs(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Relays whose events cost more than they may."""
    forging = [relay for relay in snapshot.relays if relay.forged_at and snapshot.now - relay.forged_at < _DAY_MS]
    if forging:
        yield Diagnosis(
            Severity.NOTE,
            "relays",
            f"{count_of(len(forging), 'relay')} cut off for forged events: "
            + some_of([f"{relay.address} ({count_of(relay.forged, 'event')})" for relay in forging]),
            "nothing: it is dialled again after a while; event-service relays remove ADDRESS gives it up",
        )
    paced = [relay for relay in snapshot.relays if relay.paced_at and relay.crawled_since is not None]
    if paced:
        yield Diagnosis(
            Severity.NOTE,
            "relays",
            f"{count_of(len(paced), 'relay')} brought more bytes of authors whom no user follows than"
            f" EVENTS_RELAY_BYTE_RATE allows: {some_of([relay.address for relay in paced])}",
            "nothing: the rest is fetched later, at that rate",
        )


def diagnose_crowding(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Yield a note if relays are not dialled since many names lead to one address."""
    put_off = [relay for relay in snapshot.relays if relay.last_error.startswith(f"{_CROWDED}: ")]
    if put_off:
        yield Diagnosis(
            Severity.NOTE, "relays", f"{count_of(len(put_off), 'relay')} put off, since many names lead to one "
            f"address, network or domain: {_named(put_off)}", "nothing: they are dialled in turn. One that you add by "
            "event-service relays add ADDRESS always is",
        )  # fmt: skip


def _named(relays: Iterable[RelayRecord]) -> str:
    return some_of([f"{relay.address} ({relay.last_error or relay.state})" for relay in relays])
