"""`event-service relays`: which are known and crawled, and what the operator wants of them."""

import json
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from pipeline.commands.bootstrap import (
    config_or_exit,
    open_configured_database,
    open_configured_to_read,
    open_to_read_or_exit,
)
from pipeline.commands.output import say
from pipeline.nostr.address import InvalidAddress, parse_address
from pipeline.process.clock import SystemClock
from pipeline.settings.choices import CrawlMode
from pipeline.settings.values import without_user
from pipeline.status.forms import form_lines
from pipeline.status.gaps import describe, describe_reason
from pipeline.store import cursors, gaps, hosts, relay_forms, relay_records
from pipeline.store import relays as store
from pipeline.store.database import Database
from pipeline.store.gaps import OpenGap
from pipeline.store.hosts import Unfit
from pipeline.store.relay_records import RelayRecord
from pipeline.store.relays import OperatorOverride

_MAX_LISTED = 100_000


class Address(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """The address of a relay."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address as it is written, with a scheme; fails with what is wrong."""
        try:
            return parse_address(value).spelling
        except InvalidAddress as error:
            self.fail(f"{without_user(value)!r} is no relay address: {error}", param, ctx)


_addresses = click.argument("addresses", metavar="ADDRESS...", type=Address(), nargs=-1, required=True)
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")


@click.group()
def relays() -> None:
    """Relays: list and show them, and decide which are dialled and how.

    \b
    Examples:
      event-service relays list
      event-service relays show wss://relay.example.com
      event-service relays add wss://relay.example.com
    """


@relays.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Also those that were never dialled.")
@_as_json
def list_relays(everything: bool, as_json: bool) -> None:
    """Print relays, the best first: state, strategy, recent first-seen events, uptime, mentions.

    \b
    Examples:
      event-service relays list
      event-service relays list --all --json | jq -r 'select(.state == "disconnected") | .address'
    """
    with open_configured_to_read() as database, database.read() as tx:
        for record in relay_records.records(tx, everything=everything, limit=_MAX_LISTED):
            say(json.dumps(_value(record)) if as_json else _line(record))


@relays.command()
@click.argument("address", type=Address())
@_as_json
def show(address: str, as_json: bool) -> None:
    """Print all that is known of one relay: also its last error, audited forms of filters, and gaps.

    Example: event-service relays show wss://relay.example.com
    """
    config = config_or_exit()
    with open_to_read_or_exit(config) as database:
        record = _record(database, address)
        with database.read() as tx:
            covered = cursors.of_relay(tx, record.relay)
            missing = gaps.of_relay(tx, record.relay)
            checks = relay_forms.of_relay(tx, record.relay)
            host_key = parse_address(record.address).host_key
            holder, unfit = hosts.holder(tx, host_key), hosts.unfit_for(tx, host_key)
            has_hosts = bool(hosts.every(tx))
    found = _value(record) | {
        "cursors": len(covered),
        "complete_until": _time(1000 * min((each.complete_until for each in covered), default=0)),
        "forms": [asdict(check) for check in checks] if as_json else form_lines(checks),
        "gaps": [_gap_value(gap) for gap in missing] if as_json else _gap_lines(missing),
    }
    if has_hosts:
        found["asked_by"] = None if holder is None else holder.holder or None
        found["unfit"] = [_unfit_value(each) for each in unfit] if as_json else _unfit_lines(unfit)
    if as_json:
        say(json.dumps(found))
    else:
        for name, value in found.items():
            say(f"{name:<16} {'' if value is None else value}".rstrip())


@relays.command()
@_addresses
def add(addresses: tuple[str, ...]) -> None:
    """Dial these relays in any case. A running service follows within seconds.

    Example: event-service relays add wss://relay.example.com
    """
    _decide(addresses, OperatorOverride.ADDED)


@relays.command()
@_addresses
def remove(addresses: tuple[str, ...]) -> None:
    """Never dial these relays, bootstrap relays included, until they are added.

    Example: event-service relays remove wss://relay.example.com
    """
    _decide(addresses, OperatorOverride.REMOVED)


@relays.command()
@click.argument("mode", type=click.Choice([mode.value for mode in CrawlMode]))
@_addresses
def ask(mode: str, addresses: tuple[str, ...]) -> None:
    """Set how relays are asked: by author (`query`), for everything (`whole`), or by EVENTS_CRAWL_MODE (`auto`).

    Example: event-service relays ask whole wss://relay.example.com
    """
    with open_configured_database() as database, database.write() as tx:
        for address in addresses:
            if not store.set_ask(tx, parse_address(address).url, mode):
                raise click.ClickException(f"{address} is not known; add it first")
            say(f"{address}: {mode}")


@relays.command()
@_addresses
@click.option("--write", is_flag=True, help="Also publish some twenty events with a throw-away key, and delete them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each relay instead of a table.")
@click.option(
    "--patience",
    type=click.FloatRange(0.1, 120),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an answer is waited for.",
)
@click.option(
    "--timeout", type=click.FloatRange(1, 3600), default=600.0, show_default=True, metavar="SECONDS",
    help="How long each relay is asked at most; what was not seen by then is unknown.",
)  # fmt: skip
def probe(addresses: tuple[str, ...], *, write: bool, as_json: bool, patience: float, timeout: float) -> None:
    """Ask relays some hundred questions and print how they behave: limits, order, forms of filters, refusals, NIPs.

    Needs no settings. Where EVENTS_DATABASE_PATH is set, it also prints what the crawler has learned otherwise.
    Exits with 1 if a relay cannot be connected to.

    \b
    Examples:
      event-service relays probe wss://relay.example.com
      event-service relays probe --write ws://127.0.0.1:7777
      event-service relays probe --json wss://relay.example.com | jq '.lines["limit.authors"]'
    """
    # Costs time to import, which the other commands need not spend.
    from pipeline.commands.interruption import ended_like_ctrl_c  # noqa: PLC0415
    from pipeline.commands.relay_probe import probe_relays  # noqa: PLC0415
    from pipeline.probe.interview import Pace  # noqa: PLC0415

    pace = Pace(patience_s=patience, timeout_s=timeout)
    with ended_like_ctrl_c():
        is_answered = probe_relays(addresses, writes=write, as_json=as_json, pace=pace)
    if not is_answered:
        raise click.exceptions.Exit(1)


def _decide(addresses: tuple[str, ...], override: OperatorOverride) -> None:
    with open_configured_database() as database, database.write() as tx:
        for address in addresses:
            store.set_operator(tx, address, override, SystemClock().now_ms())
            say(f"{address} {override}")


def _record(database: Database, address: str) -> RelayRecord:
    with database.read() as tx:
        for record in relay_records.records(tx, everything=True, limit=_MAX_LISTED):
            if record.address == parse_address(address).url:
                return record
    raise click.ClickException(f"{address} is not known")


def _unfit_value(unfit: Unfit) -> dict[str, Any]:
    return {"host": unfit.host, "until": _time(unfit.until), "reason": unfit.reason}


def _unfit_lines(unfit: list[Unfit]) -> str | None:
    """Return which hosts cannot use the relay."""
    return "; ".join(f"{each.host} until {_time(each.until)}: {each.reason}" for each in unfit) or None


def _gap_lines(missing: list[OpenGap]) -> str | None:
    """Return the open gaps, a line each, the largest number of one reason first."""
    reasons = Counter(gap.reason for gap in missing)
    lines = [f"{len(missing):,} open"] if missing else []
    for reason, _ in reasons.most_common():
        lines.append(f"  {reason}: {describe_reason(reason)}")
        lines += [
            f"    {describe(gap)}, open since {_time(1000 * gap.opened_at)}" for gap in missing if gap.reason == reason
        ]
    return "\n".join(lines) or None


def _gap_value(gap: OpenGap) -> dict[str, Any]:
    value = asdict(gap)
    del value["relay"]
    return value | {name: _time(1000 * value[name]) for name in ("since", "until", "opened_at")}


def _line(record: RelayRecord) -> str:
    state = record.operator.value if record.operator is OperatorOverride.REMOVED else record.state.value
    if record.crawled_since is None and record.operator is not OperatorOverride.REMOVED:
        state = "never dialled"
    named = "user" if record.named_by_user else record.operator.value or record.source
    return (
        f"{state:<13} {record.asked or '-':<5} {record.novel:>9.0f} first {_uptime(record):>4} up "
        f"{record.namers:>2} namers {named:<15} {record.address}"
    )


def _value(record: RelayRecord) -> dict[str, Any]:
    """Return the record for people and scripts: times as text."""
    times = ("first_seen", "last_seen", "crawled_since", "state_since", "novel_at", "next_dial_at", "seen_up_at",
             "forged_at", "paced_at")  # fmt: skip
    value = asdict(record)
    del value["relay"]
    value |= {name: _time(value[name]) for name in times}
    value |= {name: _time(1000 * value[name]) for name in ("owed_since", "live_missed_at")}
    return value | {"novel": round(record.novel, 1)}


def _uptime(record: RelayRecord) -> str:
    watched = record.connected_ms + record.disconnected_ms
    return f"{100 * record.connected_ms // watched}%" if watched else "-"


def _time(ms: int | None) -> str | None:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}" if ms else None
