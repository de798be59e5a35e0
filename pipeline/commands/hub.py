"""`event-service hub`: sets up and shows the hub by which several hosts crawl."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

import click

from pipeline.commands.bootstrap import open_configured_database
from pipeline.commands.output import say
from pipeline.errors import CannotStart, EventServiceError
from pipeline.printable import count_of
from pipeline.process.liveness import utc
from pipeline.settings import parse, values
from pipeline.settings.values import InvalidValue

_P = ParamSpec("_P")


class _Checked(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """A text that one of the settings' parsers takes."""

    def __init__(self, name: str, check: Callable[[str], str]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return what the parser returns; fails with what is wrong."""
        try:
            return self._check(value)
        except InvalidValue as error:
            self.fail(str(error), param, ctx)


_URL = _Checked("address", parse.hub_url)
_NAME = _Checked("host name", values.host_name)
_owner = click.option(
    "--owner", type=_URL, metavar="URL", envvar="EVENTS_HUB_OWNER",
    help="Address of the database with the login of its owner, who may create roles; or set EVENTS_HUB_OWNER.",
)  # fmt: skip
_home = click.option(
    "--hub",
    "url",
    type=_URL,
    metavar="URL",
    envvar="EVENTS_HUB",
    help="Address with home's login; default: EVENTS_HUB.",
)


@click.group()
def hub() -> None:
    """The hub: a PostgreSQL database by which several hosts crawl and one delivers.

    \b
    Examples:
      event-service hub init --owner postgresql://owner:secret@db.example.com/events
      event-service hub add-host fra1 --owner postgresql://owner:secret@db.example.com/events
      event-service hub hosts
    """


def _explained(command: Callable[_P, None]) -> Callable[_P, None]:
    """Let errors end the program with one line."""

    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ModuleNotFoundError as error:
            _fail(CannotStart(f"{error.name} is not installed: pip install 'event-service[hub]'"), 3)
        except CannotStart as error:
            _fail(error, 3)
        except EventServiceError as error:
            _fail(error, 1)

    return run


def _fail(error: EventServiceError, code: int) -> NoReturn:
    say(f"event-service: {error}", err=True)
    sys.exit(code)


def _given(url: str | None, name: str) -> str:
    """Return the address, which a command line that is only looked at may lack."""
    if url is None:
        raise click.UsageError(f"{name} is required: the address of a PostgreSQL database")
    return url


@hub.command()
@_owner
@_explained
def init(owner: str | None) -> None:
    """Create tables, functions and home's login in an empty database, and print home's settings.

    Repeated, it gives home a new password.

    Example: event-service hub init --owner postgresql://owner:secret@db.example.com/events
    """
    from pipeline.hub import installer  # noqa: PLC0415

    address = _given(owner, "--owner")
    installer.migrate(address)
    say(f"EVENTS_HUB={installer.add_home(address)}")
    say("EVENTS_ROLE=home")


@hub.command()
@_owner
@_explained
def migrate(owner: str | None) -> None:
    """Bring tables and functions up to date, before hosts of a newer version start; older hosts go on.

    Example: event-service hub migrate --owner postgresql://owner:secret@db.example.com/events
    """
    from pipeline.hub import installer  # noqa: PLC0415

    applied = installer.migrate(_given(owner, "--owner"))
    say(f"applied: {', '.join(applied) or 'nothing new'}")


@hub.command(name="add-host")
@click.argument("name", type=_NAME)
@_owner
@_explained
def add_host(name: str, owner: str | None) -> None:
    """Give a crawling host a login of its own, and print its settings. Repeated, it gives it a new password.

    Example: event-service hub add-host fra1 --owner postgresql://owner:secret@db.example.com/events
    """
    from pipeline.hub import installer  # noqa: PLC0415

    say(f"EVENTS_HUB={installer.add_host(_given(owner, '--owner'), name)}")
    say("EVENTS_ROLE=crawler")
    say(f"EVENTS_HOST={name}")


@hub.command()
@_home
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
@_explained
def hosts(url: str | None, as_json: bool) -> None:
    """Print each crawling host: version, last call, clock, what waits where, and which relays it cannot use.

    Example: event-service hub hosts
    """
    from pipeline.hub.connection import HubConnection  # noqa: PLC0415
    from pipeline.status.host_view import skew_text  # noqa: PLC0415

    with HubConnection.open(_given(url, "EVENTS_HUB")) as connection:
        rows = connection.call("hosts_v1")
        unfit: dict[str, list[tuple[str, int, str]]] = {}
        for host, host_key, until, reason in connection.call("unfit_v1"):
            unfit.setdefault(host, []).append((host_key, until, reason))
    for host, is_draining, version, seen_ago, skew, events, parcels, untaken in rows:
        if as_json:
            names = (
                "host", "is_draining", "version", "seen_ago_ms", "clock_skew_ms", "waiting_events",
                "waiting_parcels", "untaken_parcels",
            )  # fmt: skip
            row = (host, is_draining, version, seen_ago, skew, events, parcels, untaken)
            cannot = [{"host_key": key, "until_ms": until, "reason": why} for key, until, why in unfit.get(host, ())]
            say(json.dumps(dict(zip(names, row, strict=True)) | {"unfit": cannot}))
            continue
        seen = "never called" if seen_ago is None else f"called {seen_ago / 1000:.0f} s ago"
        drains = ", draining" if is_draining else ""
        say(
            f"{host} {version or '-'} {seen}{drains}, clock {skew_text(skew)},"
            f" {count_of(events, 'event')} and {count_of(parcels, 'parcel')} pending there,"
            f" {count_of(untaken, 'parcel')} pending for home"
        )
        for host_key, until, reason in sorted(unfit.get(host, ())):
            say(f"  cannot use {host_key} until {utc(until / 1000)}: {reason}")


@hub.command()
@click.argument("name", type=_NAME)
@click.option("--stop", "ends", is_flag=True, help="Let it crawl again.")
@_home
@_explained
def drain(name: str, ends: bool, url: str | None) -> None:
    """Let other hosts take over the relays of a host, which goes on handing over what it has.

    Example: event-service hub drain fra1
    """
    from pipeline.hub.connection import HubConnection  # noqa: PLC0415

    with HubConnection.open(_given(url, "EVENTS_HUB")) as connection:
        ((is_known,),) = connection.call("drain_v1", name, not ends)
    if not is_known:
        _fail(EventServiceError(f"there is no host {name}"), 1)
    say(f"{name} {'crawls again' if ends else 'drains'}")


@hub.command()
@_home
@_explained
def home(url: str | None) -> None:
    """Print which database is home: where it lies, since when, and whether it is heard of.

    Example: event-service hub home
    """
    from pipeline.hub.connection import HubConnection  # noqa: PLC0415

    with HubConnection.open(_given(url, "EVENTS_HUB")) as connection:
        rows = connection.call("home_v1")
    if not rows:
        _fail(EventServiceError("no database is home yet"), 1)
    ((_, place, epoch, since_ms, left_ms),) = rows
    state = "heard of within its lease" if left_ms > 0 else f"not heard of: its lease ended {-left_ms // 1000} s ago"
    say(f"{place} for {since_ms // 1000} s (epoch {epoch}), {state}")


@hub.command(name="take-over")
@_home
@_explained
def take_over(url: str | None) -> None:
    """Let this host's database be home, in place of one that is gone for good; its host must be stopped.

    The database should be the newest copy of that one. What the hub took since the copy is read again.

    Example: event-service hub take-over
    """
    from pipeline.hub.connection import HubConnection  # noqa: PLC0415
    from pipeline.hub.home_role import own_identity, place_of  # noqa: PLC0415

    with HubConnection.open(_given(url, "EVENTS_HUB")) as connection, open_configured_database() as database:
        ((held, place, left_ms),) = connection.call("take_home_v1", own_identity(database).id, place_of(database.path))
    if held is None:
        _fail(EventServiceError(f"{place} is home and running: stop it and wait for {left_ms // 1000 + 1} s"), 1)
    say(f"home is this database from now on (epoch {held}), before it was {place}")


@hub.command()
@click.argument("name", type=_NAME)
@click.argument("host_keys", metavar="RELAY_HOST...", nargs=-1)
@_home
@_explained
def fit(name: str, host_keys: tuple[str, ...], url: str | None) -> None:
    """Let a crawling host use relays again that it could not use: those on these hosts, or all.

    \b
    Examples:
      event-service hub fit fra1
      event-service hub fit fra1 relay.example.com
    """
    from pipeline.hub.connection import HubConnection  # noqa: PLC0415

    with HubConnection.open(_given(url, "EVENTS_HUB")) as connection:
        counts = [connection.call("clear_unfit_v1", name, each)[0][0] for each in host_keys or (None,)]
    say(f"{name} may use {count_of(sum(counts), 'host')} of relays again")
