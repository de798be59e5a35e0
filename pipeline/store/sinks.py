"""The sinks that a database knows, numbered in the order in which they came, and which outbox is whose.

Rows of the outbox, dead letters, outcomes, metrics and commands name a sink's outbox. It is named after the sink: its
kind (`pubsub`, `jsonl`, `stdout`), or the name of its plugin. One alone goes by `pubsub`, whatever it is, for as long
as the database never had two at once. The target relay's is always `relay`.

    EVENTS_SINK before     after        outboxes
    nothing                A            A has `pubsub`
    A                      B            B has `pubsub`, with the backlog of A
    A                      A,B or B,A   `pubsub` is renamed `A`; `B` is new
    A,B                    B,A          each sink keeps its own
    A,B                    B            B keeps its own; `A` is the outbox of a sink that is off
    A,B                    A,C          the same for B; `C` is new

Outcomes of before stay under `pubsub`: there may be millions. Which sink they are of is known by when it was renamed.
A new outbox gets the events that are saved from then on. That of a sink that is off gets none. Its rows are delivered
once the sink is named again; `dead drop --sink` drops them, and `EVENTS_SEEN_RETENTION` those of older events.

Every process finds its outboxes by the same rule (`outboxes`); those that write them note it first (`enroll`). While it
runs, another one may rename, add or take over an outbox. Each looks for that in its transactions and then ends
(`EnrolledSinks`): it would write for an outbox that no forwarder reads, or deliver what another sink is owed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from pipeline.errors import Outdated
from pipeline.process.clock import Clock
from pipeline.process.logs import Logger
from pipeline.store.database import Database, Tx

KNOWN = "SELECT number, outbox, sink, alone_until FROM sinks ORDER BY number"
IS_OF = "SELECT 1 FROM sinks WHERE outbox = ? AND sink = ?"
PUT = "INSERT OR REPLACE INTO sinks (number, outbox, sink, alone_until) VALUES (?, ?, ?, ?)"
ALONE = "SELECT outbox, alone_until FROM sinks WHERE alone_until > 0"
RENAME = tuple(
    f"UPDATE {table} SET sink = ?2 WHERE sink = ?1"  # noqa: S608 (our own text)
    for table in ("outbox", "outbox_dead", "replays", "replay_queue")
)
_BEFORE_ALL = -1
_CHANGED = "the sinks of the database changed: another process has another EVENTS_SINK; give all stages the same"


class SinkName(str):
    """Name of the outbox of a sink, as it stands in the database."""

    __slots__ = ()
    PUBSUB: ClassVar["SinkName"]
    """That of a sink which is alone, and of Pub/Sub."""
    RELAY: ClassVar["SinkName"]
    """That of the target relay."""


SinkName.PUBSUB = SinkName("pubsub")
SinkName.RELAY = SinkName("relay")


class KnownSink(NamedTuple):
    """A sink of this database, its outbox and its number; `sink` is empty for one that was never named.

    `alone_until`: when its outbox, until then `pubsub`, was given its name (ms); 0: never.
    """

    number: int
    outbox: SinkName
    sink: str
    alone_until: int = 0


class OwnOutcomes(NamedTuple):
    """Which outcomes are of a sink: under its name those after a time (ms), and under `pubsub` those up to another."""

    after: int
    alone_until: int


class SinksChanged(Outdated):
    """Another process has noted other sinks since this one did."""


@dataclass(frozen=True, slots=True)
class EnrolledSinks:
    """The sinks of `EVENTS_SINK` and their outboxes, in its order, as this process noted them."""

    names: tuple[str, ...]
    outboxes: tuple[SinkName, ...]
    known: tuple[SinkName, ...]
    """All outboxes of the database at that time."""

    def check(self, tx: Tx) -> None:
        """Raise `SinksChanged` if any outbox was renamed or added since; for a process that writes for all."""
        if known(tx) != self.known:
            raise SinksChanged(_CHANGED)

    def check_one(self, tx: Tx, number: int) -> None:
        """Raise `SinksChanged` if the outbox of this number is not that of its sink any more."""
        if tx.execute(IS_OF, (self.outboxes[number], self.names[number])).fetchone() is None:
            raise SinksChanged(_CHANGED)


def known(tx: Tx) -> tuple[SinkName, ...]:
    """Return the outboxes of all sinks that this database has or had, in the order of their numbers."""
    return tuple(each.outbox for each in _read(tx))


def outboxes(tx: Tx, names: Sequence[str]) -> tuple[SinkName, ...]:
    """Return the outboxes of the sinks of these names, in their order."""
    return _of(assigned(_read(tx), names), names)


def outcomes_of(tx: Tx, sink: SinkName) -> OwnOutcomes:
    """Return which outcomes are those of the sink that has this outbox now."""
    row = tx.execute(ALONE).fetchone()
    if row is None:
        return OwnOutcomes(_BEFORE_ALL, _BEFORE_ALL)
    outbox, until = row
    return OwnOutcomes(until if sink == SinkName.PUBSUB else _BEFORE_ALL, until if sink == outbox else _BEFORE_ALL)


def sink_of(tx: Tx, name: str, at: int) -> str:
    """Return the outbox, by its name of now, of the sink that had an outcome under a name at a time (ms)."""
    row = tx.execute(ALONE).fetchone() if name == SinkName.PUBSUB else None
    return str(row[0]) if row is not None and at <= row[1] else name


def enroll(database: Database, names: Sequence[str], clock: Clock, log: Logger) -> EnrolledSinks:
    """Note the sinks of these names, with what changes by it; for a process that is about to use their outboxes."""
    with database.read() as tx:
        before = _read(tx)
    after = assigned(before, names)
    if after != before:
        with database.write() as tx:
            before = _read(tx)
            after = assigned(before, names)
            _write(tx, before, after, clock.now_ms())
        for each in after[len(before) :]:
            log.info("sink added: it gets events saved from now on", sink=each.sink, outbox=each.outbox)
    return EnrolledSinks(tuple(names), _of(after, names), tuple(each.outbox for each in after))


def assigned(sinks: Sequence[KnownSink], names: Sequence[str]) -> tuple[KnownSink, ...]:
    """Return `sinks` with those that `EVENTS_SINK` names, the first first; pure."""
    if not names:
        return tuple(sinks)
    forwarded = [each for each in sinks if each.outbox != SinkName.RELAY]
    if len(names) == 1 and [each.outbox for each in forwarded] in ([], [SinkName.PUBSUB]):
        return tuple(each._replace(sink=names[0]) if each in forwarded else each for each in sinks)
    # One that was never named is the first one's: the version before had one sink alone.
    named = [each if each.sink else each._replace(sink=names[0]) for each in sinks]
    found = [each._replace(outbox=SinkName(each.sink)) for each in named]
    new = [name for name in names if name not in {each.sink for each in found}]
    next_number = 1 + max(each.number for each in found)
    return (*found, *(KnownSink(number, SinkName(name), name) for number, name in enumerate(new, next_number)))


def _read(tx: Tx) -> tuple[KnownSink, ...]:
    return tuple(KnownSink(number, SinkName(outbox), *more) for number, outbox, *more in tx.execute(KNOWN))


def _of(sinks: Iterable[KnownSink], names: Sequence[str]) -> tuple[SinkName, ...]:
    by_sink = {each.sink: each.outbox for each in sinks}
    return tuple(by_sink[name] for name in names)


def _write(tx: Tx, before: Sequence[KnownSink], after: Sequence[KnownSink], now: int) -> None:
    renamed = {new.number for old, new in zip(before, after, strict=False) if old.outbox != new.outbox}
    for old, new in zip(before, after, strict=False):
        if new.number in renamed:
            # No more rows than backpressure lets wait.
            for statement in RENAME:
                tx.execute(statement, (old.outbox, new.outbox))
    tx.executemany(PUT, (each._replace(alone_until=now) if each.number in renamed else each for each in after))
