"""What an operator changes about users: in the database, and at the hub first where this host is home of several."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import click

from pipeline.commands.bootstrap import cannot_start, config_or_exit, of_running_service
from pipeline.errors import CannotStart, EventServiceError
from pipeline.process.clock import SystemClock
from pipeline.process.doorbell import Doorbells
from pipeline.settings.choices import HostRole
from pipeline.settings.config import Config
from pipeline.store import user_acts
from pipeline.store.database import Database
from pipeline.store.user_acts import ActOutcome, ActRules, UserAct, UserActKind

_Record = Callable[[Database, UserAct], Sequence[UserAct]]


@dataclass(frozen=True, slots=True)
class UserChanges:
    """Changes of users by command, a transaction each: others get the write lock in between."""

    database: Database
    rules: ActRules
    record: _Record

    def do(self, kind: UserActKind, public_key: bytes) -> ActOutcome:
        """Do it and return what it did; ends the program if the hub cannot have it first."""
        act = UserAct(kind, public_key, SystemClock().now_ms())
        try:
            acts = self.record(self.database, act)
        except CannotStart as error:
            cannot_start(error)
        except EventServiceError as error:
            raise click.ClickException(
                f"{public_key.hex()} is left as it was: {error}. Users are changed while the hub can be reached"
            ) from None
        with self.database.write(durable=True) as tx:
            return user_acts.do(tx, acts, self.rules)


@contextmanager
def changes_of_users(open_database: Callable[[], Database]) -> Iterator[UserChanges]:
    """Yield what changes users; afterwards wake crawlers, and the saver, to which a list of thousands is left."""
    config = config_or_exit()
    with open_database() as database:
        rules = ActRules(config.public_url, config.allow_private_relays)
        try:
            with _recorder(config, database, rules) as record:
                yield UserChanges(database, rules, record)
        finally:
            Doorbells(database.path).ring("crawler", "saver")


@contextmanager
def _recorder(config: Config, database: Database, rules: ActRules) -> Iterator[_Record]:
    match of_running_service(config, database).role:
        case HostRole.CRAWLER:
            _refuse("users are kept by the home host: run this there")
        case HostRole.HOME:
            if config.hub is None or config.role is None:
                _refuse("the service runs as home: set EVENTS_HUB and EVENTS_ROLE for this command as well")
            from pipeline.hub.registry import HubRegistry  # noqa: PLC0415  (its driver is there only with a hub)

            registry = HubRegistry(config.hub, rules, SystemClock())
            try:
                yield registry.record
            finally:
                registry.close()
        case None:
            yield lambda _, act: (act,)


def _refuse(why: str) -> NoReturn:
    cannot_start(CannotStart(why))
