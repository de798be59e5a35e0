"""`event-service audit`: what relays have and the service has not, asked for independently of the crawl."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from pipeline.audit.audit import Audit
from pipeline.audit.client import Interrupted
from pipeline.audit.findings import AuditedRelay, AuditReport, Miss, Recall
from pipeline.audit.journal import Findings, Journal, Scope, UnusableJournal, miss_value, read_journal
from pipeline.audit.policy import RATE, SETTLE_S, is_auditable, policy_of
from pipeline.commands.backfill import Moment
from pipeline.commands.bootstrap import config_or_exit, of_running_service, open_existing_or_exit
from pipeline.commands.interruption import ended_like_ctrl_c
from pipeline.commands.output import number_of, say
from pipeline.commands.progress import Progress
from pipeline.commands.relays import Address
from pipeline.commands.users import PublicKey
from pipeline.nostr.nip19 import encode_npub
from pipeline.process.clock import SystemClock
from pipeline.process.doorbell import Doorbells
from pipeline.process.liveness import utc
from pipeline.process.stop import Stop
from pipeline.settings.choices import HostRole
from pipeline.settings.config import Config
from pipeline.store import audits, relay_records, relays
from pipeline.store.audits import AuditSubject
from pipeline.store.database import Database
from pipeline.store.relay_records import RelayRecord
from pipeline.store.schema import open_database

_SPAN_S: Final = 86_400
# What is dated later may still be on its way from a relay that is swept now and then.
_LAG_S: Final = 900
_SAMPLE: Final = 20
_MAX_RELAYS: Final = 100_000
_MAX_SHOWN: Final = 50
_JOURNAL: Final = ".audit"
EXIT_UNPROVEN: Final = 5


@dataclass(frozen=True, slots=True)
class _Selection:
    """What the command line asks for; `sample` of None: the default where no authors are named."""

    since: int | None
    until: int | None
    keys: tuple[bytes, ...]
    every_user: bool
    sample: int | None
    addresses: tuple[str, ...]


@click.command()
@click.option("--since", type=Moment(), help="Start: 7d (ago), 2024-05-01, or Unix seconds; default: a day ago.")
@click.option("--until", type=Moment(), help="End; default: a quarter of an hour ago.")
@click.option(
    "--author", "keys", type=PublicKey(), multiple=True,
    help="This wanted author, and mentions if it is a registered user; may be repeated.",
)  # fmt: skip
@click.option("--users", "every_user", is_flag=True, help="All registered users: what they wrote, and mentions.")
@click.option("--sample", type=click.IntRange(1, 100_000), help="So many wanted authors at random; default: 20.")
@click.option("--relay", "addresses", type=Address(), multiple=True, help="Only this relay; may be repeated.")
@click.option("--rate", type=click.FloatRange(0.01, 100), default=RATE, show_default=True,
              help="Most requests a second to one relay.")  # fmt: skip
@click.option("--settle", type=click.FloatRange(0, 3_600), default=SETTLE_S, show_default=True,
              help="Seconds after which an event that is still unknown counts as missed.")  # fmt: skip
@click.option("--no-fetch", is_flag=True, help="Only report what is missed.")
@click.option("--resume", is_flag=True, help="Go on with the audit that was interrupted.")
@click.option("--restart", is_flag=True, help="Discard it and begin another.")
@click.option("--journal", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Where the progress is kept; default: beside the database.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def audit(  # noqa: PLR0913, PLR0917  (one for each option)
    since: int | None, until: int | None, keys: tuple[bytes, ...], every_user: bool, sample: int | None,
    addresses: tuple[str, ...], rate: float, settle: float, no_fetch: bool, resume: bool, restart: bool,
    journal: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Ask relays again for what some authors wrote, and print what the service missed.

    The crawl's cursors are not used. A miss is an event that a relay returns, that is signed and relevant, and that the
    service still does not know after --settle seconds. It is put into the inbox and delivered. The exit code is 1 if
    anything was missed, and 5 if nothing was but no relay answered everything that it was asked.

    \b
    Examples:
      event-service audit
      event-service audit --users --since 3d
      event-service audit --author npub1sn0wdenkukak0d9dfczzeacvhkrgz92ak56egt7vdgzn8pv2wfqqhrjdv9 --json
    """
    config = config_or_exit()
    if config.role is HostRole.CRAWLER:
        raise click.ClickException("home knows what all hosts found: run this there")
    path = journal or config.database_path.with_name(config.database_path.name + _JOURNAL)
    order = _Selection(since, until, keys, every_user, sample, addresses)
    clock, stop = SystemClock(), Stop()
    with open_existing_or_exit(config) as database:
        config = of_running_service(config, database)
        policy = policy_of(config, rate=rate, settle_s=settle, fetches=not no_fetch)
        scope, found, is_new = _begin(config, database, order, path, resume=resume, restart=restart)
        try:
            kept = Journal(path, scope, is_new=is_new)
        except (UnusableJournal, OSError) as error:
            raise click.ClickException(str(error)) from error
        one = Audit(scope, policy, lambda: open_database(config.database_path, clock), clock, stop, kept, found)
        try:
            with ended_like_ctrl_c():
                result = _run(one, config, database, scope)
        except (KeyboardInterrupt, Interrupted):
            say("\ninterrupted; event-service audit --resume goes on", err=True)
            sys.exit(1)
        finally:
            kept.close()
    path.unlink(missing_ok=True)
    say(json.dumps(_value(result, scope)) if as_json else "\n".join(_lines(result, scope)))
    sys.exit(1 if result.misses else 0 if result.is_proven else EXIT_UNPROVEN)


def _begin(
    config: Config, database: Database, order: _Selection, path: Path, *, resume: bool, restart: bool
) -> tuple[Scope, Findings, bool]:
    """Return what to audit, what was found before, and whether the audit is a new one."""
    if resume:
        try:
            return (*read_journal(path), False)
        except FileNotFoundError:
            raise click.ClickException("no audit was interrupted") from None
        except UnusableJournal as error:
            raise click.ClickException(str(error)) from error
    if path.exists() and not restart:
        raise click.ClickException("an audit was interrupted: --resume goes on with it, --restart discards it")
    return _scope(config, database, order), Findings(), True


def _scope(config: Config, database: Database, order: _Selection) -> Scope:
    now = SystemClock().now_ms() // 1000
    until = now - _LAG_S if order.until is None else min(order.until, now)
    since = now - _SPAN_S if order.since is None else order.since
    oldest = now - config.seen_retention // 1000
    if since < oldest:
        say(f"ids are kept for EVENTS_SEEN_RETENTION only: the audit begins at {utc(oldest)}", err=True)
        since = oldest
    if since > until:
        raise click.UsageError("--since is after --until")
    subjects, chosen = _subjects(database, order), _relays(database, order.addresses)
    if not subjects:
        raise click.ClickException("no author is wanted; see event-service users add")
    if not chosen:
        raise click.ClickException("no relay was connected yet; does the service run?")
    return Scope(since, until, tuple(subjects), tuple(each.relay for each in chosen))


def _subjects(database: Database, order: _Selection) -> list[AuditSubject]:
    sample = order.sample
    if sample is None:
        sample = 0 if order.keys or order.every_user else _SAMPLE
    chosen: dict[bytes, AuditSubject] = {}
    with database.read() as tx:
        for key in order.keys:
            subject = audits.subject(tx, key)
            if subject is None:
                raise click.ClickException(f"{encode_npub(key)} is not wanted: no registered user, followed by none")
            chosen[key] = subject
        users = audits.sample_users(tx, 1_000_000 if order.every_user else sample)
        for subject in (*users, *audits.sample_wanted(tx, sample)):
            chosen[subject.key] = subject
    return list(chosen.values())


def _relays(database: Database, addresses: Sequence[str]) -> list[RelayRecord]:
    with database.read() as tx:
        if not addresses:
            return [
                each for each in relay_records.records(tx, everything=False, limit=_MAX_RELAYS) if is_auditable(each)
            ]
        numbers = {address: relays.find(tx, address) for address in addresses}
        unknown = [address for address, number in numbers.items() if number is None]
        if unknown:
            raise click.ClickException(f"{unknown[0]} is not known; `event-service relays add` it first")
        found = set(numbers.values())
        return [each for each in relay_records.records(tx, everything=True, limit=_MAX_RELAYS) if each.relay in found]


def _run(one: Audit, config: Config, database: Database, scope: Scope) -> AuditReport:
    with database.read() as tx:
        records = relay_records.records(tx, everything=True, limit=_MAX_RELAYS)
    with Progress(SystemClock()).step("questions to relays", one.steps) as advance:
        one.ask([each for each in records if each.relay in scope.relays], advance)
    if one.findings.candidates:
        say("looking again for what seems to be missing", err=True)
    late = one.settle(database, lambda: Doorbells(config.database_path).ring("saver"))
    return one.report(late)


def _value(result: AuditReport, scope: Scope) -> dict[str, Any]:
    addresses = {each.relay: each.address for each, _ in result.by_relay}
    return {
        "since": utc(scope.since), "until": utc(scope.until), "authors": len(scope.subjects),
        "users": sum(each.is_user for each in scope.subjects), **result.total.to_value(),
        "by_relay": [
            {"relay": each.address, "problem": each.problem} | recall.to_value() for each, recall in result.by_relay
        ],
        "by_rule": {name: recall.to_value() for name, recall in result.by_rule},
        "by_age": {name: recall.to_value() for name, recall in result.by_age},
        "misses": [
            miss_value(miss) | {"relays": [addresses[relay] for relay in miss.relays]} for miss in result.misses
        ],
        "is_proven": result.is_proven, "late": result.late, "excluded": dict(result.excluded),
        "unproven": [
            {"relay": relay, "question": question, "since": each.since, "until": each.until, "why": each.why}
            for relay, question, each in result.unproven
        ],
    }  # fmt: skip


def _lines(result: AuditReport, scope: Scope) -> list[str]:
    users = sum(each.is_user for each in scope.subjects)
    lines = [
        f"{number_of(len(scope.subjects), 'author')}, {number_of(users, 'registered user')} of them, at"
        f" {number_of(len(result.by_relay), 'relay')}, {utc(scope.since)} to {utc(scope.until)}",
        f"recall {_share(result.total)}: {number_of(result.total.held, 'event')} held, {result.total.missed:,} missed",
    ]
    for title, rows in (
        ("relay", [(each.address, recall, each) for each, recall in result.by_relay]),
        ("rule", [(name, recall, None) for name, recall in result.by_rule]),
        ("age", [(name, recall, None) for name, recall in result.by_age if recall.share is not None]),
    ):
        if rows:
            lines += ["", f"{title:<44} {'held':>10} {'missed':>8}  recall"]
            lines += [_row(name, recall, each) for name, recall, each in rows]
    addresses = {each.relay: each.address for each, _ in result.by_relay}
    for miss in result.misses[:_MAX_SHOWN]:
        lines += ["", *_miss_lines(miss, addresses)]
    if len(result.misses) > _MAX_SHOWN:
        lines += ["", f"and {len(result.misses) - _MAX_SHOWN:,} more, which --json prints"]
    return [*lines, *_notes(result)]


def _row(name: str, recall: Recall, relay: AuditedRelay | None) -> str:
    problem = f"  not asked everything: {relay.problem}" if relay is not None and relay.problem else ""
    return f"{name:<44} {recall.held:>10,} {recall.missed:>8,}  {_share(recall):<7}{problem}".rstrip()


def _miss_lines(miss: Miss, addresses: dict[int, str]) -> list[str]:
    where = ", ".join(addresses[relay] for relay in miss.relays)
    others = len(addresses) - len(miss.relays)
    state = "put into the inbox" if miss.is_fetched else "not fetched"
    return [
        f"missed {miss.event_id.hex()}",
        f"  kind {miss.kind} by {encode_npub(miss.author)}, dated {_date(miss.created_at)}, rule {miss.rule}; {state}",
        f"  at {where}; not at {number_of(others, 'other relay')}" if others else f"  at {where}",
        *(f"  {subject}: {text}" for subject, text in miss.trace),
    ]


def _notes(result: AuditReport) -> list[str]:
    notes: list[str] = []
    if result.late:
        notes.append(f"{number_of(result.late, 'event')} arrived by themselves before --settle was over")
    if result.excluded:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result.excluded.items()))
        notes.append(f"not counted: {counts}")
    by_relay: dict[tuple[str, str], int] = {}
    for relay, _, each in result.unproven:
        by_relay[relay, each.why] = by_relay.get((relay, each.why), 0) + 1
    notes += [
        f"{relay} may have more: {number_of(count, 'question')}: {why}" for (relay, why), count in by_relay.items()
    ]
    if not result.is_proven:
        notes.append("no relay answered everything that it was asked: this proves nothing")
    return ["", *notes] if notes else []


def _share(recall: Recall) -> str:
    # Rounded down: what is not whole must not look so.
    return "-" if recall.share is None else f"{int(recall.share * 10_000) / 100:g} %"


def _date(seconds: int) -> str:
    try:
        return utc(seconds)
    except (OverflowError, OSError, ValueError):
        return f"{seconds} s after 1970"
