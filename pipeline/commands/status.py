"""`event-service status`: what the service does right now, and what is wrong with it."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

import click

from pipeline.commands.bootstrap import config_or_exit, of_running_service, open_to_read_or_exit, settings_of_service
from pipeline.commands.output import say
from pipeline.printable import count_of
from pipeline.process.clock import Clock, SystemClock
from pipeline.process.heartbeat import read_heartbeats
from pipeline.process.liveness import StageHealth
from pipeline.process.page_token import read_page_token
from pipeline.process.stop import Stop
from pipeline.settings.choices import StatusPageAccess
from pipeline.settings.config import Config
from pipeline.settings.running import differences
from pipeline.settings.typos import unknown_settings
from pipeline.settings.values import HostPort
from pipeline.status.diagnosis import Diagnosis, Severity, rough_duration
from pipeline.status.host_view import host_lines
from pipeline.status.service_diagnosis import diagnose
from pipeline.status.snapshot import Snapshot, counted, read_snapshot
from pipeline.store.database import Database
from pipeline.store.throughput import Sample

_EVERY_ADDRESS: Final = ("", "0.0.0.0", "::")  # noqa: S104  # compared, not listened on
_COLUMN: Final = 14
_EVERY_S: Final = 1.0
_CLEAR: Final = "\x1b[H\x1b[2J"
_NO_PAGE: Final = "there is no status page: {}"
_NO_WEB_SERVER: Final = "no web server runs; start event-service supervise"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option("--watch", is_flag=True, help="Refresh every second until Ctrl-C.")
@click.option("--url", "only_url", is_flag=True, help="Print the address that opens the status page, and nothing else.")
def status(as_json: bool, watch: bool, only_url: bool) -> None:
    """Print problems and what to do, then stages, queues and relays of a running service.

    A line that begins with ! is a problem: something stands still, or events are dead letters. One with ~ is a note:
    the service copes, but is late or incomplete. The exit code is 1 while there is a problem, otherwise 0; with
    --watch it is that of the last refresh.

    \b
    Examples:
      event-service status
      event-service status --watch
      event-service status --url
      event-service status --json | jq '.troubles[].what'
    """
    config, clock = config_or_exit(), SystemClock()
    with open_to_read_or_exit(config) as database:
        config = of_running_service(config, database)
        if only_url:
            address = page_url(config)
            if not _web_server_runs(config, clock):
                raise click.ClickException(_NO_PAGE.format(_NO_WEB_SERVER))
            return say(address)
        is_well = show(config, database, clock, as_json=as_json)
        stop = Stop()
        while watch:
            try:
                stop.wait(_EVERY_S)
                if sys.stdout.isatty() and not as_json:
                    click.echo(_CLEAR, nl=False)
                is_well = show(config, database, clock, as_json=as_json)
            except KeyboardInterrupt:
                break
    sys.exit(0 if is_well else 1)


def page_url(config: Config) -> str:
    """Return the address of the status page, with what opens it; ends the program where there is none."""
    host, port = config.listen_address.host, config.listen_address.port
    address = f"http://{HostPort('localhost' if host in _EVERY_ADDRESS else host, port)}/"
    if config.status_page is StatusPageAccess.EVERYONE:
        return address
    token = read_page_token(config.runtime_directory)
    if config.status_page is StatusPageAccess.OFF or token is None:
        is_off = config.status_page is StatusPageAccess.OFF
        raise click.ClickException(_NO_PAGE.format("EVENTS_STATUS_PAGE is off" if is_off else _NO_WEB_SERVER))
    return f"{address}?token={token}"


def _web_server_runs(config: Config, clock: Clock) -> bool:
    """Return True if a process of the stage `server` is alive; its token stays when it ends."""
    readings = read_heartbeats(config.runtime_directory, clock)
    return any(each.alive and each.slot_name.partition("-")[0] == "server" for each in readings)


def show(config: Config, database: Database, clock: Clock, *, as_json: bool) -> bool:
    """Print the status once; return True if there is no problem."""
    seen = read_snapshot(config, database, clock)
    found = [*diagnose(seen, config.max_queue_age), *_unknown_settings(), *_other_settings(config)]
    say(json.dumps(as_value(seen, found)) if as_json else as_text(seen, found))
    return not any(each.severity is Severity.PROBLEM for each in found)


def _unknown_settings() -> list[Diagnosis]:
    return [
        Diagnosis(Severity.NOTE, "settings", str(each), "Correct or remove it; it is passed over.")
        for each in unknown_settings(os.environ)
    ]


def _other_settings(config: Config) -> list[Diagnosis]:
    """Return what this environment sets to something else than the service runs with, which is what is shown."""
    recorded = settings_of_service(config.runtime_directory)
    return [
        Diagnosis(
            Severity.NOTE, "settings", f"{name} is {here} here, and the service runs with {there}",
            "The service's is shown. Restart the service if it should have yours.",
        )
        for name, (here, there) in differences(os.environ, recorded).items()
    ]  # fmt: skip


def as_value(snapshot: Snapshot, found: list[Diagnosis]) -> dict[str, Any]:
    """Return the status for scripts."""
    return {
        "troubles": [asdict(each) for each in found],
        "stages": [asdict(stage) for stage in snapshot.stages],
        "queues": [asdict(queue) for queue in snapshot.queues],
        "sinks": [asdict(sink) for sink in snapshot.sinks],
        "relays": _states(snapshot),
        "hosts": [asdict(host) for host in snapshot.hosts],
        "unfit": [each._asdict() for each in snapshot.unfit],
        "replay": None if snapshot.replay is None else asdict(snapshot.replay),
        "gaps": [asdict(gap) for gap in snapshot.gaps],
        "known_addresses": snapshot.known_addresses,
        "registered_users": snapshot.registered_users,
        "wanted_authors": snapshot.budget.authors,
        "waiting_followees": snapshot.waiting.followees,
        "database_bytes": snapshot.database_bytes,
        "wal_bytes": snapshot.wal_bytes,
        "free_bytes": snapshot.free_bytes,
    }


def as_text(snapshot: Snapshot, found: list[Diagnosis]) -> str:
    """Return the status for a person."""
    lines = [line for each in found for line in _lines(each)] or ["all is well"]
    width = max(_COLUMN, *map(len, _names(snapshot)))
    lines += ["", *(_stage(stage, width) for stage in snapshot.stages), ""]
    for queue in snapshot.queues:
        oldest = "" if queue.oldest_ms is None else f", the oldest for {rough_duration(queue.oldest_ms)}"
        size = f" ({queue.bytes >> 20} MiB)" if queue.bytes >> 20 else ""
        dead = "1 dead letter" if queue.dead == 1 else f"{queue.dead} dead letters"
        lines.append(f"{queue.name:<{width}} {queue.waiting} pending{size}{oldest}, {dead}")
    for sink in snapshot.sinks:
        retries = f"; retried: {counted(sink.retries)}" if sink.retries else ""
        lines.append(f"{f'sink {sink.name}':<{width}} {sink.target}{retries}")
    if (replay := snapshot.replay) is not None:
        more = "" if replay.is_over else "; if none runs, event-service replay --resume goes on"
        queued = f"{replay.queued:,} of {count_of(replay.total, 'event')} queued"
        lines.append(f"{'replay':<14} {queued}, {replay.pending:,} pending{more}")
    if rates := _rates(snapshot.samples):
        lines.append(f"{'rates':<14} {rates}")
    if snapshot.hosts:
        lines += ["", *host_lines(snapshot)]
    relays = ", ".join(f"{count} {state}" for state, count in _states(snapshot).items()) or "none crawled yet"
    lines += [
        "",
        f"relays         {relays}; {count_of(snapshot.known_addresses, 'address')} known",
        f"users          {snapshot.registered_users} registered, {count_of(snapshot.budget.authors, 'author')} wanted",
        f"database       {snapshot.database_bytes >> 20} MiB, write-ahead log {snapshot.wal_bytes >> 20} MiB, "
        f"{snapshot.free_bytes >> 20} MiB free",
    ]
    return "\n".join(lines)


def _rates(samples: Sequence[Sample]) -> str:
    """Throughput between the last two samples, and latency in the last; empty before there are two."""
    if len(samples) < 2:
        return ""
    before, last = samples[-2:]
    seconds = max(1, last.at - before.at) / 1000
    arrived, delivered = (last.arrived - before.arrived) / seconds, (last.handed_on - before.handed_on) / seconds
    text = f"{max(0.0, arrived):,.1f} arrived/s, {max(0.0, delivered):,.1f} delivered/s"
    if last.median is None or last.slowest is None:
        return text
    return f"{text}; first seen to delivered: median {last.median:,} ms, 99th percentile {last.slowest:,} ms"


def _lines(diagnosis: Diagnosis) -> list[str]:
    mark = "!" if diagnosis.severity is Severity.PROBLEM else "~"
    lines = [f"{mark} {diagnosis.subject}: {diagnosis.what}"]
    return [*lines, f"    {diagnosis.advice}"] if diagnosis.advice else lines


def _names(snapshot: Snapshot) -> Iterator[str]:
    """Yield what stands in the first column; the forwarder of a further sink has a long name."""
    yield from (stage.slot for stage in snapshot.stages)
    yield from (queue.name for queue in snapshot.queues)
    yield from (f"sink {sink.name}" for sink in snapshot.sinks)


def _stage(stage: StageHealth, width: int) -> str:
    return f"{stage.slot:<{width}} {stage.state:<9} {stage.since or '':<21} {stage.why}".rstrip()


def _states(snapshot: Snapshot) -> dict[str, int]:
    crawled = (relay for relay in snapshot.relays if relay.crawled_since is not None)
    return dict(sorted(Counter(relay.state.value for relay in crawled).items()))
