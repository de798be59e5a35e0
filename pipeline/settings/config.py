"""All settings, read once from the environment into one frozen object.

`Config.from_env` reports every mistake in one `InvalidConfig`. Nothing else in the program looks at the environment for
settings.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.errors import CannotStart
from pipeline.nostr.address import RelayAddress
from pipeline.settings.choices import (
    CrawlMode,
    Environment,
    HostRole,
    KeyList,
    LogLevel,
    RegistrationMode,
    RetractedEvents,
    SinkKind,
    SinkSetting,
    StatusPageAccess,
)
from pipeline.settings.credentials import credentials_problem
from pipeline.settings.schema import SETTINGS
from pipeline.settings.values import HostPort, InvalidValue, IPNetwork

# Settings that name a secret file, and what systemd's credential for it is named in the shipped units.
_CREDENTIALS = {"google_pubsub_credentials_json_path": "pubsub.json", "secret_key_path": "nostr.key"}

_NO_CREDENTIAL = b"none"


class InvalidConfig(CannotStart):
    """One or more settings are wrong; the text is one line that names each of them."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))


@dataclass(frozen=True, slots=True)
class Config:
    """The effective settings. Durations are integer milliseconds; `None` means off or unset."""

    listen_address: HostPort
    environment: Environment
    log_level: LogLevel
    database_path: Path
    google_pubsub_project_id: str | None
    google_pubsub_credentials_json_path: Path | None
    pyroscope_application_name: str
    pyroscope_server_address: str | None
    pyroscope_basic_auth_user: str | None
    pyroscope_basic_auth_password: str | None
    trace_sample: float
    sink: tuple[SinkSetting, ...]
    sink_backlog: int
    sink_backlog_bytes: int
    pubsub_topic: str
    retracted: RetractedEvents
    target_relay: RelayAddress | None
    bootstrap_relays: tuple[RelayAddress, ...]
    skip_relays: tuple[str, ...]
    allowed_ports: frozenset[int]
    discover_relays: bool
    max_relays: int
    max_relays_per_host: int
    allow_private_relays: bool
    crawl_mode: CrawlMode
    crawlers: int
    relay_compression: bool
    backfill: int
    resweep_window: int
    resweep_every: int
    audit_every: int
    event_retention: int
    seen_retention: int
    seen_retention_max: int
    max_event_bytes: int
    max_event_tags: int
    backpressure_high: int
    backpressure_low: int
    backpressure_bytes: int
    max_database_bytes: int
    relay_byte_rate: int
    runtime_directory: Path
    stage_listen_address: HostPort | None
    new_author_lookback: int
    new_author_lookback_max: int
    socks_proxy: HostPort | None
    secret_key_path: Path | None
    target_relay_rate: int
    target_relay_backlog: int
    target_relay_backlog_bytes: int
    registration: RegistrationMode
    registration_allowlist: KeyList | None
    registration_difficulty: int
    max_users: int
    max_wanted_authors: int
    max_connections: int
    max_connections_per_client: int
    max_registrations_per_minute: int
    max_address_labels: int
    max_queue_age: int
    status_page: StatusPageAccess
    trusted_proxies: tuple[IPNetwork, ...]
    public_url: RelayAddress | None
    allowed_origins: tuple[str, ...]
    hub: str | None
    role: HostRole | None
    host: str | None

    @classmethod
    def from_env(cls, env: Mapping[str, str], *, runs: bool = True) -> "Config":
        """Read the settings from `env`. Raises `InvalidConfig` that names every wrong or missing variable.

        `runs`: a stage is to be run, which needs all that its sink needs; other commands look at the database alone.
        """
        read: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for setting in SETTINGS:
            try:
                read[setting.field] = setting.read(env)
            except InvalidValue as error:
                problems[setting.name] = str(error)
        _fill_dependent_defaults(read, env)
        _fill_defaults_of_role(read, env)
        found = _contradictions(read, env) if runs else _missing_database(read)
        problems |= {name: why for name, why in found.items() if name not in problems}
        if problems:
            raise InvalidConfig(problems)
        return cls(**read)

    @property
    def sink_names(self) -> tuple[str, ...]:
        """What the sinks of `EVENTS_SINK` are called, the first named first."""
        return tuple(each.sink for each in self.sink)

    def effective(self) -> list[tuple[str, str]]:
        """Each variable with its effective value as text, secrets hidden, in the order of the documentation."""
        return [(setting.name, setting.show(getattr(self, setting.field))) for setting in SETTINGS]


def _default_runtime_directory(env: Mapping[str, str], database: Path) -> Path:
    """Return systemd's directory, else one that all stages of this user and database derive."""
    given = env.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    digest = hashlib.sha256(os.fsencode(database.absolute())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"event-service-{os.getuid()}-{digest}"


def _credential(env: Mapping[str, str], name: str) -> Path | None:
    """Return the file that systemd's `LoadCredential=` made of this name; a missing one reads as `none`."""
    directory = env.get("CREDENTIALS_DIRECTORY", "")
    path = Path(directory) / name
    if not directory or not path.is_file() or path.read_bytes().strip() == _NO_CREDENTIAL:
        return None
    return path


def _fill_dependent_defaults(read: dict[str, Any], env: Mapping[str, str]) -> None:
    development = read.get("environment") is Environment.DEVELOPMENT
    database: Path | None = read.get("database_path")
    if read.get("sink", ...) is None:
        beside = (database or Path("events")).with_suffix(".jsonl")
        read["sink"] = (SinkSetting(SinkKind.JSONL, beside) if development else SinkSetting(SinkKind.PUBSUB),)
    for name, credential in _CREDENTIALS.items():
        if read.get(name, ...) is None:
            read[name] = _credential(env, credential)
    if "EVENTS_TARGET_RELAY" not in env and development:
        read["target_relay"] = None
    if read.get("runtime_directory", ...) is None and database is not None:
        read["runtime_directory"] = _default_runtime_directory(env, database)
    if read.get("crawlers", ...) is None:
        read["crawlers"] = max(2, os.cpu_count() or 2)


def _fill_defaults_of_role(read: dict[str, Any], env: Mapping[str, str]) -> None:
    """Let a host of several begin with what it has to do: home crawls no relay, other hosts deliver nothing."""
    if read.get("role") is HostRole.HOME and not env.get("EVENTS_CRAWLERS", "").strip():
        read["crawlers"] = 0
    if read.get("role") is not None and not env.get("EVENTS_AUDIT_EVERY", "").strip():
        # An audit dials relays by itself, from a host that may have no right to ask them.
        read["audit_every"] = 0
    if read.get("role") is HostRole.CRAWLER:
        if not env.get("EVENTS_SINK", "").strip():
            read["sink"] = ()
        if "EVENTS_TARGET_RELAY" not in env:
            read["target_relay"] = None


def _hub_problems(read: Mapping[str, Any]) -> dict[str, str]:
    """Return what does not fit together among the settings of several hosts."""
    hub, role, host = (read.get(name) for name in ("hub", "role", "host"))
    problems = {}
    if hub is not None and role is None:
        problems["EVENTS_ROLE"] = "is required with EVENTS_HUB: crawler or home"
    if hub is None and role is not None:
        problems["EVENTS_HUB"] = "is required with EVENTS_ROLE: the address of the hub"
    if role is HostRole.CRAWLER and host is None:
        problems["EVENTS_HOST"] = "is required for EVENTS_ROLE=crawler: the name by which hub add-host added this host"
    if role is not HostRole.CRAWLER and host is not None:
        problems["EVENTS_HOST"] = "is for EVENTS_ROLE=crawler only"
    if role is not HostRole.HOME and read.get("crawlers") == 0:
        problems["EVENTS_CRAWLERS"] = "must be 1 or more; 0 is for EVENTS_ROLE=home"
    if role is HostRole.HOME and read.get("crawlers") != 0:
        problems["EVENTS_CRAWLERS"] = "must be 0 for EVENTS_ROLE=home: other hosts crawl"
    return problems | (_crawler_problems(read) if role is HostRole.CRAWLER else {})


def _crawler_problems(read: Mapping[str, Any]) -> dict[str, str]:
    """Return settings of a crawling host that home has in its place."""
    problems = {}
    if read.get("sink"):
        problems["EVENTS_SINK"] = "is for the home host: with EVENTS_ROLE=crawler events go to the hub"
    if read.get("target_relay") is not None:
        problems["EVENTS_TARGET_RELAY"] = "is for the home host: with EVENTS_ROLE=crawler events go to the hub"
    if read.get("audit_every"):
        # It would miss, and fetch again, what other hosts have handed over.
        problems["EVENTS_AUDIT_EVERY"] = "is for the home host, which knows what all hosts found"
    return problems


def _missing_database(read: Mapping[str, Any]) -> dict[str, str]:
    if read.get("database_path", ...) is not None:
        return {}
    return {"EVENTS_DATABASE_PATH": "is required: the full path of the database file"}


def _pubsub_problems(read: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    problems = {}
    if read.get("environment") is Environment.DEVELOPMENT:
        problems["EVENTS_SINK"] = "pubsub is refused when EVENTS_ENVIRONMENT is DEVELOPMENT"
    if read.get("google_pubsub_project_id", ...) is None:
        problems["EVENTS_GOOGLE_PUBSUB_PROJECT_ID"] = "is required for EVENTS_SINK=pubsub"
    if not env.get("PUBSUB_EMULATOR_HOST") and "google_pubsub_credentials_json_path" in read:
        credentials: Path | None = read["google_pubsub_credentials_json_path"]
        problem = None if credentials is None else credentials_problem(credentials)
        if problem is not None:
            problems["EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH"] = problem
    return problems


def _is_of_database(path: Path | None, database: Path | None) -> bool:
    """Return True if `path` is the database, or one of the files that SQLite has beside it, however it is spelt."""
    if path is None or database is None:
        return False
    try:
        path, database = path.resolve(), database.resolve()
    except (OSError, RuntimeError):  # a loop of links, into which nothing can be written
        return False
    return path in {database.with_name(database.name + end) for end in ("", "-wal", "-shm", "-journal")}


def _contradictions(read: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    problems = _missing_database(read) | _hub_problems(read)
    sinks: tuple[SinkSetting, ...] = read.get("sink", ())
    if any(sink.kind is SinkKind.PUBSUB for sink in sinks):
        problems |= _pubsub_problems(read, env)
    if any(_is_of_database(sink.path, read.get("database_path")) for sink in sinks):
        problems["EVENTS_SINK"] = "must not write into the files of EVENTS_DATABASE_PATH"
    if read.get("registration") is RegistrationMode.ALLOWLIST and read.get("registration_allowlist", ...) is None:
        problems["EVENTS_REGISTRATION_ALLOWLIST"] = "is required for EVENTS_REGISTRATION=allowlist"
    low, high = read.get("backpressure_low"), read.get("backpressure_high")
    if low is not None and high is not None and low >= high:
        problems["EVENTS_BACKPRESSURE_LOW"] = "must be below EVENTS_BACKPRESSURE_HIGH"
    return problems


assert [setting.field for setting in SETTINGS] == [field.name for field in fields(Config)]
