"""`event-service coverage`: how complete the service is for one user."""

import json
import sys
from dataclasses import asdict

import click

from pipeline.commands.bootstrap import open_configured_to_read
from pipeline.commands.output import say
from pipeline.commands.users import PublicKey
from pipeline.nostr.nip19 import encode_npub
from pipeline.status.coverage import RelayCoverage
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
        npub = {"npub": encode_npub(key), "public_key": key.hex()}
        say(json.dumps(asdict(found) | npub))
        return
    for line in found.lines():
        say(f"{line.subject:<15} {line.text}")
    for relay in found.relays:
        _show(relay)


def _show(relay: RelayCoverage) -> None:
    named = f", named by the user ({', '.join(relay.named)})" if relay.named else ""
    say(f"\n{relay.address}: {relay.state}{named}")
    for query in relay.queries:
        say(f"  {query.text}: {query.until}")
    for gap in relay.gaps:
        say(f"  gap: {gap}")
