"""`event-service explain`: the trace of one event."""

import json
import sys
from typing import Any

import click

from pipeline.commands.bootstrap import open_configured_to_read
from pipeline.commands.output import say
from pipeline.nostr.nip19 import InvalidEncoding, parse_event_id
from pipeline.status.explain import explain_event


class EventId(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """An event's id, in hexadecimal or as note1… or nevent1…."""

    name = "event id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Return the 32 bytes; fails with what is wrong."""
        try:
            return value if isinstance(value, bytes) else parse_event_id(value)
        except InvalidEncoding as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("event_id", type=EventId())
@click.option(
    "--created-at",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="The event's own time, which makes the search fast.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON array of [subject, text] pairs.")
def explain(event_id: bytes, created_at: int | None, as_json: bool) -> None:
    """Trace one event: where it came from, why it is relevant or was dropped, what each sink answered.

    EVENT_ID is 64 hexadecimal digits, note1… or nevent1…. The exit code is 1 if the database does not know it.

    \b
    Examples:
      event-service explain note1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqskcx45n
      event-service explain 0101010101010101010101010101010101010101010101010101010101010101 --json
    """
    with open_configured_to_read() as database, database.read() as tx:
        lines = explain_event(tx, event_id, created_at)
    if as_json:
        say(json.dumps([[line.subject, line.text] for line in lines]))
    else:
        for line in lines:
            say(f"{line.subject:<15} {line.text}")
    sys.exit(1 if lines[-1].subject == "never accepted" else 0)
