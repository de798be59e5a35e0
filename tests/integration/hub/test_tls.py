"""TLS between a host and a real PostgreSQL: each checks who the other is, and says what is wrong."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

import pytest

from pipeline.hub.connection import HubConnection, HubRefused, HubUnavailable
from tests.fakes.postgres import Hub, PostgresServer, hub_in, programs_or_skip

DAYS = "2"
# As in operating.md; the owner, who makes the logins, comes by password here.
ACCESS = [
    "local   all    all                         scram-sha-256",
    "hostssl all    owner        127.0.0.1/32   scram-sha-256",
    "hostssl all    all          127.0.0.1/32   cert",
    "host    all    all          127.0.0.1/32   reject",
]


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._openssl("req", "-x509", *_NEW, "-days", DAYS, "-subj", f"/CN={self.folder.name}", *self._files("ca"))

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.crt"

    def sign(self, name: str, *, alternative: str = "") -> tuple[Path, Path]:
        """Make a key and its certificate for `name`; their files."""
        extensions = self.folder / "extensions"
        extensions.write_text(f"subjectAltName={alternative}\n" if alternative else "")
        request = self.folder / f"{name}.csr"
        self._openssl("req", *_NEW, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", request.name)
        self._openssl(
            "x509", "-req", "-in", request.name, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", DAYS,
            "-extfile", extensions.name, "-out", f"{name}.crt",
        )  # fmt: skip
        (self.folder / f"{name}.key").chmod(0o600)
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def _files(self, name: str) -> list[str]:
        return ["-keyout", f"{name}.key", "-out", f"{name}.crt"]

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def hub(authority: Authority) -> Iterator[Hub]:
    """A hub that takes hosts by certificate only, and whose own names 127.0.0.1."""
    server = PostgresServer(programs_or_skip(), access=ACCESS)
    try:
        certificate, key = authority.sign("server", alternative="IP:127.0.0.1")
        server.serve_tls(certificate, key, authority.certificate)
        server.start()
        with hub_in(server) as found:
            found.add_host("fra1")
            yield found
    finally:
        server.close()


def address(hub: Hub, trusted: Path, own: tuple[Path, Path] | None, host: str = "127.0.0.1") -> str:
    """What an operator writes into EVENTS_HUB of host fra1."""
    parts = urlsplit(hub.owner)
    query = {"sslmode": "verify-full", "sslrootcert": trusted}
    if own is not None:
        query |= {"sslcert": own[0], "sslkey": own[1]}
    login = f"{hub.name}_at_host_fra1"
    return urlunsplit(parts._replace(netloc=f"{login}@{host}:{parts.port}", query=urlencode(query)))


@pytest.fixture
def own(hub: Hub, authority: Authority) -> tuple[Path, Path]:
    return authority.sign(f"{hub.name}_at_host_fra1")


def test_host_with_its_certificate_is_known_without_password(
    hub: Hub, authority: Authority, own: tuple[Path, Path]
) -> None:
    with HubConnection.open(address(hub, authority.certificate, own)) as connection:
        assert connection.call("report_v1", "x", 0, 0, 0)[0][0] == "fra1"


def test_hub_of_another_authority_is_refused(
    hub: Hub, own: tuple[Path, Path], tmp_path: Path, authority: Authority
) -> None:
    other = Authority(tmp_path / "other")
    with pytest.raises((HubRefused, HubUnavailable), match="certificate verify failed"):
        HubConnection.open(address(hub, other.certificate, own))


def test_hub_of_another_name_is_refused(hub: Hub, authority: Authority, own: tuple[Path, Path]) -> None:
    with pytest.raises((HubRefused, HubUnavailable), match='does not match host name "localhost"'):
        HubConnection.open(address(hub, authority.certificate, own, "localhost"))


def test_host_without_certificate_is_refused(hub: Hub, authority: Authority) -> None:
    with pytest.raises((HubRefused, HubUnavailable), match="requires a valid client certificate"):
        HubConnection.open(address(hub, authority.certificate, None))


def test_host_with_certificate_of_another_authority_is_refused(hub: Hub, authority: Authority, tmp_path: Path) -> None:
    forged = Authority(tmp_path / "other").sign(f"{hub.name}_at_host_fra1")
    with pytest.raises((HubRefused, HubUnavailable), match=r"unknown ca|certificate required|valid client certificate"):
        HubConnection.open(address(hub, authority.certificate, forged))


def test_host_with_certificate_of_another_host_is_refused(hub: Hub, authority: Authority) -> None:
    with pytest.raises((HubRefused, HubUnavailable), match="certificate authentication failed for user"):
        HubConnection.open(address(hub, authority.certificate, authority.sign(f"{hub.name}_at_host_ams1")))


def test_host_without_tls_is_refused(hub: Hub, authority: Authority) -> None:
    plain = address(hub, authority.certificate, None).replace("sslmode=verify-full", "sslmode=disable")
    with pytest.raises((HubRefused, HubUnavailable), match=r"pg_hba\.conf rejects connection"):
        HubConnection.open(plain)
