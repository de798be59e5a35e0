"""Home's side of the state: copies from the hub how the crawling hosts stand, and what each says of itself.

Each part of what a host says is written in the transaction that notes its digest; what was taken before is not read
again. A part that no uplink made is passed over and counted.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pipeline.hub import host_state
from pipeline.hub.connection import HubConnection
from pipeline.hub.host_state import InvalidState, StatePart
from pipeline.process.clock import Clock, pause
from pipeline.process.host_metrics import COUNTERS, GAUGES
from pipeline.process.logs import RateLimitedLogger
from pipeline.store import host_counts, host_relays, hosts, ordered_backfills, taken_parcels
from pipeline.store.database import Database, Tx
from pipeline.store.host_relays import SaidDrop, SaidNovelty
from pipeline.store.hosts import Holder, HostPart, HostState, Unfit
from pipeline.store.taken_parcels import Position

FUNCTIONS: Final = ("hosts_v1", "shares_v1", "unfit_v1", "states_v1")
"""What the hub must have for this."""
LOOK_S: Final = 2.0
_FORGET_EVERY_S: Final = 600.0
# A transaction of so many takes some ten milliseconds of the write lock.
_SLICE: Final = 1_000
_GAP_S: Final = 0.004
# Of one host, whatever it says. Those that are known go on counting.
_MAX_COUNTERS: Final = 50_000

_T = TypeVar("_T")
_Series = tuple[str, tuple[tuple[str, str], ...], float]


@dataclass(slots=True)
class StateTaking:
    """For one thread. `on_invalid` is called for each part that cannot be taken."""

    clock: Clock
    problems: RateLimitedLogger
    on_invalid: Callable[[], object]
    _taken: dict[tuple[str, str], HostPart] | None = None
    _holders: dict[str, Holder] = field(default_factory=dict)
    _counts: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], tuple[str, float]]] = field(default_factory=dict)
    """By host, the counters as they were written last, with their eras."""
    _look_at: float = -math.inf
    _forget_at: float = -math.inf

    def turn(self, connection: HubConnection, database: Database) -> None:
        """Do what is due. Raises `HubUnavailable` or `HubRefused`."""
        now = self.clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        taken = self._load(database)
        self._take_hosts(connection, database, taken)
        known = [(host, part, each.digest) for (host, part), each in taken.items()]
        columns = [list(column) for column in zip(*known, strict=True)] or [[], [], []]
        for host, part, _, digest, body in connection.call("states_v1", *columns):
            self._take(database, str(host), str(part), str(digest), bytes(body))
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_EVERY_S
            with database.write() as tx:
                hosts.forget_events(tx)

    def _load(self, database: Database) -> dict[tuple[str, str], HostPart]:
        if self._taken is None:
            with database.read() as tx:
                self._taken = hosts.parts(tx)
        return self._taken

    def _take_hosts(
        self, connection: HubConnection, database: Database, taken: dict[tuple[str, str], HostPart]
    ) -> None:
        now = self.clock.now_ms()
        rows = connection.call("hosts_v1")
        holders = {key: Holder(key, wished or "", holder or "") for key, wished, holder in connection.call("shares_v1")}
        unfit = [Unfit(*row) for row in connection.call("unfit_v1")]
        held: dict[str, int] = {}
        for each in holders.values():
            held[each.holder] = held.get(each.holder, 0) + 1
        states = [
            HostState(
                host, version, is_draining, 0 if seen_ago is None else now - seen_ago, skew, events, unsent, untaken,
                held.get(host, 0), now,
            )
            for host, is_draining, version, seen_ago, skew, events, unsent, untaken, *_ in rows
        ]  # fmt: skip
        with database.write() as tx:
            for host in hosts.put(tx, states):
                host_counts.forget(tx, host)
                self._counts.pop(host, None)
                for key in [key for key in taken if key[0] == host]:
                    del taken[key]
            hosts.put_unfit(tx, unfit)
            if holders != self._holders:
                hosts.put_holders(tx, holders)
        if holders != self._holders:
            self._holders = holders
            # A host's word counts for the relays that it holds.
            for key in [key for key in taken if key[1] == StatePart.RELAYS]:
                del taken[key]

    def _take(self, database: Database, host: str, part: str, digest: str, body: bytes) -> None:
        taken = self._load(database)
        before = taken.get((host, part), HostPart(""))
        try:
            found = host_state.decode(body)
            after = self._write(database, host, part, found, before, digest)
        except InvalidState as error:
            self.on_invalid()
            self.problems.error("invalid-state", "state of a host dropped", host=host, part=part, why=str(error))
            after = before._replace(digest=digest)
            with database.write() as tx:
                hosts.put_part(tx, host, part, after)
        if after is not None:
            taken[host, part] = after

    def _write(
        self, database: Database, host: str, part: str, found: dict[str, Any], before: HostPart, digest: str
    ) -> HostPart | None:
        """Write a part; return what to remember of it, None if it is to be read again later."""
        after = before._replace(digest=digest)
        match part:
            case StatePart.COUNTS:
                self._write_counts(database, host, found, after)
            case StatePart.SERIES:
                self._write_series(database, host, found, after)
            case StatePart.RELAYS:
                self._write_relays(database, host, found, after)
            case StatePart.DROPS:
                after = _write_drops(database, host, found, after)
            case StatePart.BACKFILLS:
                return _write_backfills(database, host, found, after)
            case _:
                # A newer version's.
                with database.write() as tx:
                    hosts.put_part(tx, host, part, after)
        return after

    def _write_counts(self, database: Database, host: str, found: dict[str, Any], after: HostPart) -> None:
        self._put_counters(database, host, host_state.text_of(found, "origin"), _tallies(found))
        with database.write() as tx:
            hosts.put_part(tx, host, StatePart.COUNTS, after)

    def _write_series(self, database: Database, host: str, found: dict[str, Any], after: HostPart) -> None:
        gauges = list(_series(found, "gauges", GAUGES))
        self._put_counters(database, host, host_state.text_of(found, "era"), _series(found, "counters", COUNTERS))
        with database.write() as tx:
            host_counts.put_gauges(tx, host, gauges)
            hosts.put_part(tx, host, StatePart.SERIES, after)

    def _put_counters(self, database: Database, host: str, era: str, rows: Iterable[_Series]) -> None:
        changed = list(self._changed(host, era, rows))
        for first in range(0, len(changed), _SLICE):
            with database.write() as tx:
                may_add = host_counts.number(tx, host) + _SLICE <= _MAX_COUNTERS
                for its_era, name, labels, value in changed[first : first + _SLICE]:
                    if may_add or host_counts.is_known(tx, host, name, labels):
                        host_counts.put(tx, host, its_era, [(name, labels, value)])
            pause(_GAP_S)
        written = self._counts.setdefault(host, {})
        written.update({(name, labels): (its_era, value) for its_era, name, labels, value in changed})

    def _changed(
        self, host: str, era: str, rows: Iterable[_Series]
    ) -> Iterator[tuple[str, str, tuple[tuple[str, str], ...], float]]:
        written = self._counts.get(host, {})
        for name, labels, value in rows:
            if written.get((name, labels)) != (era, value):
                yield era, name, labels, value

    def _write_relays(self, database: Database, host: str, found: dict[str, Any], after: HostPart) -> None:
        crawled = found.get("crawled")
        if type(crawled) is not list or len(crawled) > 50_000 or not all(type(each) is str for each in crawled):
            raise InvalidState("crawled is not a list of addresses")
        mine = {each for each in map(host_state.address_of, crawled) if self._is_held(each, host)}
        gaps = _by_address(host_state.rows_of(found, "gaps", (str, str, str, int, int, int)), mine)
        sweeps = _by_address(host_state.rows_of(found, "sweeps", (str, str, int, int, int, int)), mine)
        brought = [
            SaidNovelty(*row) for row in host_state.rows_of(found, "brought", (str, float, int)) if row[0] in mine
        ]
        now = self.clock.now_ms()
        # What is compared is all of a host; only what differs needs the lock.
        with database.read() as tx:
            new_gaps = host_relays.differing_gaps(tx, {each: gaps.get(each, []) for each in mine})
            new_sweeps = host_relays.differing_sweeps(tx, {each: sweeps.get(each, []) for each in mine})
            new_brought = host_relays.greater_brought(tx, brought, now)
        _write_in_slices(database, new_gaps, host_relays.put_gaps)
        _write_in_slices(database, new_sweeps, host_relays.put_sweeps)
        _write_in_slices(database, new_brought, lambda tx, rows: host_relays.put_brought(tx, rows, now))
        with database.write() as tx:
            hosts.put_part(tx, host, StatePart.RELAYS, after)

    def _is_held(self, address: str, host: str) -> bool:
        holder = self._holders.get(host_state.host_key_of(address))
        return holder is not None and holder.holder == host


def _write_in_slices(database: Database, rows: Sequence[_T], write: Callable[[Tx, Sequence[_T]], None]) -> None:
    for first in range(0, len(rows), _SLICE):
        with database.write() as tx:
            write(tx, rows[first : first + _SLICE])
        pause(_GAP_S)


def _tallies(found: dict[str, Any]) -> Iterator[_Series]:
    for slot, what, reason, count in host_state.rows_of(found, "tallies", (str, str, str, int)):
        yield host_counts.TALLY, (("slot", slot), ("what", what), ("reason", reason)), count


def _series(found: dict[str, Any], member: str, names: Iterable[str]) -> Iterator[_Series]:
    if member not in found:
        return
    known = set(names)
    for name, labels, value in host_state.rows_of(found, member, (str, list, float)):
        if name in known:
            yield name, host_state.labels_of(labels), value


def _by_address(rows: Iterable[list[Any]], held: set[str]) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for address, *columns in rows:
        if address in held:
            found.setdefault(address, []).append(tuple(columns))
    return found


def _write_drops(database: Database, host: str, found: dict[str, Any], after: HostPart) -> HostPart:
    """Write the drops behind the newest that was taken; a database that is new begins with 1 again."""
    origin = host_state.text_of(found, "origin")
    position = after.position if origin == after.origin else 0
    rows = list(host_state.rows_of(found, "rows", (int, str, str, str, int)))
    fresh = [SaidDrop(_id(event_id), reason, relay, at) for seq, event_id, reason, relay, at in rows if seq > position]
    after = after._replace(origin=origin, position=max([position, *(row[0] for row in rows)]))
    with database.write() as tx:
        host_relays.append_drops(tx, host, fresh)
        hosts.put_part(tx, host, StatePart.DROPS, after)
    return after


def _id(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise InvalidState("an id is not one")
    return found


def _write_backfills(database: Database, host: str, found: dict[str, Any], after: HostPart) -> HostPart | None:
    """Write the progress of jobs, once the parcels are here that an end among it is behind."""
    stream, behind = host_state.text_of(found, "stream"), found.get("after")
    if type(behind) is not int:
        raise InvalidState("after is missing")
    rows = list(host_state.rows_of(found, "rows", (int, int, str, int, int, int, int, int)))
    with database.write() as tx:
        if behind > taken_parcels.positions(tx).get(stream, Position()).number:
            return None
        for job, created_at, address, parts, done, incomplete, events, is_over in rows:
            ordered_backfills.note(
                tx, job, created_at, address, (parts, done, incomplete, events), is_over=bool(is_over)
            )
        hosts.put_part(tx, host, StatePart.BACKFILLS, after)
    return after
