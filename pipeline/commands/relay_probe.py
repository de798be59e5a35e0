"""`event-service relays probe`: how relays really behave. Needs neither settings nor a database."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import click

from pipeline.commands.output import say
from pipeline.errors import CannotStart
from pipeline.nostr.address import RelayAddress, parse_address
from pipeline.probe.interview import Pace
from pipeline.probe.known import ProbeQuestion
from pipeline.probe.learned import Learned, differences
from pipeline.probe.probe import Progress, probe
from pipeline.probe.report import ProbeReport
from pipeline.process.clock import SystemClock
from pipeline.relay.dial import DialPolicy
from pipeline.relay.errors import DialError
from pipeline.relay.limits import RelayLimits
from pipeline.settings.config import Config
from pipeline.store import relay_forms, relay_records
from pipeline.store.database_errors import DatabaseFailed
from pipeline.store.ownership import is_there
from pipeline.store.schema import open_to_read

_MAX_RELAYS = 100_000


def probe_relays(addresses: tuple[str, ...], *, writes: bool, as_json: bool, pace: Pace) -> bool:
    """Print a report for each relay; return True if all could be connected to."""
    config = _configured()
    policy = _policy(config)
    answered = True
    for number, address in enumerate(map(parse_address, addresses)):
        try:
            with _progress(address) as on_question:
                report = probe(address, policy, SystemClock(), writes=writes, pace=pace, on_question=on_question)
        except DialError as error:
            say(f"{address.spelling}: no connection: {error}", err=True)
            if as_json:
                say(json.dumps({"address": address.spelling, "error": str(error)}))
            answered = False
            continue
        report = _with_learned(report, address, config)
        if as_json:
            say(json.dumps(report.to_value()))
        else:
            say("\n".join([*([""] if number else []), *report.lines()]))
    return answered


def _configured() -> Config | None:
    """Return the settings where there are any that are right."""
    with suppress(CannotStart):
        return Config.from_env(os.environ, runs=False)
    return None


def _policy(config: Config | None) -> DialPolicy:
    """Return how relays are dialled: wherever the operator says; no stranger has a say in it."""
    policy = DialPolicy(allow_private=True, user_agent="event-service")
    return policy if config is None else replace(policy, socks_proxy=config.socks_proxy)


def _with_learned(report: ProbeReport, address: RelayAddress, config: Config | None) -> ProbeReport:
    learned = None if config is None or is_there(config.database_path) is False else _learned(address, config)
    if learned is None:
        return report
    seen = {each.name: each for each in report.observations}
    return replace(report, observations=(*report.observations, *differences(learned, address.spelling, seen)))


def _learned(address: RelayAddress, config: Config) -> Learned | None:
    """Return what the database holds of the relay; None where it is not known there."""
    try:
        with open_to_read(config.database_path, SystemClock()) as database, database.read() as tx:
            for record in relay_records.records(tx, everything=True, limit=_MAX_RELAYS):
                if record.address == address.url:
                    checks = relay_forms.of_relay(tx, record.relay)
                    forms = {check.form: check.verdict for check in checks}
                    return Learned(record.dialled, RelayLimits.from_json(record.limits), forms)
    except (CannotStart, DatabaseFailed) as error:
        say(f"the database is not compared with: {error}", err=True)
    return None


@contextmanager
def _progress(address: RelayAddress) -> Iterator[Progress]:
    """Show on a terminal what is being asked."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return

    def show(question: ProbeQuestion) -> None:
        click.echo(f"\r\x1b[K{address.spelling}: {question.names[0]}", err=True, nl=False)

    try:
        yield show
    finally:
        click.echo("\r\x1b[K", err=True, nl=False)
