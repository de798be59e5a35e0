"""Looks at the hub and at connections while faults are injected, in a thread of its own.

what must never be                                       how it is seen
a cursor in the hub ahead of an event that the hub lacks  one snapshot of cursors and parcels, held against relays
a relay with connections of two hosts                    the kernel's tables of connections of all hosts
a relay that is asked by a host after another took over   the journals of relays, at the end
"""

import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

import psycopg
from psycopg import IsolationLevel

from pipeline.hub.parcel import decode_events, decode_notes
from pipeline.nostr.address import parse_address
from tests.fakes.host_network import Address
from tests.fakes.relay_journal import Close, Connected, Entry, Req
from tests.tools.chaos.hub.installation import Installation

EVERY_S = 0.1
CURSORS_EVERY_S = 0.3
# An event is dated by whole seconds, and a relay that plays in this process may have it a moment later.
_SLACK_S = 3
# Events that come later than that after their date are found by sweeps that look back, not by cursors.
_PUNCTUAL_S = 5.0
_AUTHORS = re.compile(r"authors/(?:\d\.)?([01]*)")
_WHOLE = "whole/"
_MAX_KEPT = 20
_CONNECT_S = 5


@dataclass(frozen=True, slots=True)
class _Cursor:
    relay: str
    query: str
    complete_until: int
    generation: int

    def covers(self, pubkey: str, generation: int) -> bool:
        """Return True if it says anything of this author, who is wanted since that change of the plan."""
        if self.generation < generation:
            return False
        found = _AUTHORS.fullmatch(self.query)
        return self.query == _WHOLE or (found is not None and f"{int(pubkey, 16):0256b}".startswith(found[1]))


@dataclass(frozen=True, slots=True)
class _Kept:
    """A parcel that the hub has: when it came (ms), the ids of its events, and its cursors."""

    at: int
    ids: frozenset[str]
    cursors: tuple[_Cursor, ...]


@dataclass
class CursorWatch:
    """Holds the cursors of the hub against what relays gave."""

    installation: Installation
    looks: int = 0
    parcels: int = 0
    """Parcels with cursors that were looked at."""
    violations: list[str] = field(default_factory=list)
    _connection: "psycopg.Connection[tuple[object, ...]] | None" = None
    _kept: dict[tuple[str, int], _Kept] = field(default_factory=dict)

    def look(self) -> None:
        """Look once, unless the hub is away."""
        try:
            cursors, wanted, new = self._read()
        except psycopg.Error:
            self.close()
            return
        self.looks += 1
        held: set[str] = set().union(*(each.ids for each in self._kept.values()))
        for each in sorted(new.values(), key=lambda each: each.at):
            held |= each.ids
            if each.cursors:
                self.parcels += 1
                self._compare(each.cursors, wanted, held, "parcel")
        self._kept |= new
        self._compare(cursors, wanted, held, "hub")

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read(self) -> tuple[tuple[_Cursor, ...], dict[str, int], dict[tuple[str, int], _Kept]]:
        """Return cursors, authors that are wanted with the change that made them so, and parcels not seen before."""
        if self._connection is None:
            self._connection = psycopg.connect(self.installation.hub.owner, connect_timeout=_CONNECT_S)
            self._connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection = self._connection
        with connection.transaction():
            cursors = connection.execute("SELECT relay, query, complete_until, generation FROM hub.cursors").fetchall()
            wanted = connection.execute(
                "SELECT encode(public_key, 'hex'), generation FROM hub.plan_authors WHERE subject = 0 AND is_wanted"
            ).fetchall()
            keys = {(str(s), int(str(n))) for s, n in connection.execute("SELECT stream, number FROM hub.parcels")}
            self._kept = {key: each for key, each in self._kept.items() if key in keys}
            new = {key: _kept(connection, *key) for key in keys - self._kept.keys()}
        return (
            tuple(_Cursor(str(r), str(q), int(str(u)), int(str(g))) for r, q, u, g in cursors),
            {str(key): int(str(generation)) for key, generation in wanted},
            new,
        )

    def _compare(self, cursors: Sequence[_Cursor], wanted: dict[str, int], held: set[str], where: str) -> None:
        for peer in self.installation.environment.scripted:
            of_relay = [each for each in cursors if each.relay == _address(peer.url)] if peer.is_source else []
            newest = max((each.complete_until for each in of_relay), default=0) - _SLACK_S
            punctual = [event for at, event in list(peer.live) if at - event.created_at < _PUNCTUAL_S]
            for event in (*peer.held, *punctual):
                if event.created_at > newest or event.id in held or (generation := wanted.get(event.pubkey)) is None:
                    continue
                until = event.created_at + _SLACK_S
                ahead = [e for e in of_relay if e.complete_until >= until and e.covers(event.pubkey, generation)]
                if ahead and len(self.violations) < _MAX_KEPT:
                    self.violations.append(
                        f"look {self.looks}, {where}: {ahead[0].query} of {peer.name} is complete until"
                        f" {ahead[0].complete_until}, {event.id} of {event.created_at} is missing"
                    )


def _kept(connection: "psycopg.Connection[tuple[object, ...]]", stream: str, number: int) -> _Kept:
    row = connection.execute(
        "SELECT at, body, notes FROM hub.parcels WHERE stream = %s AND number = %s", (stream, number)
    ).fetchone()
    assert row is not None
    assert isinstance(row[1], bytes)
    assert isinstance(row[2], bytes)
    cursors = decode_notes(row[2]).cursors
    return _Kept(
        int(str(row[0])),
        frozenset(json.loads(each.raw)["id"] for each in decode_events(row[1])),
        tuple(_Cursor(e.relay, e.query, e.complete_until, e.generation) for e in cursors),
    )


@dataclass
class AskWatch:
    """Sees which hosts have connections to which relays."""

    installation: Installation
    looks: int = 0
    violations: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Look at every relay once."""
        found = self._twice()
        self.looks += len(self.installation.environment.peers)
        # The hosts are not looked at in the same moment.
        for relay in found.keys() & (self._twice() if found else {}).keys():
            if len(self.violations) < _MAX_KEPT:
                self.violations.append(f"at {monotonic():.1f}: {relay} has connections of {' and '.join(found[relay])}")

    def _twice(self) -> dict[Address, list[str]]:
        relays = {_socket(peer.url) for peer in self.installation.environment.peers}
        hosts: dict[Address, list[str]] = defaultdict(list)
        for edge in self.installation.edges:
            for relay in edge.connected() & relays:
                hosts[relay].append(edge.name)
        return {relay: names for relay, names in hosts.items() if len(names) > 1}

    def look_at_journals(self) -> None:
        """Find what was asked by an older connection of one host after a newer one of another host had asked."""
        for peer in self.installation.environment.scripted:
            journal = peer.relay.journal
            clients = {each.connection: each.client for each in journal.of(Connected)}
            asked: list[Entry] = sorted([*journal.of(Req), *journal.of(Close)], key=lambda each: each.at)
            newest = 0
            for each in asked:
                if each.connection < newest and clients[each.connection] != clients[newest]:
                    self.violations.append(
                        f"{peer.name} was asked by {clients[each.connection]} after {clients[newest]} had taken over"
                    )
                newest = max(newest, each.connection)


class Watcher:
    """Looks again and again until it is stopped; raises then what went wrong in it."""

    def __init__(self, installation: Installation) -> None:
        self.cursors = CursorWatch(installation)
        self.asks = AskWatch(installation)
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(self.asks.look, EVERY_S), name="asks", daemon=True),
            threading.Thread(target=self._run, args=(self.cursors.look, CURSORS_EVERY_S), name="cursors", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the looks."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.cursors.close()
        if self._errors:
            raise self._errors[0]

    def _run(self, look: Callable[[], None], every_s: float) -> None:
        try:
            while not self._stop.wait(every_s):
                look()
        except BaseException as error:
            self._errors.append(error)


def _address(url: str) -> str:
    return str(parse_address(url))


def _socket(url: str) -> Address:
    host, _, port = url.removeprefix("ws://").partition(":")
    return host, int(port)
