"""What the operator does to the hub with its owner's login: schema, functions, and one login for each host.

Every step may be repeated. Roles belong to the whole PostgreSQL cluster, so their names begin with that of the
database.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from pipeline.errors import EventServiceError
from pipeline.hub.connection import HubRefused, Row, open_as_owner, translated

_SQL: Final = Path(__file__).with_name("sql")
_GROUPS: Final = ("edge", "home")
_MAX_NAME: Final = 63
# Two installations at once wait for each other.
_LOCK: Final = 0x6875625F
# Of one crawling host, which uses one: its server keeps those of a line that was cut for a while.
_MAX_CONNECTIONS: Final = 10


def migrate(url: str) -> list[str]:
    """Bring tables and functions up to date, in one transaction; return the names of migrations that were applied.

    `url` has the login of the owner. Raises `HubUnavailable` or `HubRefused`.
    """
    with _owner(url) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        _create_groups(connection)
        _run(connection, _SQL / "basis.sql")
        applied = {name for (name,) in connection.execute("SELECT name FROM hub.migrations").fetchall()}
        known = [path.stem for path in sorted((_SQL / "tables").glob("*.sql"))]
        if unknown := sorted(applied - set(known)):
            raise HubRefused(f"the hub is of a newer event-service ({', '.join(unknown)})")
        pending = [name for name in known if name not in applied]
        for name in pending:
            _run(connection, _SQL / "tables" / f"{name}.sql")
            connection.execute("INSERT INTO hub.migrations VALUES (%s, hub.now_ms())", (name,))
        for path in sorted((_SQL / "functions").glob("*.sql")):
            _run(connection, path)
        _run(connection, _SQL / "rights.sql")
        return pending


def add_home(url: str) -> str:
    """Give home a login with a new password; return the address by which it connects."""
    with _owner(url) as connection, connection.transaction():
        return _give_login(connection, url, f"{connection.info.dbname}_at_home", "home")


def add_host(url: str, host: str) -> str:
    """Give the crawling host a login with a new password; return the address by which it connects."""
    with _owner(url) as connection, connection.transaction():
        login = f"{connection.info.dbname}_at_host_{host}"
        address = _give_login(connection, url, login, "edge")
        limit = sql.SQL(f"ALTER ROLE {{}} CONNECTION LIMIT {_MAX_CONNECTIONS}")
        connection.execute(limit.format(sql.Identifier(login)))
        connection.execute(
            "INSERT INTO hub.hosts (host, login, added_at) VALUES (%s, %s, hub.now_ms()) ON CONFLICT (host) DO NOTHING",
            (host, login),
        )
        return address


@contextmanager
def _owner(url: str) -> "Iterator[psycopg.Connection[Row]]":
    with translated(), open_as_owner(url) as connection:
        yield connection


def _create_groups(connection: "psycopg.Connection[Row]") -> None:
    """Create the roles of audiences, which may see the schema and call what `hub.permit` lets them."""
    connection.execute("CREATE SCHEMA IF NOT EXISTS hub")
    for group in _GROUPS:
        role = f"{connection.info.dbname}_{group}"
        _create_role(connection, role, "NOLOGIN")
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA hub TO {}").format(sql.Identifier(role)))


def _create_role(connection: "psycopg.Connection[Row]", role: str, attributes: str) -> None:
    if len(role) > _MAX_NAME:
        raise InvalidName(f"the role {role} would have a name longer than {_MAX_NAME} characters")
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
        connection.execute(sql.SQL(f"CREATE ROLE {{}} {attributes}").format(sql.Identifier(role)))


def _give_login(connection: "psycopg.Connection[Row]", url: str, login: str, group: str) -> str:
    _create_role(connection, login, "LOGIN")
    password = secrets.token_urlsafe(24)
    # Hashed here, so that no log of the server has it.
    hashed = connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
    role = sql.Identifier(login)
    connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(hashed)))
    member_of = sql.Identifier(f"{connection.info.dbname}_{group}")
    connection.execute(sql.SQL("GRANT {} TO {}").format(member_of, role))
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(login)}:{quote(password)}@{where}"))


def _run(connection: "psycopg.Connection[Row]", path: Path) -> None:
    # Files of this package; the protocol for several statements at once takes no parameters.
    connection.execute(path.read_bytes())


class InvalidName(EventServiceError):
    """A host's name from which no role can be named."""
