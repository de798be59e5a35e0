"""Relay addresses: where each was learned, how it fares, what it allows. Restarts forget nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from pipeline.nostr.address import parse_address
from pipeline.nostr.extract import Source
from pipeline.printable import printable
from pipeline.store import relay_pruning, spellings
from pipeline.store.database import Row, Tx
from pipeline.store.relay_pruning import MAX_NAMERS

# How soon a novel event counts only half.
NOVEL_HALF_LIFE_MS = 3 * 86_400_000

UPSERT = """
INSERT INTO relays (address, source, first_seen, last_seen, seen_up_at) VALUES (?1, ?2, ?3, ?3, ?4)
ON CONFLICT (address) DO UPDATE SET
  last_seen = excluded.last_seen,
  seen_up_at = iif(seen_up_at > ?3, excluded.seen_up_at, max(seen_up_at, excluded.seen_up_at)) RETURNING id, namers
"""
ADD_BOOTSTRAP = """
INSERT INTO relays (address, source, first_seen, last_seen) VALUES (?1, 'bootstrap', ?2, ?2)
ON CONFLICT (address) DO UPDATE SET source = 'bootstrap', last_seen = excluded.last_seen
RETURNING id
"""
DEMOTE_BOOTSTRAP = "UPDATE relays SET source = 'former-bootstrap' WHERE source = 'bootstrap'"
HAS_NAMED = "SELECT 1 FROM relay_namers WHERE relay = ? AND author = ?"
ADD_NAMER = "INSERT INTO relay_namers (relay, author, as_monitor) VALUES (?, ?, ?)"
COUNT_NAMER = "UPDATE relays SET namers = namers + 1 WHERE id = ?"
MARK_NAMED_BY_USER = "UPDATE relays SET named_by_user = 1 WHERE id = ? AND named_by_user = 0"
MARK_NAMED_BY = """
UPDATE relays SET named_by_user = 1
 WHERE id IN (SELECT relay FROM relay_namers WHERE author = ? AND as_monitor = 0)
"""
# Whoever named an address with ws named the relay that the same address with wss is.
COPY_NAMERS = """
INSERT INTO relay_namers (relay, author, as_monitor)
SELECT ?2, author, as_monitor FROM relay_namers WHERE relay = ?1
"""
TAKE_OVER = """
UPDATE relays SET namers = twin.namers, named_by_user = twin.named_by_user
  FROM (SELECT namers, named_by_user FROM relays WHERE id = ?1) AS twin WHERE id = ?2
"""
CANDIDATES = """
SELECT id, address, source = 'bootstrap' OR operator = 'added', crawled_since, failures, next_dial_at, limits, ask,
  named_by_user, namers, novel, novel_at, connected_ms, disconnected_ms, tried_at, seen_up_at,
  state IN ('connected', 'backpressured'), spelling, state_since, productive_at, resolved
  FROM relays
 WHERE operator <> 'removed' AND (
   source = 'bootstrap' OR operator = 'added' OR (?1 AND (namers >= 2 OR named_by_user OR source = 'go-import'))
 )
 ORDER BY source = 'bootstrap' OR operator = 'added' DESC, productive_at > 0 DESC, connected_ms > 0 DESC,
   named_by_user DESC, namers DESC, id LIMIT ?2
"""
NAMERS_OF = """
SELECT relay_namers.author, as_monitor, monitored.author IS NOT NULL
  FROM relay_namers LEFT JOIN monitored ON monitored.author = relay_namers.author AND removed_at IS NULL
 WHERE relay = ?
"""
NAMERS = "SELECT namers FROM relays WHERE id = ?"
NOVEL = "SELECT novel, novel_at FROM relays WHERE id = ?"
PUT_NOVEL = "UPDATE relays SET novel = ?, novel_at = ? WHERE id = ?"
PUT_PRODUCTIVE = "UPDATE relays SET productive_at = ? WHERE id = ?"
ADD_COSTS = "UPDATE relays SET forged = forged + ?, stranger_bytes = stranger_bytes + ? WHERE id = ?"
PUT_TRIED = "UPDATE relays SET tried_at = ? WHERE id = ?"
SET_OPERATOR = """
INSERT INTO relays (address, source, first_seen, last_seen, operator) VALUES (?1, 'operator', ?3, ?3, ?2)
ON CONFLICT (address) DO UPDATE SET operator = excluded.operator RETURNING id
"""
# What is added by hand is dialled at once, whatever was thought of it.
FORGIVE = "UPDATE relays SET failures = 0, next_dial_at = 0 WHERE id = ?"
SET_ASK = "UPDATE relays SET ask = ? WHERE address = ? RETURNING id"
RECORDS = """
SELECT id, address, source, operator, first_seen, last_seen, namers, named_by_user, crawled_since, state, state_since,
  subscriptions, asked, ask, novel, novel_at, connected_ms, disconnected_ms, failures, next_dial_at, seen_up_at,
  last_error, limits, iif(spelling = '', address, spelling), owed_since, resweeping,
  iif(json_valid(limits), coalesce(json_extract(limits, '$.live_missed_at'), 0), 0),
  forged, forged_at, stranger_bytes, paced_at
  FROM relays WHERE ?1 OR crawled_since IS NOT NULL OR operator <> '' OR source = 'bootstrap'
 ORDER BY state IN ('connected', 'backpressured') DESC, novel DESC, namers DESC, id LIMIT ?2
"""
START_CRAWLING = """
UPDATE relays SET crawled_since = ?1 WHERE id = ?2 AND (crawled_since IS NULL OR crawled_since > ?1)
"""
# Times that are long past are halved, so that a relay can change.
PUT_STATUS = """
UPDATE relays SET
  connected_ms = (connected_ms + iif(
    state IN ('connected', 'backpressured') AND state <> ?2, max(0, ?3 - state_since), 0
  )) / iif(connected_ms + disconnected_ms > 2592000000, 2, 1),
  disconnected_ms = (disconnected_ms + iif(
    state = 'disconnected' AND state <> ?2, max(0, ?3 - state_since), 0
  )) / iif(connected_ms + disconnected_ms > 2592000000, 2, 1),
  state_since = iif(state = ?2, state_since, ?3), state = ?2, subscriptions = ?4,
  rate_limit_backoff = ?5, failures = ?6, next_dial_at = ?7, last_error = ?8, asked = ?9,
  owed_since = ?10, resweeping = ?11, forged_at = iif(?12, ?3, forged_at),
  paced_at = iif(?13, iif(paced_at = 0, ?3, paced_at), 0), resolved = iif(?14 = '', resolved, ?14)
 WHERE id = ?1 RETURNING id
"""
PUT_LIMITS = "UPDATE relays SET limits = ? WHERE id = ?"
STATUSES = """
SELECT id, address, state, state_since, subscriptions, rate_limit_backoff, failures, next_dial_at, last_error,
  asked FROM relays WHERE crawled_since IS NOT NULL
"""
COUNT = "SELECT count(*) FROM relays"
# Those that only the settings or the operator name were not found.
FOUND = """
SELECT count(*) FROM relays WHERE namers > 0 OR source NOT IN ('bootstrap', 'former-bootstrap', 'operator')
"""
FIND = "SELECT id FROM relays WHERE address = ?"


class Naming(Enum):
    """What became of the naming of an address."""

    NEW = auto()
    KNOWN = auto()
    REFUSED = auto()
    """Its author named too many; no more than renewed if it was known."""


class RelayState(StrEnum):
    """The states of `relay_connection_state_gauge`."""

    INITIALIZING = "initializing"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    BACKPRESSURED = "backpressured"


class RelayCandidate(NamedTuple):
    """A relay that may be dialled, one of many thousands, so that it must be cheap.

    Times in ms, `crawled_since` is `None` if it never was, `limits` is JSON. `by_operator`: named in the settings or by
    hand; `ask`: how the operator wants it asked; `novel`: events that it was the first to bring, as of `novel_at`;
    `tried_at`: when it was last dialled to see what it is worth; `seen_up_at`: when a monitor last saw it up;
    `spelling`: the address as it is dialled, empty for the canonical one;
    `state_since`: when its state was written, and with it `next_dial_at`; `productive_at`: when it was last the first
    to bring an event of a wanted author, 0 for never; `resolved`: the IP address that its name led to last, if known.
    """

    relay: int
    address: str
    by_operator: bool
    crawled_since: int | None
    failures: int
    next_dial_at: int
    limits: str
    ask: str = "auto"
    named_by_user: bool = False
    namers: int = 0
    novel: float = 0.0
    novel_at: int = 0
    connected_ms: int = 0
    disconnected_ms: int = 0
    tried_at: int = 0
    seen_up_at: int = 0
    is_connected: bool = False
    spelling: str = ""
    state_since: int = 0
    productive_at: int = 0
    resolved: str = ""


class Namer(NamedTuple):
    """An author who names a relay; `as_monitor`: by a report (NIP-66) alone, `is_user`: registered."""

    author: int
    as_monitor: bool
    is_user: bool


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """How a relay fares, as its crawler last said; times and durations in ms. `asked`: `query`, `whole` or unknown.

    `dialled`: the spelling of the address by which it was, if that was just tried; `is_missing`: nothing is there.
    """

    relay: int
    address: str
    state: RelayState
    state_since: int
    subscriptions: int
    rate_limit_backoff: int
    failures: int
    next_dial_at: int
    last_error: str
    asked: str = ""
    dialled: str = ""
    is_missing: bool = False
    owed_since: int = 0
    """From when on (Unix seconds) what came late is still owed for absences, 0 for nothing."""
    is_resweeping: bool = False
    """Whether that is being made up for."""
    is_forging: bool = False
    """Whether it was just cut off for forged events."""
    is_paced: bool = False
    """Whether strangers' events are taken from it no faster than they may come."""
    resolved: str = ""
    """The IP address that its name led to, if it was just looked up."""


@dataclass(frozen=True, slots=True)
class RelayCost:
    """What a relay's events cost: how many were forged, and bytes of authors whom no registered user follows."""

    forged: int = 0
    stranger_bytes: int = 0

    def plus(self, forged: int, stranger_bytes: int) -> "RelayCost":
        """Return both together."""
        return RelayCost(self.forged + forged, self.stranger_bytes + stranger_bytes)


class Operator(StrEnum):
    """What the operator decided about a relay by hand."""

    NOTHING = ""
    ADDED = "added"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class RelayRecord:
    """All that is known of a relay; times and durations in ms, `limits` is JSON."""

    relay: int
    address: str
    source: str
    operator: Operator
    first_seen: int
    last_seen: int
    namers: int
    named_by_user: bool
    crawled_since: int | None
    state: RelayState
    state_since: int
    subscriptions: int
    asked: str
    ask: str
    novel: float
    novel_at: int
    connected_ms: int
    disconnected_ms: int
    failures: int
    next_dial_at: int
    seen_up_at: int
    last_error: str
    limits: str
    dialled: str = ""
    """The address as it is written where it is dialled."""
    owed_since: int = 0
    is_resweeping: bool = False
    live_missed_at: int = 0
    """When (Unix seconds) its live subscriptions turned out to leave out events, so that it is polled; 0 for never."""
    forged: int = 0
    """Events that it brought with a wrong id or signature."""
    forged_at: int = 0
    """When it was last cut off for them; 0 for never."""
    stranger_bytes: int = 0
    """Bytes of genuine events of global kinds by authors whom no registered user follows."""
    paced_at: int = 0
    """Since when these are taken no faster than they may come; 0 where they are not that many."""


def set_bootstrap(tx: Tx, addresses: Iterable[str], now: int) -> None:
    """Make `addresses` the bootstrap relays, dialled as they are written, and those that were before ordinary ones.

    Raises `InvalidAddress`.
    """
    tx.execute(DEMOTE_BOOTSTRAP)
    for address in addresses:
        relay = int(tx.execute(ADD_BOOTSTRAP, (parse_address(address).url, now)).get)
        spellings.set_by_operator(tx, relay, address, now)


def name(tx: Tx, spelling: str, *, source: str, author: int, is_user: bool, now: int, seen_up_at: int = 0) -> Naming:
    """Note that `author` (a registered user if `is_user`) named a relay; refused beyond the bounds of `relay_pruning`.

    `spelling`: the address as it is written; raises `InvalidAddress`.
    `seen_up_at`: when `author` says that the relay answered (ms), 0 for nothing said. The reports of a monitor have a
    bound of their own and make no relay a user's.
    """
    as_monitor = source == Source.MONITOR
    address = _preferred(tx, parse_address(spelling).url)
    known = find(tx, address)
    has_named = known is not None and tx.execute(HAS_NAMED, (known, author)).fetchone() is not None
    may_name = has_named or relay_pruning.may_name(tx, author, as_monitor=as_monitor)
    if known is None and not may_name:
        return Naming.REFUSED
    rows: list[Row] = tx.execute(UPSERT, (address, source, now, seen_up_at)).fetchall()
    relay, namers = rows[0]
    if known is None:
        namers = _take_over_twin(tx, relay, address) or namers
        has_named = tx.execute(HAS_NAMED, (relay, author)).fetchone() is not None
    if not may_name:
        return Naming.REFUSED
    if namers < MAX_NAMERS and not has_named:
        tx.execute(ADD_NAMER, (relay, author, as_monitor))
        tx.execute(COUNT_NAMER, (relay,))
    spellings.add(tx, relay, spellings.of_scheme(spelling, address), author, now)
    if is_user and not as_monitor:
        tx.execute(MARK_NAMED_BY_USER, (relay,))
    return Naming.NEW if known is None else Naming.KNOWN


def mark_named_by(tx: Tx, author: int) -> None:
    """Make the relays that `author` named a registered user's."""
    tx.execute(MARK_NAMED_BY, (author,))


def add_novel(tx: Tx, worth: Mapping[int, float], now: int, *, productive: Iterable[int] = ()) -> None:
    """Note by relay what the events are worth that it was the first to bring.

    `productive`: relays some of whose events are of wanted authors.
    """
    tx.executemany(PUT_PRODUCTIVE, ((now, relay) for relay in productive))
    for relay, number in worth.items():
        row = tx.execute(NOVEL, (relay,)).fetchone()
        if row is not None:
            novel, at = row
            aged = novel * 0.5 ** (max(0, now - at) / NOVEL_HALF_LIFE_MS)
            tx.execute(PUT_NOVEL, (aged + number, now, relay))


def add_costs(tx: Tx, costs: Mapping[int, RelayCost]) -> None:
    """Note what the events of relays cost since the last time."""
    tx.executemany(ADD_COSTS, ((cost.forged, cost.stranger_bytes, relay) for relay, cost in costs.items()))


def note_tried(tx: Tx, tried: Iterable[int], now: int) -> None:
    """Note that these relays are given a chance from `now` on."""
    tx.executemany(PUT_TRIED, ((now, relay) for relay in tried))


def candidates(tx: Tx, *, discovered: bool, limit: int) -> list[RelayCandidate]:
    """Relays worth dialling, best known first: the operator's, and if `discovered` those that others trust.

    That is: named by a registered user or by two authors, or crawled by the service that was imported. What the
    operator removed is not among them.
    """
    return list(map(RelayCandidate._make, tx.execute(CANDIDATES, (discovered, limit))))


def namers_of(tx: Tx, relay: int) -> list[Namer]:
    """Return who is recorded to name a relay, at most `MAX_NAMERS` and those of its twin."""
    rows: list[Row] = tx.execute(NAMERS_OF, (relay,)).fetchall()
    return [Namer(author, bool(as_monitor), bool(is_user)) for author, as_monitor, is_user in rows]


def set_operator(tx: Tx, address: str, decision: Operator, now: int) -> None:
    """Let an address be dialled as it is written, whoever names it, or never, until the operator decides otherwise.

    Raises `InvalidAddress`.
    """
    relay = int(tx.execute(SET_OPERATOR, (parse_address(address).url, decision.value, now)).get)
    if decision is Operator.ADDED:
        spellings.set_by_operator(tx, relay, address, now)
        tx.execute(FORGIVE, (relay,))


def set_ask(tx: Tx, address: str, mode: str) -> bool:
    """Let a relay be asked by `mode` (`auto`, `query` or `whole`); returns whether it is known."""
    return tx.execute(SET_ASK, (mode, address)).fetchone() is not None


def records(tx: Tx, *, everything: bool, limit: int) -> list[RelayRecord]:
    """Relays that are or were crawled or that the operator named, or with `everything` all; the best first."""
    return [
        RelayRecord(relay, address, source, Operator(operator), first, last, namers, bool(by_user), since,
                    RelayState(state), *rest)
        for relay, address, source, operator, first, last, namers, by_user, since, state, *rest
        in tx.execute(RECORDS, (everything, limit))
    ]  # fmt: skip


def start_crawling(tx: Tx, numbers: Iterable[int], now: int) -> None:
    """Note when relays first came to be crawled; later calls change only what a clock that was ahead noted."""
    tx.executemany(START_CRAWLING, ((now, relay) for relay in numbers))


def put_statuses(tx: Tx, statuses: Iterable[RelayStatus]) -> None:
    """Write how relays fare, but for those forgotten; `state_since` stays while the state stays the same."""
    for each in statuses:
        found = tx.execute(
            PUT_STATUS,
            (
                each.relay,
                each.state.value,
                each.state_since,
                each.subscriptions,
                each.rate_limit_backoff,
                each.failures,
                each.next_dial_at,
                # Mostly the relay's own words.
                printable(each.last_error),
                each.asked,
                each.owed_since,
                each.is_resweeping,
                each.is_forging,
                each.is_paced,
                each.resolved,
            ),
        ).fetchone()
        if found is None:
            continue
        if each.is_missing:
            spellings.note_missing(tx, each.relay, each.dialled, each.state_since)
        elif each.dialled:
            spellings.note_present(tx, each.relay, each.dialled)


def put_limits(tx: Tx, relay: int, limits: str) -> None:
    """Remember what a relay allows, as JSON."""
    tx.execute(PUT_LIMITS, (limits, relay))


def statuses(tx: Tx) -> list[RelayStatus]:
    """How every relay fares that is or was crawled."""
    return [
        RelayStatus(relay, address, RelayState(state), *rest) for relay, address, state, *rest in tx.execute(STATUSES)
    ]


def count(tx: Tx) -> int:
    """How many addresses are known."""
    return int(tx.execute(COUNT).get)


def found(tx: Tx) -> int:
    """How many addresses were found in events and registrations, or imported."""
    return int(tx.execute(FOUND).get)


def find(tx: Tx, address: str) -> int | None:
    """The number of a canonical address."""
    row = tx.execute(FIND, (address,)).fetchone()
    return None if row is None else int(row[0])


def number_of(tx: Tx, address: str) -> int | None:
    """The number of the relay that a canonical address names, which may be known by another scheme."""
    return find(tx, _preferred(tx, address))


def _preferred(tx: Tx, address: str) -> str:
    """The wss address of the relay that `address` names with ws, if that is known."""
    scheme, _, rest = address.partition("://")
    secure = f"wss://{rest}"
    return secure if scheme == "ws" and _has_default_port(rest) and find(tx, secure) is not None else address


def _take_over_twin(tx: Tx, relay: int, address: str) -> int | None:
    """Let a wss address that is new have the namers of its ws address; returns how many."""
    scheme, _, rest = address.partition("://")
    twin = find(tx, f"ws://{rest}") if scheme == "wss" and _has_default_port(rest) else None
    if twin is None:
        return None
    tx.execute(COPY_NAMERS, (twin, relay))
    tx.execute(TAKE_OVER, (twin, relay))
    return int(tx.execute(NAMERS, (relay,)).get)


def _has_default_port(rest: str) -> bool:
    """Whether host and path of a canonical address name no port: with one, ws and wss are different listeners."""
    return ":" not in rest.partition("/")[0].rpartition("]")[2]
