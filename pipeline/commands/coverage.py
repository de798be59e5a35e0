"""`event-service coverage`: how complete the service is for one user."""

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from pipeline.commands.bootstrap import open_configured_to_read
from pipeline.commands.output import say
from pipeline.commands.users import PublicKey
from pipeline.nostr.nip19 import encode_npub
from pipeline.process.liveness import utc
from pipeline.status.coverage import Coverage, RelayCoverage
from pipeline.status.coverage import coverage as coverage_of


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
    """Return all of it with every time as a text, as other commands print them."""
    arrivals, newest = found.arrivals, found.arrivals.newest
    return asdict(found) | {
        "npub": encode_npub(found.public_key),
        "public_key": found.public_key.hex(),
        "registered_at": _time(found.registered_at, per_s=1000),
        "wanted_since": _time(found.wanted_since, per_s=1000),
        "contacts_dated": _time(found.contacts_dated),
        "arrivals": asdict(arrivals)
        | {
            "since": _time(arrivals.since),
            "counted_from": _time(arrivals.counted_from),
            "newest": None
            if newest is None
            else {
                "created_at": _time(newest.created_at),
                "seen_at": _time(newest.seen_at, per_s=1000),
                "kind": newest.kind,
            },
        },
        "relays": [
            asdict(relay)
            | {
                "queries": [
                    {"text": query.text, "complete_until": _time(query.complete_until)} for query in relay.queries
                ]
            }
            for relay in found.relays
        ],
    }


def _time(at: int | None, *, per_s: int = 1) -> str | None:
    return None if at is None else utc(at // per_s)


def _show(relay: RelayCoverage) -> None:
    named = f", named by the user ({', '.join(relay.named)})" if relay.named else ""
    say(f"\n{relay.address}: {relay.state}{named}")
    for query in relay.queries:
        say(f"  {query.text}: {query.until}")
    for gap in relay.gaps:
        say(f"  gap: {gap}")
