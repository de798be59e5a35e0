"""The hosts that crawl for this home host, as it last read them in the hub: the table that status and metrics show."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.store.database import Row, Tx

PUT = """
INSERT INTO hosts (host, version, is_draining, seen_at, clock_skew, backlog_events, backlog_parcels, untaken, relays,
  read_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
ON CONFLICT (host) DO UPDATE SET version = excluded.version, is_draining = excluded.is_draining,
  seen_at = excluded.seen_at, clock_skew = excluded.clock_skew, backlog_events = excluded.backlog_events,
  backlog_parcels = excluded.backlog_parcels, untaken = excluded.untaken, relays = excluded.relays,
  read_at = excluded.read_at
"""
ALL = """
SELECT host, version, is_draining, seen_at, clock_skew, backlog_events, backlog_parcels, untaken, relays, read_at
  FROM hosts ORDER BY host
"""
REMOVE = "DELETE FROM hosts WHERE host = ?"
PARTS = "SELECT host, part, digest, origin, position FROM host_parts"
PUT_PART = """
INSERT INTO host_parts (host, part, digest, origin, position) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (host, part) DO UPDATE SET digest = excluded.digest, origin = excluded.origin, position = excluded.position
"""
REMOVE_PARTS = "DELETE FROM host_parts WHERE host = ?"
HOLDERS = "SELECT host_key, wished, holder FROM share_holders"
HOLDER = "SELECT host_key, wished, holder FROM share_holders WHERE host_key = ?"
PUT_HOLDER = "INSERT OR REPLACE INTO share_holders (host_key, wished, holder) VALUES (?, ?, ?)"
REMOVE_HOLDER = "DELETE FROM share_holders WHERE host_key = ?"
CLEAR_UNFIT = "DELETE FROM host_unfit"
PUT_UNFIT = "INSERT OR REPLACE INTO host_unfit (host, host_key, until, reason) VALUES (?, ?, ?, ?)"
UNFIT = "SELECT host, host_key, until, reason FROM host_unfit ORDER BY host, host_key"
UNFIT_OF = "SELECT host, host_key, until, reason FROM host_unfit WHERE host_key = ? ORDER BY host"
# Events have numbers that grow, and those of one host come together.
NEW_EVENTS = "SELECT event, event_id FROM inbox WHERE seq > ? ORDER BY seq"
NEWEST_RUN = "SELECT first_event, last_event, host FROM host_events ORDER BY first_event DESC LIMIT 1"
ADD_RUN = "INSERT OR REPLACE INTO host_events (first_event, last_event, host) VALUES (?, ?, ?)"
RUN_OF = "SELECT last_event, host FROM host_events WHERE first_event <= ? ORDER BY first_event DESC LIMIT 1"
FORGET_RUNS = """
DELETE FROM host_events WHERE last_event < coalesce((SELECT min(event) FROM events), 0)
"""


@dataclass(frozen=True, slots=True)
class HostState:
    """A crawling host; times in ms by this host's clock, `seen_at` 0 if it never called the hub."""

    host: str
    version: str
    is_draining: bool
    seen_at: int
    clock_skew: int
    """By how much its clock is ahead of the hub's (ms)."""
    backlog_events: int
    """Events in its inbox."""
    backlog_parcels: int
    """Parcels that it has not sent."""
    untaken: int
    """Parcels that wait for home in the hub."""
    relays: int
    """Hosts of relays that it holds."""
    read_at: int
    """When all this was read in the hub."""


class HostPart(NamedTuple):
    """What was taken last of one part of what a host says; `origin` and `position` where the part has numbers."""

    digest: str
    origin: str = ""
    position: int = 0


class Holder(NamedTuple):
    """Who asks the relays of a host, and who is to; empty for none."""

    host_key: str
    wished: str
    holder: str


class Unfit(NamedTuple):
    """A host cannot use the relays of another until a time (ms)."""

    host: str
    host_key: str
    until: int
    reason: str


def put(tx: Tx, states: Sequence[HostState]) -> list[str]:
    """Note all hosts; return the names of those that are gone since."""
    known = {each.host for each in every(tx)}
    for each in states:
        tx.execute(
            PUT,
            (
                each.host, each.version, each.is_draining, each.seen_at, each.clock_skew, each.backlog_events,
                each.backlog_parcels, each.untaken, each.relays, each.read_at,
            ),
        )  # fmt: skip
    gone = sorted(known - {each.host for each in states})
    for host in gone:
        tx.execute(REMOVE, (host,))
        tx.execute(REMOVE_PARTS, (host,))
    return gone


def every(tx: Tx) -> list[HostState]:
    """Return all hosts by name; none where this host crawls itself."""
    return [HostState(row[0], row[1], bool(row[2]), *row[3:]) for row in tx.execute(ALL)]


def parts(tx: Tx) -> dict[tuple[str, str], HostPart]:
    """Return by host and part what was taken last."""
    return {(host, part): HostPart(*row) for host, part, *row in tx.execute(PARTS)}


def put_part(tx: Tx, host: str, part: str, taken: HostPart) -> None:
    """Note, with its content, what was taken of a part."""
    tx.execute(PUT_PART, (host, part, *taken))


def put_holders(tx: Tx, holders: Mapping[str, Holder]) -> None:
    """Note who holds what; writes only what differs."""
    before = {row[0]: Holder(*row) for row in tx.execute(HOLDERS)}
    tx.executemany(REMOVE_HOLDER, ((each,) for each in before.keys() - holders.keys()))
    tx.executemany(PUT_HOLDER, (each for key, each in holders.items() if before.get(key) != each))


def holder(tx: Tx, host_key: str) -> Holder | None:
    """Return who asks the relays of a host."""
    row = tx.execute(HOLDER, (host_key,)).fetchone()
    return None if row is None else Holder(*row)


def holders(tx: Tx) -> dict[str, str]:
    """Return by host of relays who holds it, where any does."""
    return {host_key: name for host_key, _, name in tx.execute(HOLDERS) if name}


def put_unfit(tx: Tx, unfit: Iterable[Unfit]) -> None:
    """Note which hosts cannot use which relays, in place of what was noted before."""
    tx.execute(CLEAR_UNFIT)
    tx.executemany(PUT_UNFIT, unfit)


def every_unfit(tx: Tx) -> list[Unfit]:
    """Return which hosts cannot use which relays."""
    return [Unfit(*row) for row in tx.execute(UNFIT)]


def unfit_for(tx: Tx, host_key: str) -> list[Unfit]:
    """Return which hosts cannot use the relays of one host."""
    return [Unfit(*row) for row in tx.execute(UNFIT_OF, (host_key,))]


def note_events(tx: Tx, after: int, host_of: Mapping[bytes, str]) -> None:
    """Note which hosts brought the events in the inbox behind row number `after`."""
    rows: list[Row] = tx.execute(NEW_EVENTS, (after,)).fetchall()
    run: Row | None = tx.execute(NEWEST_RUN).fetchone()
    for event, event_id in rows:
        host = host_of.get(event_id, "")
        if run is not None and run[1] + 1 == event and run[2] == host:
            run = (run[0], event, host)
            continue
        if run is not None:
            tx.execute(ADD_RUN, run)
        run = (event, event, host)
    if run is not None:
        tx.execute(ADD_RUN, run)


def bringer(tx: Tx, event: int) -> str:
    """Return which host brought the event of this number first; empty where that is not known."""
    row = tx.execute(RUN_OF, (event,)).fetchone()
    return "" if row is None or row[0] < event else str(row[1])


def forget_events(tx: Tx) -> None:
    """Forget who brought events that are not kept any more."""
    tx.execute(FORGET_RUNS)
