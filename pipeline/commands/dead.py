"""`event-service dead`: dead letters, to be looked at, requeued or purged."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from pipeline.commands.bootstrap import (
    config_or_exit,
    of_running_service,
    open_configured_database,
    open_configured_to_read,
    open_existing_or_exit,
)
from pipeline.commands.output import number_of, say
from pipeline.process.clock import SystemClock
from pipeline.settings import values
from pipeline.settings.values import InvalidValue
from pipeline.status.snapshot import sinks_of
from pipeline.store import dead as store
from pipeline.store import outbox, sinks
from pipeline.store.database import Tx
from pipeline.store.dead import DeadFilter, DeadQueue, DeadRow
from pipeline.store.sinks import SinkName

# Rows changed in one transaction, so that a running service waits for no more than milliseconds.
_SLICE: Final = 500
_EVERYTHING: Final = 1_000_000_000


class Age(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """A duration such as 2h, in milliseconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the milliseconds; fails with what is wrong."""
        try:
            return value if isinstance(value, int) else values.duration_ms(value)
        except InvalidValue as error:
            self.fail(str(error), param, ctx)


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Return the options that choose rows, the same for every command."""
    for option in (
        click.option("--older", type=Age(), default="0s", help="Only dead letters at least this old, such as 2h."),
        click.option("--reason", default="", help="Only rows with this text in their reason."),
        click.option("--queue", "queues", multiple=True, help="Only rows of this queue; default: of all."),
    ):
        command = option(command)
    return command


@click.group()
def dead() -> None:
    """Dead letters: rows that are not tried any more. They are kept until they are requeued or purged.

    \b
    Examples:
      event-service dead list
      event-service dead show pubsub 4711
      event-service dead retry --queue pubsub
    """


@dead.command(name="list")
@_selecting
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Most rows shown per queue.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
def list_rows(queues: tuple[str, ...], reason: str, older: int, limit: int, as_json: bool) -> None:
    """Print dead letters: queue, number, event id, claims, failures, time, reason.

    Example: event-service dead list --queue pubsub --older 1d
    """
    with open_configured_to_read() as database, database.read() as tx:
        for each in _filters(tx, queues, reason, older):
            for row in store.find(tx, each, limit):
                say(json.dumps(_value(row)) if as_json else _line(row))


@dead.command()
@click.argument("queue")
@click.argument("number", type=int)
def show(queue: str, number: int) -> None:
    """Print one dead letter and its event.

    Example: event-service dead show pubsub 4711
    """
    with open_configured_to_read() as database, database.read() as tx:
        for row in _matching(tx, _filters(tx, (queue,), "", 0)):
            if row.seq == number:
                say(_line(row))
                payload = store.payload(tx, row)
                say("the payload is gone" if payload is None else payload.decode(errors="replace"))
                return
    say(f"event-service: {queue} has no dead letter {number}", err=True)
    sys.exit(1)


@dead.command()
@_selecting
def retry(queues: tuple[str, ...], reason: str, older: int) -> None:
    """Requeue dead letters, ready at once.

    Example: event-service dead retry --queue relay --reason timeout
    """
    say(f"{number_of(_change(store.retry, queues, reason, older), 'row')} requeued")


@dead.command()
@_selecting
@click.option("--sink", help="Instead: all rows of this sink, which must be off.")
@click.confirmation_option(prompt="Drop these rows for good?")
def drop(queues: tuple[str, ...], reason: str, older: int, sink: str | None) -> None:
    """Purge dead letters, or the rows of a sink that is off.

    \b
    Examples:
      event-service dead drop --queue inbox --older 30d --yes
      event-service dead drop --sink relay --yes
    """
    if sink is None:
        dropped = _change(store.drop, queues, reason, older)
    elif queues or reason:
        raise click.UsageError("--sink goes with --older alone")
    else:
        dropped = _drop_backlog(sink, older)
    say(f"{number_of(dropped, 'row')} dropped")


def _drop_backlog(name: str, older: int) -> int:
    config = config_or_exit()
    dropped, now = 0, SystemClock().now_ms()
    with open_existing_or_exit(config) as database:
        config = of_running_service(config, database)
        with database.read() as tx:
            sink = SinkName(_one_of(name, sinks.known(tx), "sink"))
            if sink in sinks_of(config, tx):
                raise click.UsageError(f"sink {sink} is on: its rows are about to be delivered")
        while True:
            with database.write() as tx:
                step = outbox.drop_old(
                    tx, sink, received_before=now - older + 1, limit=_SLICE, outcome="dropped", now=now
                )
            dropped += step
            if step < _SLICE:
                return dropped


def _change(
    change: Callable[[Tx, DeadQueue, list[int], int], int], queues: tuple[str, ...], reason: str, older: int
) -> int:
    changed = 0
    with open_configured_database() as database:
        with database.read() as tx:
            filters = _filters(tx, queues, reason, older)
        for each in filters:
            while True:
                with database.write() as tx:
                    seqs = [row.seq for row in store.find(tx, each, _SLICE)]
                    changed += change(tx, each.queue, seqs, SystemClock().now_ms())
                if len(seqs) < _SLICE:
                    break
    return changed


def _filters(tx: Tx, queues: tuple[str, ...], reason: str, older: int) -> list[DeadFilter]:
    buried_before = SystemClock().now_ms() - older
    known = store.queues(tx)
    wanted = {_one_of(queue, known, "queue") for queue in queues} or known
    return [DeadFilter(queue, reason, buried_before) for queue in known if queue in wanted]


def _one_of(name: str, known: Sequence[str], what: str) -> str:
    if name not in known:
        raise click.UsageError(f"there is no {what} {name}; there is {', '.join(known)}")
    return name


def _matching(tx: Tx, filters: list[DeadFilter]) -> list[DeadRow]:
    return [row for each in filters for row in store.find(tx, each, _EVERYTHING)]


def _value(row: DeadRow) -> dict[str, object]:
    """Return the row for scripts."""
    when = datetime.fromtimestamp(row.buried_at / 1000, UTC)
    return {
        "queue": row.queue, "number": row.seq, "event": row.event_id.hex(), "claims": row.claims,
        "failures": row.failures, "buried_at": f"{when:%Y-%m-%dT%H:%M:%SZ}", "reason": row.reason,
    }  # fmt: skip


def _line(row: DeadRow) -> str:
    when = datetime.fromtimestamp(row.buried_at / 1000, UTC)
    return (
        f"{row.queue} {row.seq} {row.event_id.hex() or '-'} claims={row.claims} failures={row.failures}"
        f" {when:%Y-%m-%dT%H:%M:%SZ} {row.reason}"
    )
