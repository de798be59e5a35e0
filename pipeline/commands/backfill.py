"""`event-service backfill`: has a running service fetch a span of the past, and shows how far it is."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import click

from pipeline.commands.bootstrap import config_or_exit, of_running_service, open_existing_or_exit, open_to_read_or_exit
from pipeline.commands.output import number_of, say
from pipeline.commands.relays import Address
from pipeline.commands.users import PublicKey
from pipeline.printable import count_of
from pipeline.process.clock import Clock, SystemClock
from pipeline.process.heartbeat import HeartbeatReading, read_heartbeats
from pipeline.process.stop import Stop
from pipeline.settings.choices import HostRole
from pipeline.settings.config import Config
from pipeline.settings.values import InvalidValue, duration_ms
from pipeline.status.host_diagnosis import is_away
from pipeline.store import authors, backfills, hosts, inbox, relay_records, relays
from pipeline.store.backfills import Backfill, BackfillProgress
from pipeline.store.database import Database, Tx

_LOOK_EVERY_S: Final = 0.5
_SAY_EVERY_S: Final = 5.0
_BAR_CHARS: Final = 20
# A relay that is away for this time while all others are done is not waited for.
_AWAY_S: Final = 60.0
# The saver comes to what was read last a moment later; one that is away for longer is not waited for.
_SAVE_S: Final = 30.0
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """A moment of the past as Unix seconds: `30d` (ago), `2024-05-01`, `2024-05-01T12:00:00Z` (UTC) or seconds."""

    name = "time"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds; fails with what is wrong."""
        if isinstance(value, int) or _SECONDS.fullmatch(value):
            return int(value)
        try:
            return SystemClock().now_ms() // 1000 - duration_ms(value) // 1000
        except InvalidValue:
            pass
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither a time ago (30d), a date (2024-05-01) nor Unix seconds", param, ctx)
        return int((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp())


@dataclass(frozen=True, slots=True)
class _View:
    """A job at one moment; `away`: relays that are not over and not connected."""

    progress: Sequence[BackfillProgress]
    away: frozenset[int]

    @property
    def is_over(self) -> bool:
        return all(each.is_over for each in self.progress)

    @property
    def waits_only(self) -> bool:
        """Return True if no relay of those connected has anything left to do."""
        return all(each.is_over or each.relay in self.away for each in self.progress)

    @property
    def percent(self) -> int:
        shares = (1.0 if each.is_over else each.done / each.parts if each.parts else 0.0 for each in self.progress)
        return int(100 * sum(shares) / max(len(self.progress), 1))

    def short_text(self) -> str:
        """Return what fits beside the bar in 80 columns."""
        over, events = sum(each.is_over for each in self.progress), sum(each.events for each in self.progress)
        return f"{over}/{count_of(len(self.progress), 'relay')}, {count_of(events, 'event')}"

    def text(self) -> str:
        over = sum(each.is_over for each in self.progress)
        done, parts = sum(each.done for each in self.progress), sum(each.parts for each in self.progress)
        events = sum(each.events for each in self.progress)
        relays, requests = count_of(len(self.progress), "relay"), count_of(parts, "request")
        return f"{over} of {relays}, {done} of {requests}, {count_of(events, 'event')} read"


@click.command()
@click.option("--since", type=Moment(), help="Start: 30d (ago), 2024-05-01, or Unix seconds.")
@click.option("--until", type=Moment(), help="End; default: now.")
@click.option("--relay", "addresses", type=Address(), multiple=True, help="Only from this relay; may be repeated.")
@click.option("--author", "keys", type=PublicKey(), multiple=True, help="Only what this key wrote; may be repeated.")
@click.option("--no-wait", is_flag=True, help="Order the job and exit.")
@click.option("--attach", type=int, metavar="JOB", help="Show the progress of a job.")
@click.option("--cancel", type=int, metavar="JOB", help="Cancel a job.")
@click.option("--list", "do_list", is_flag=True, help="Print all jobs.")
@click.option("--json", "as_json", is_flag=True, help="With --list: one JSON object a line instead of text.")
def backfill(  # noqa: PLR0913, PLR0917  (one for each option)
    since: int | None, until: int | None, addresses: tuple[str, ...], keys: tuple[bytes, ...],
    no_wait: bool, attach: int | None, cancel: int | None, do_list: bool, as_json: bool,
) -> None:  # fmt: skip
    """Have the crawlers of a running service fetch relevant events of a span of the past, with low priority.

    The job continues when this command ends, and after a restart. The same job ordered again while it runs is shown.
    Where several hosts crawl, it is ordered at home, and done by the hosts that hold the relays.

    Example: event-service backfill --since 2024-01-01 --until 2024-02-01
    """
    config = config_or_exit()
    if config.role is HostRole.CRAWLER and not do_list:
        raise click.ClickException("jobs of a crawling host come from home: run this there")
    only_looks = do_list or (attach is not None and cancel is None)
    with (open_to_read_or_exit if only_looks else open_existing_or_exit)(config) as database:
        config = of_running_service(config, database)
        if do_list:
            _list(database, as_json=as_json)
        elif cancel is not None:
            _cancel(database, cancel)
        else:
            job = _job(database, attach) if attach is not None else _order(database, since, until, addresses, keys)
            if not no_wait:
                _show(config, database, job)


def _order(
    database: Database, since: int | None, until: int | None, addresses: tuple[str, ...], keys: tuple[bytes, ...]
) -> Backfill:
    if since is None:
        raise click.UsageError("--since is needed")
    now = SystemClock().now_ms()
    end = now // 1000 if until is None else min(until, now // 1000)
    if since > end:
        raise click.UsageError("--since is after --until")
    with database.write() as tx:
        chosen = _relays(tx, addresses)
        wanted = tuple(sorted(set(keys)))
        for known in backfills.every(tx):
            same = (known.since, known.authors) == (since, wanted) and until in (None, known.until)
            progress = backfills.progress(tx, known.job)
            same = same and (not addresses or {each.relay for each in progress} == set(chosen))
            if same and not known.is_cancelled and not all(each.is_over for each in progress):
                say(f"job {known.job} is under way", err=True)
                return known
        number = backfills.add(tx, since, end, wanted, chosen, now)
    say(f"job {number}: {count_of(len(chosen), 'relay')}", err=True)
    return _job(database, number)


def _relays(tx: Tx, addresses: tuple[str, ...]) -> list[int]:
    if not addresses:
        chosen = list(backfills.connected(tx))
        if not chosen:
            raise click.ClickException("no relay is connected; does the service run?")
        return chosen
    found = {address: relays.find(tx, address) for address in addresses}
    unknown = [address for address, number in found.items() if number is None]
    if unknown:
        raise click.ClickException(f"{unknown[0]} is not known; `event-service relays add` it first")
    return sorted(number for number in found.values() if number is not None)


def _job(database: Database, number: int) -> Backfill:
    with database.read() as tx:
        for job in backfills.every(tx):
            if job.job == number:
                return job
    raise click.ClickException(f"there is no job {number}")


def _show(config: Config, database: Database, job: Backfill) -> None:
    if not _is_crawling(config, database):
        say("no crawler runs; the job waits for one", err=True)
    clock, stop = SystemClock(), Stop()
    away_since: float | None = None
    with _bar(job) as update:
        try:
            while True:
                view = _view(database, job)
                update(view)
                now = clock.monotonic()
                away_since = (away_since or now) if view.waits_only else None
                if view.is_over or (away_since is not None and now - away_since > _AWAY_S):
                    break
                stop.wait(_LOOK_EVERY_S)
            is_saved = _wait_saved(database, clock, stop)
        except KeyboardInterrupt:
            say(f"\njob {job.job} goes on; see --attach {job.job} and --cancel {job.job}", err=True)
            return
    _summarize(database, job, view, is_saved=is_saved)


def _wait_saved(database: Database, clock: Clock, stop: Stop) -> bool:
    """Wait until the saver has come to all that is in the inbox now; return False if that takes over `_SAVE_S`."""
    until = clock.monotonic() + _SAVE_S
    with database.read() as tx:
        newest = inbox.newest(tx)
    while True:
        with database.read() as tx:
            if not inbox.any_unattempted_up_to(tx, newest):
                return True
        if clock.monotonic() > until:
            return False
        stop.wait(_LOOK_EVERY_S)


def _summarize(database: Database, job: Backfill, view: _View, *, is_saved: bool) -> None:
    with database.read() as tx:
        numbers = [number for key in job.authors if (number := authors.find(tx, key)) is not None]
        new = backfills.count_new(tx, job, numbers)
        names = {record.relay: record.address for record in relay_records.records(tx, everything=True, limit=1_000_000)}
    more = "" if is_saved else ", and the inbox holds events that are not saved yet"
    say(f"{view.text()}; new since the job was ordered: {count_of(new, 'event')} of that time{more}")
    for each in view.progress:
        if not each.is_over:
            say(f"{names.get(each.relay, '?')}: not there; the job waits for it")
        elif each.incomplete:
            unserved = f"{each.incomplete} of {count_of(each.parts, 'request', 'were')} not served whole"
            say(f"{names.get(each.relay, '?')}: {unserved}")


def _view(database: Database, job: Backfill) -> _View:
    with database.read() as tx:
        progress = backfills.progress(tx, job.job)
        there = backfills.connected(tx)
    return _View(progress, frozenset(each.relay for each in progress if each.relay not in there and not each.is_over))


def _list(database: Database, *, as_json: bool) -> None:
    with database.read() as tx:
        for job in backfills.every(tx):
            view = _View(backfills.progress(tx, job.job), frozenset())
            state = "cancelled" if job.is_cancelled else "done" if view.is_over else "under way"
            if as_json:
                value = {"job": job.job, "state": state, "since": _date(job.since), "until": _date(job.until)}
                say(json.dumps(value | {"authors": [key.hex() for key in job.authors], "percent": view.percent}))
                continue
            about = f", {number_of(len(job.authors), 'author')}" if job.authors else ""
            say(f"{job.job} {state}: {_date(job.since)} to {_date(job.until)}{about}; {view.text()}")


def _cancel(database: Database, number: int) -> None:
    with database.write() as tx:
        if not backfills.cancel(tx, number, SystemClock().now_ms()):
            raise click.ClickException(f"there is no job {number} to be cancelled")
    say(f"job {number} cancelled")


def _is_crawling(config: Config, database: Database) -> bool:
    """Return True if a crawler runs here or, where this is home, another host calls that has some."""
    if config.role is HostRole.HOME:
        with database.read() as tx:
            return not all(is_away(each) for each in hosts.every(tx))
    return any(reading.slot_name.startswith("crawler") and reading.alive for reading in _heartbeats(config))


def _heartbeats(config: Config) -> list[HeartbeatReading]:
    return read_heartbeats(config.runtime_directory, SystemClock()) if config.runtime_directory.exists() else []


@contextmanager
def _bar(job: Backfill) -> Iterator[Callable[[_View], None]]:
    """A bar on a terminal, a line now and then otherwise; on standard error."""
    if sys.stderr.isatty():
        with click.progressbar(
            length=100, label=f"job {job.job}", file=sys.stderr, item_show_func=_shown, width=_BAR_CHARS
        ) as bar:
            yield lambda view: bar.update(view.percent - bar.pos, view)
        return
    clock = SystemClock()
    said_at = clock.monotonic()

    def show_at_times(view: _View) -> None:
        nonlocal said_at
        if clock.monotonic() - said_at >= _SAY_EVERY_S:
            said_at = clock.monotonic()
            say(f"job {job.job}: {view.text()}", err=True)

    yield show_at_times


def _shown(view: "_View | None") -> str | None:
    return None if view is None else view.short_text()


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
