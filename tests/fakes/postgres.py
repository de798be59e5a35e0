"""A real PostgreSQL on loopback, in a temporary folder of its own, and databases in it."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psycopg
import pytest
from psycopg import sql

from tests.fakes.child import Child
from tests.fakes.net import free_port, pause
from tests.fakes.peer import Peer

_HOST = "127.0.0.1"
_READY_TIMEOUT_S = 120.0
_numbers = itertools.count()


def find_programs() -> Path | None:
    """The newest installed server's folder of programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def programs_or_skip() -> Path:
    """The same; skips the test where there is none."""
    found = find_programs()
    if found is None:
        pytest.skip("PostgreSQL not installed")
    return found


class PostgresServer(Peer):
    """One server; `kill` ends it as a crash would, `start` runs it again on the same files.

    `listen`: where it listens beside loopback. `access`: lines of its `pg_hba.conf`, before those for loopback.
    """

    def __init__(
        self,
        programs: Path,
        *,
        listen: Sequence[str] = (),
        access: Sequence[str] = (),
    ) -> None:
        self._programs = programs
        self._listen = ",".join([_HOST, *listen])
        self._access = access
        self._options: dict[str, str] = {}
        self.port = free_port(_HOST)
        self.folder = Path(tempfile.mkdtemp(prefix="hub-postgres-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            # Becomes the command, so that its process id is the server's.
            self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
        self.data = self.folder / "data"
        self._initialize()

    def _initialize(self) -> None:
        secret = self.folder / "secret"
        secret.write_text("secret\n")
        secret.chmod(0o644)
        subprocess.run(
            [
                *self._as_user, str(self._programs / "initdb"), "--pgdata", str(self.data), "--username", "owner",
                "--pwfile", str(secret), "--auth", "scram-sha-256", "--no-locale", "--encoding", "UTF8", "--no-sync",
            ],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        rules = self.data / "pg_hba.conf"
        rules.write_text("\n".join([*self._access, rules.read_text()]))

    def serve_tls(self, certificate: Path, key: Path, clients: Path) -> None:
        """Encrypt from the next start on, and know clients by certificates of the authority `clients`."""
        for name, source, setting in (
            ("server.crt", certificate, "ssl_cert_file"),
            ("server.key", key, "ssl_key_file"),
            ("clients.crt", clients, "ssl_ca_file"),
        ):
            target = self.folder / name
            shutil.copy(source, target)
            target.chmod(0o600)
            if self._as_user:
                shutil.chown(target, "postgres", "postgres")
            self._options[setting] = str(target)
        self._options["ssl"] = "on"

    def copy_to(self, copy: Path) -> None:
        """Copy all files of the server, which must not run."""
        subprocess.run(["cp", "-a", str(self.data), str(copy)], check=True)

    def go_back_to(self, copy: Path) -> None:
        """Let the server, which must not run, have the files of this copy and no others."""
        shutil.rmtree(self.data)
        subprocess.run(["cp", "-a", str(copy), str(self.data)], check=True)
        # Of the server that was killed before the copy was made.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def start(self) -> None:
        """Run it and wait until it answers."""
        command = [
            *self._as_user, str(self._programs / "postgres"), "-D", str(self.data), "-p", str(self.port),
            "-c", f"listen_addresses={self._listen}", "-c", f"unix_socket_directories={self.folder}",
            # A killed process loses nothing by it, only a machine would.
            "-c", "fsync=off", "-c", "max_connections=60", "-c", "shared_buffers=16MB",
            *(word for name, value in self._options.items() for word in ("-c", f"{name}={value}")),
        ]  # fmt: skip
        deadline = monotonic() + _READY_TIMEOUT_S
        with self._starting(Child(command, cwd=Path("/"))):
            while True:
                try:
                    psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                    return
                except psycopg.OperationalError:
                    if monotonic() > deadline:
                        raise TimeoutError(f"PostgreSQL does not answer\n{self.child.tail()}") from None
                pause(0.1)
                if not self.child.running:
                    # Processes of the one before, which was killed, notice it within moments.
                    self.kill()
                    self._child = Child(command, cwd=Path("/"))

    def stop(self) -> None:
        """End it in order, its connections at once."""
        if self._child is not None:
            self.child.signal(signal.SIGINT)
            self.child.wait(_READY_TIMEOUT_S)
            self.kill()

    def close(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """The owner's address of a database."""
        return f"postgresql://owner:secret@{_HOST}:{self.port}/{database}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, and remove it with its roles afterwards; its name."""
        name = f"hub{next(_numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield name


@dataclass(frozen=True, slots=True)
class Hub:
    """A database with the hub's schema; `owner` is its owner's address, `home` that of the home host."""

    server: PostgresServer
    name: str
    owner: str
    home: str

    def add_host(self, host: str) -> str:
        """Let a host crawl; its address."""
        from pipeline.hub.installer import add_host

        return add_host(self.owner, host)

    def rows(self, statement: str, *arguments: object) -> list[tuple[object, ...]]:
        """What the owner reads."""
        with psycopg.connect(self.owner, autocommit=True) as connection:
            return connection.execute(statement.encode(), arguments).fetchall()


@contextmanager
def hub_in(server: PostgresServer) -> Iterator[Hub]:
    """A new hub in a database of its own."""
    from pipeline.hub import installer

    with server.database() as name:
        owner = server.url(name)
        installer.migrate(owner)
        yield Hub(server, name, owner, installer.add_home(owner))
