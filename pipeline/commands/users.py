"""`event-service users`: who is registered."""

import json
from datetime import UTC, datetime

import click

from pipeline.commands.bootstrap import (
    open_configured_database,
    open_configured_to_read,
    open_or_create_configured_database,
)
from pipeline.commands.forgetting import STAYS, forget
from pipeline.commands.output import say
from pipeline.commands.user_changes import changes_of_users
from pipeline.nostr.nip19 import InvalidEncoding, encode_npub, parse_public_key
from pipeline.store import users as registered
from pipeline.store.user_acts import UserActKind


class PublicKey(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """64 hex digits in either case, or npub."""

    name = "public key"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Return the 32 bytes of the key; fails with what is wrong."""
        try:
            return parse_public_key(value)
        except InvalidEncoding as error:
            self.fail(str(error), param, ctx)


@click.group()
def users() -> None:
    """Registered users: all of their events, and all events that mention them, are relevant.

    \b
    Examples:
      event-service users list
      event-service users add npub1sn0wdenkukak0d9dfczzeacvhkrgz92ak56egt7vdgzn8pv2wfqqhrjdv9
    """


@users.command()
@click.argument("keys", metavar="KEY...", type=PublicKey(), nargs=-1, required=True)
def add(keys: tuple[bytes, ...]) -> None:
    """Register users by hex key or npub; a block of theirs ends. A running service follows within seconds.

    Example: event-service users add npub1sn0wdenkukak0d9dfczzeacvhkrgz92ak56egt7vdgzn8pv2wfqqhrjdv9
    """
    with changes_of_users(open_or_create_configured_database) as changes:
        for key in keys:
            is_new = changes.do(UserActKind.ADD, key).has_effect
            say(f"{key.hex()} {'registered' if is_new else 'was registered already'}")


@users.command()
@click.argument("keys", metavar="KEY...", type=PublicKey(), nargs=-1, required=True)
@click.option(
    "--forget", "forgets", is_flag=True,
    help="Also drop what is kept for each of these users alone: events, contact list, relay list. May be repeated.",
)  # fmt: skip
def remove(keys: tuple[bytes, ...], forgets: bool) -> None:
    """End registrations by hex key or npub.

    With --forget it says what was dropped and what stays where. If it is interrupted, run it again.

    Example: event-service users remove npub1sn0wdenkukak0d9dfczzeacvhkrgz92ak56egt7vdgzn8pv2wfqqhrjdv9
    """
    with changes_of_users(open_configured_database) as changes:
        for key in keys:
            was = changes.do(UserActKind.REMOVE, key).was_registered
            say(f"{key.hex()} {'removed' if was else 'was not registered'}")
            for line in forget(changes.database, key) if forgets else ():
                say(line)
    if forgets:
        say(STAYS)


@users.command()
@click.argument("keys", metavar="KEY...", type=PublicKey(), nargs=-1, required=True)
def block(keys: tuple[bytes, ...]) -> None:
    """End registrations by hex key or npub and refuse new ones of these keys, until they are added.

    Example: event-service users block npub1sn0wdenkukak0d9dfczzeacvhkrgz92ak56egt7vdgzn8pv2wfqqhrjdv9
    """
    with changes_of_users(open_configured_database) as changes:
        for key in keys:
            was = changes.do(UserActKind.BLOCK, key).was_registered
            say(f"{key.hex()} blocked{', was registered' if was else ''}")


@users.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
@click.option("--blocked", "only_blocked", is_flag=True, help="The keys that `users block` keeps out, and since when.")
def list_users(as_json: bool, only_blocked: bool) -> None:
    """Print each registered user: hex key, npub, when the registration was last renewed, and how many are followed.

    Of these some wait where EVENTS_MAX_WANTED_AUTHORS is nearly reached.

    Example: event-service users list
    """
    with open_configured_to_read() as database, database.read() as tx:
        if only_blocked:
            for public_key, at in registered.blocked(tx):
                key, npub, since = public_key.hex(), encode_npub(public_key), _utc(at)
                value: dict[str, object] = {"public_key": key, "npub": npub, "blocked_at": since}
                say(json.dumps(value) if as_json else f"{key} {npub} {since} blocked")
            return
        for user in registered.registered(tx):
            key, npub, renewed = user.public_key.hex(), encode_npub(user.public_key), _utc(user.updated_at)
            value = {
                "public_key": key, "npub": npub, "updated_at": renewed,
                "followees": user.followees, "waiting": user.waiting,
            }  # fmt: skip
            waiting = f" {user.waiting} waiting" if user.waiting else ""
            say(json.dumps(value) if as_json else f"{key} {npub} {renewed} {user.followees} followed{waiting}")


def _utc(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
