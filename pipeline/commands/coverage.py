"""`event-service coverage`: how complete the service is for one user."""

import json
import sys
from dataclasses import asdict
from typing import Any, Final

import click

from pipeline.commands.bootstrap import open_configured_to_read
from pipeline.commands.output import say
from pipeline.commands.users import PublicKey
from pipeline.nostr.nip19 import encode_npub
from pipeline.process.liveness import utc
from pipeline.status.coverage import Coverage, RelayCoverage
from pipeline.status.coverage import coverage as coverage_of

# Names of times.
_IN_MS: Final = frozenset({"registered_at", "wanted_since", "seen_at"})
_IN_S: Final = frozenset({"contacts_dated", "since", "counted_from", "created_at", "complete_until"})


@click.command()
@click.argument("key", metavar="NPUB", type=PublicKey())
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def coverage(key: bytes, as_json: bool) -> None:
    """Print how complete the service is for one user or followee, as its crawl records it.

    NPUB is npub1… or 64 hexadecimal digits. It prints why and since when they are wanted, contacts, the last event,
    late arrivals, and for each relay up to when each query is complete, and open gaps. The exit code is 1 for an author
    who is not wanted. `event-service audit --author NPUB` asks the relays instead.

    \b
    Examples:
      event-service coverage npub1sn0wdenkukak0d9dfczzeacvhkrgz92ak56egt7vdgzn8pv2wfqqhrjdv9
      event-service coverage npub1sn0wdenkukak0d9dfczzeacvhkrgz92ak56egt7vdgzn8pv2wfqqhrjdv9 --json
    """
    with open_configured_to_read() as database, database.read() as tx:
        found = coverage_of(tx, key)
    if found is None:
        say(f"{encode_npub(key)} is not wanted: not a registered user, and followed by none", err=True)
        sys.exit(1)
    if as_json:
        say(json.dumps(_value(found)))
        return
    for line in found.lines():
        say(f"{line.subject:<15} {line.text}")
    for relay in found.relays:
        _show(relay)


def _value(found: Coverage) -> dict[str, Any]:
    keys = {"npub": encode_npub(found.public_key), "public_key": found.public_key.hex()}
    return {name: _in_json(name, value) for name, value in (asdict(found) | keys).items()}


def _in_json(name: str, value: Any) -> Any:
    """Return a value of that name with every time in it as a text, as other commands print them."""
    if isinstance(value, dict):
        return {inner: _in_json(inner, each) for inner, each in value.items()}
    if isinstance(value, list | tuple):
        return [_in_json(name, each) for each in value]
    if value is not None and name in _IN_MS:
        return utc(value // 1000)
    return utc(value) if value is not None and name in _IN_S else value


def _show(relay: RelayCoverage) -> None:
    named = f", named by the user ({', '.join(relay.named)})" if relay.named else ""
    say(f"\n{relay.address}: {relay.state}{named}")
    for query in relay.queries:
        say(f"  {query.text}: {query.until}")
    for gap in relay.gaps:
        say(f"  gap: {gap}")
