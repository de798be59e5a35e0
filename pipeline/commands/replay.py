"""`event-service replay`: delivers a span of time to the sink once more, for a consumer that lost its state."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import click

from pipeline.audit.client import Interrupted
from pipeline.audit.policy import is_auditable, policy_of
from pipeline.commands import replay_report
from pipeline.commands.backfill import Moment
from pipeline.commands.bootstrap import config_or_exit, of_running_service, open_existing_or_exit
from pipeline.commands.output import number_of, say
from pipeline.commands.progress import Progress
from pipeline.commands.relays import Address
from pipeline.commands.users import PublicKey
from pipeline.process.clock import Clock, SystemClock
from pipeline.process.doorbell import Doorbells
from pipeline.process.heartbeat import read_heartbeats
from pipeline.process.liveness import utc
from pipeline.process.locks import FileLock, locks_directory
from pipeline.process.stop import Stop
from pipeline.replay.fetcher import Fetcher, FetchPolicy, NoRelayAnswered
from pipeline.replay.replay import ReplayRun, Watcher
from pipeline.replay.selection import ReplayCount, ReplaySelection, count
from pipeline.rules.relevance import Rule
from pipeline.settings.config import Config
from pipeline.status.snapshot import sinks_of, stage_of
from pipeline.store import relay_records, relays, replay_queue, replays, sinks
from pipeline.store.database import Database, Tx
from pipeline.store.relay_records import RelayRecord
from pipeline.store.replays import Replay, ReplayScope
from pipeline.store.sinks import SinkName

_RATE: Final = 100.0
_MAX_RELAYS: Final = 100_000
_ROWS_AT_ONCE: Final = 1_000
_LOCK: Final = "replay.lock"
_LOOK_S: Final = 0.5
_GOES_ON: Final = "event-service replay --resume goes on"
_UNFINISHED: Final = "a replay is unfinished: --resume goes on with it, --cancel ends it"


@dataclass(frozen=True, slots=True)
class _ReplayOrder:
    """What the command line asks for; times in seconds."""

    since: int | None
    until: int | None
    keys: tuple[bytes, ...]
    rules: tuple[str, ...]
    sink: str | None = None
    """Of several; `None` for the one that is named first."""


_NOTHING: Final = _ReplayOrder(None, None, (), ())


@click.command()
@click.option(
    "--since", type=Moment(), help="What was delivered from then on: 2h (ago), 2024-05-01T12:00Z, Unix seconds."
)
@click.option("--until", type=Moment(), help="And up to then; default: now.")
@click.option("--author", "keys", type=PublicKey(), multiple=True, help="Only what this key wrote; may be repeated.")
@click.option("--rule", "rules", type=click.Choice([rule.value for rule in Rule]), multiple=True,
              help="Only what this rule matches; may be repeated.")  # fmt: skip
@click.option("--relay", "addresses", type=Address(), multiple=True,
              help="Fetch what is not kept from this relay only; may be repeated.")  # fmt: skip
@click.option("--sink", help="Of several sinks the one to deliver to again; default: the one named first.")
@click.option("--rate", type=click.FloatRange(0.1, 10_000), default=_RATE, show_default=True,
              help="Most events a second.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only print how many events there are, and from where they would come.")
@click.option("--resume", is_flag=True, help="Go on with the replay that was interrupted.")
@click.option("--cancel", is_flag=True, help="End it, and drop what is queued.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def replay(  # noqa: PLR0913, PLR0917  (one for each option)
    since: int | None, until: int | None, keys: tuple[bytes, ...], rules: tuple[str, ...], addresses: tuple[str, ...],
    sink: str | None, rate: float, dry_run: bool, resume: bool, cancel: bool, as_json: bool,
) -> None:  # fmt: skip
    """Deliver again what the sink was given in a span of time, for a consumer that lost its state.

    --since and --until are times of the first delivery. An event whose payload is gone is fetched from relays and
    verified again. Messages have the attribute replay=true and the same ids as before. New events go first. The target
    relay gets nothing. The exit code is 1 if any event was found nowhere or refused.

    \b
    Examples:
      event-service replay --since 2h --dry-run
      event-service replay --since 2024-05-01T12:00Z --until 2024-05-02
      event-service replay --since 7d --rule mention --rate 20
      event-service replay --resume
    """
    order = _ReplayOrder(since, until, keys, rules, sink)
    _check_options(order, dry_run=dry_run, resume=resume, cancel=cancel)
    config = config_or_exit()
    with open_existing_or_exit(config) as database, _locked(config):
        config = of_running_service(config, database)
        if cancel:
            return _cancel(database)
        if dry_run:
            return _dry_run(config, database, _scope(config, database, order), addresses, as_json=as_json)
        one = _resumed(database) if resume else _begin(config, database, order)
        work = _ReplayWork(config, database, _relays(database, addresses))
        try:
            one = work.run(one, rate)
        except (KeyboardInterrupt, Interrupted):
            say(f"\ninterrupted; {_GOES_ON}", err=True)
            sys.exit(1)
        except NoRelayAnswered as error:
            raise click.ClickException(f"no relay could be asked: {error}; {_GOES_ON}") from error
        _report(database, one, work, as_json=as_json)
    sys.exit(1 if one.missing or one.refused else 0)


def _check_options(order: _ReplayOrder, *, dry_run: bool, resume: bool, cancel: bool) -> None:
    """Refuse what would be ignored: a replay that was begun keeps what it is about."""
    if resume and cancel:
        raise click.UsageError("--resume and --cancel exclude each other")
    if (resume or cancel) and (dry_run or order != _NOTHING):
        name = "--resume" if resume else "--cancel"
        raise click.UsageError(f"{name} is about the replay that was begun, as it was begun: give no other choice")


@contextmanager
def _locked(config: Config) -> Iterator[None]:
    """Keep other replays of this database from running."""
    lock = FileLock.take(locks_directory(config.database_path) / _LOCK, config.database_path.stat())
    if lock is None:
        raise click.ClickException("another event-service replay runs on this database")
    try:
        yield
    finally:
        lock.release()


def _unfinished(database: Database) -> Replay | None:
    with database.read() as tx:
        newest = replays.latest(tx)
    return None if newest is None or newest.is_over else newest


def _resumed(database: Database) -> Replay:
    found = _unfinished(database)
    if found is None:
        raise click.ClickException("no replay was interrupted")
    return found


def _cancel(database: Database) -> None:
    with database.write() as tx:
        found = replays.latest(tx)
        if found is None or (found.is_over and not replay_queue.pending(tx, found.job)):
            raise click.ClickException("there is no replay to be cancelled")
        dropped = replays.cancel(tx, found, SystemClock().now_ms())
    say(f"replay {found.job} cancelled: {number_of(dropped, 'queued event')} dropped")


def _scope(config: Config, database: Database, order: _ReplayOrder) -> ReplayScope:
    if order.since is None:
        raise click.UsageError("--since is needed")
    now = SystemClock().now_ms()
    until = now if order.until is None else min(order.until * 1000, now)
    if order.since * 1000 > until:
        raise click.UsageError("--since is after --until")
    with database.read() as tx:
        outbox = _outbox(config, tx, order.sink)
    return ReplayScope(outbox, order.since * 1000, until, tuple(sorted(set(order.keys))), tuple(set(order.rules)))


def _outbox(config: Config, tx: Tx, sink: str | None) -> SinkName:
    names = config.sink_names
    if not names:
        raise click.ClickException("EVENTS_SINK is off: there is no sink to be given anything")
    if sink is not None and sink not in names:
        raise click.UsageError(f"there is no sink {sink}; EVENTS_SINK names {', '.join(names)}")
    return sinks.outboxes(tx, names)[0 if sink is None else names.index(sink)]


def _begin(config: Config, database: Database, order: _ReplayOrder) -> Replay:
    if _unfinished(database) is not None:
        raise click.ClickException(_UNFINISHED)
    scope = _scope(config, database, order)
    found = _count(config, database, scope)
    say(_counted(found), err=True)
    with database.write() as tx:
        # Counting may take minutes: the outbox may have another name since.
        scope = replace(scope, sink=_outbox(config, tx, order.sink))
        one = replays.add(tx, scope, found.total, SystemClock().now_ms())
    is_left = True
    while is_left:
        with database.write() as tx:
            is_left = replays.forget_earlier(tx, one.job, _ROWS_AT_ONCE)
    return one


def _count(config: Config, database: Database, scope: ReplayScope) -> ReplayCount:
    now = SystemClock().now_ms()
    if scope.since < now - config.seen_retention:
        oldest = utc((now - config.seen_retention) // 1000)
        say(f"ids are kept for EVENTS_SEEN_RETENTION only: what was delivered before {oldest} may be missing", err=True)
    say("looking through all ids that are kept", err=True)
    return count(database, scope, ReplaySelection(database, scope))


def _counted(found: ReplayCount) -> str:
    return f"{number_of(found.total, 'event')}: {found.kept:,} kept, {found.not_kept:,} to be fetched from relays"


def _dry_run(
    config: Config, database: Database, scope: ReplayScope, addresses: Sequence[str], *, as_json: bool
) -> None:
    found, asked = _count(config, database, scope), _relays(database, addresses)
    if as_json:
        value = replay_report.scope_value(scope) | {
            "total": found.total,
            "kept": found.kept,
            "to_fetch": found.not_kept,
        }
        say(json.dumps(value | {"relays": [each.address for each in asked]}))
        return
    say(f"{_counted(found)} ({number_of(len(asked), 'relay')} would be asked)")
    if found.not_kept and scope.rules:
        say("of those to be fetched, what the rule does not match is known only once it is here")


def _relays(database: Database, addresses: Sequence[str]) -> list[RelayRecord]:
    """Return which relays are asked for what is not kept: those named, or all that were connected, the best first."""
    with database.read() as tx:
        if not addresses:
            known = relay_records.records(tx, everything=False, limit=_MAX_RELAYS)
            return [each for each in known if is_auditable(each)]
        found = {address: relays.find(tx, address) for address in addresses}
        unknown = [address for address, number in found.items() if number is None]
        if unknown:
            raise click.ClickException(f"{unknown[0]} is not known; `event-service relays add` it first")
        everything = relay_records.records(tx, everything=True, limit=_MAX_RELAYS)
    return [each for each in everything if each.relay in found.values()]


class _ReplayWork:
    """One run of a replay, and what it says on the way."""

    def __init__(self, config: Config, database: Database, asked: Sequence[RelayRecord]) -> None:
        self.relays = asked
        self._config = config
        self._database = database
        self._clock: Clock = SystemClock()
        self._stop = Stop()
        policy = policy_of(config)
        self.fetcher = Fetcher(asked, FetchPolicy(policy.ask, policy.limits), self._clock, self._stop)
        self._has_warned = False
        self._done = 0

    def run(self, one: Replay, rate: float) -> Replay:
        """Queue everything, and wait until it is delivered; return what became of it."""
        progress, bells = Progress(self._clock), Doorbells(self._config.database_path)
        with progress.step("events queued", one.total) as advance:
            watcher = Watcher(
                lambda now: self._advance(advance, now), lambda: _ring(bells), partial(self._warn, one.scope.sink)
            )
            run = ReplayRun(self._database, one, self.fetcher, rate, self._clock, self._stop, watcher)
            self._advance(advance, run.replay)
            run.run()
        return self._wait_delivered(progress, run.replay)

    def _advance(self, advance: Callable[[int], object], now: Replay) -> None:
        done = now.queued + now.other_rule + now.missing
        advance(done - self._done)
        self._done = done

    def _warn(self, sink: str, pending: int) -> None:
        """Say once that nothing takes what is queued."""
        if not self._has_warned and not self._forwarder_runs(sink):
            self._has_warned = True
            count = number_of(pending, "event")
            say(f"no forwarder of sink {sink} runs: {count} wait for it; start event-service supervise", err=True)

    def _wait_delivered(self, progress: Progress, one: Replay) -> Replay:
        left = self._pending(one)
        # All is queued: an interrupt ends only the wait.
        with progress.step("events delivered", left) as advance, suppress(KeyboardInterrupt):
            while left and self._forwarder_runs(one.scope.sink):
                self._stop.wait(_LOOK_S)
                now = self._pending(one)
                advance(left - now)
                left = now
        if left:
            self._warn(one.scope.sink, left)
        with self._database.read() as tx:
            newest = replays.latest(tx)
        assert newest is not None, "it was run"
        return newest

    def _pending(self, one: Replay) -> int:
        with self._database.read() as tx:
            return replay_queue.pending(tx, one.job)

    def _forwarder_runs(self, sink: str) -> bool:
        with self._database.read() as tx:
            on = sinks_of(self._config, tx)
        directory = self._config.runtime_directory
        readings = read_heartbeats(directory, self._clock) if directory.exists() else []
        alive = {each.slot_name.rpartition("-")[0] for each in readings if each.alive}
        return sink in on and stage_of(SinkName(sink), on) in alive


def _ring(bells: Doorbells) -> None:
    bells.ring("forwarder")


def _report(database: Database, one: Replay, work: _ReplayWork, *, as_json: bool) -> None:
    with database.read() as tx:
        missing, pending = replays.missing(tx, one.job), replay_queue.pending(tx, one.job)
    problems = work.fetcher.problems
    if as_json:
        say(json.dumps(replay_report.value(one, missing, pending, problems)))
    else:
        say("\n".join(replay_report.lines(one, missing, pending, len(work.relays), problems)))
