"""Every variable that the service reads: its name, how its text is read, its default and its meaning."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline import values
from pipeline.nostr.address import InvalidAddress, RelayAddress, parse_address
from pipeline.nostr.nip19 import InvalidEncoding, parse_public_key
from pipeline.values import HostPort, InvalidValue

BOOTSTRAP_RELAYS = (
    "wss://relay.damus.io,wss://nos.lol,wss://e.nos.lol,wss://purplepag.es,"
    "wss://relay.current.fyi,wss://brb.io,wss://relay.snort.social"
)
SKIP_RELAYS = "relay.nos.social,127.0.0.1,localhost,nostr.band,nostrja-kari-nip50.heguro.com,nostr.sebastix.social"
_HIDDEN = "(hidden)"
# By the type of a credentials file, what Google's library needs of it.
_CREDENTIAL_FIELDS = {
    "service_account": ("client_email", "private_key", "token_uri"),
    "authorized_user": ("client_id", "client_secret", "refresh_token"),
    "external_account": ("audience", "subject_token_type", "token_url"),
    "external_account_authorized_user": (),
    "impersonated_service_account": ("service_account_impersonation_url",),
    "gdch_service_account": (),
}
_MAX_KEY_FILE_BYTES = 1 << 20
# Room for the largest event that may be allowed, and another.
_LEAST_WAITING_BYTES = 16 << 20


class Environment(StrEnum):
    """Where the service runs; DEVELOPMENT posts nothing to Google Pub/Sub."""

    PRODUCTION = "PRODUCTION"
    DEVELOPMENT = "DEVELOPMENT"


class LogLevel(StrEnum):
    """How much is logged."""

    TRACE = "TRACE"
    DEBUG = "DEBUG"
    ERROR = "ERROR"
    DISABLED = "DISABLED"


class CrawlMode(StrEnum):
    """How relays are asked."""

    AUTO = "auto"
    """By query while that fits the relay and is cheap, else whole."""
    QUERY = "query"
    """By authors and mentions, in chunks."""
    WHOLE = "whole"
    """For everything at once; what is wanted is found here."""


class StatusPageAccess(StrEnum):
    """To whom the status page is shown."""

    LOCAL = "local"
    """To browsers on this machine, by localhost or a loopback address."""
    EVERYONE = "everyone"
    OFF = "off"


class RegistrationMode(StrEnum):
    """Who may become a user."""

    OPEN = "open"
    """Anyone."""
    ALLOWLIST = "allowlist"
    """The keys of `EVENTS_REGISTRATION_ALLOWLIST`."""
    PROOF_OF_WORK = "proof-of-work"
    """Those who prove work of `EVENTS_REGISTRATION_DIFFICULTY` bits (NIP-13)."""


@dataclass(frozen=True, slots=True)
class KeyList:
    """A file with a public key a line, and the keys that it held when it was read."""

    path: Path
    keys: frozenset[bytes]

    def __str__(self) -> str:
        return str(self.path)


class RetractedEvents(StrEnum):
    """What becomes of events that are known to be deleted, vanished or expired when they are saved."""

    FORWARD = "forward"
    """They go to Pub/Sub like all others, with the attribute `retracted`."""
    SUPPRESS = "suppress"
    """They go nowhere."""


class SinkKind(StrEnum):
    """What takes the events of the `pubsub` outbox."""

    PUBSUB = "pubsub"
    JSONL = "jsonl"
    STDOUT = "stdout"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SinkSetting:
    """`EVENTS_SINK`: the kind of sink, and for `jsonl` the file it appends to."""

    kind: SinkKind
    path: Path | None = None

    def __str__(self) -> str:
        return self.kind.value if self.path is None else f"{self.kind.value}:{self.path}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable: how it is read, its default as text (`None`: no default) and what it means."""

    name: str
    field: str
    parse: Callable[[str], Any]
    default: str | None
    meaning: str
    format: Callable[[Any], str] = str
    empty_means_none: bool = False
    secret: bool = False
    live: bool = False
    """Whether a running process follows it when its environment file is read again."""

    def read(self, env: Mapping[str, str]) -> Any:
        """The value that `env` gives, or the default; `None` where neither says anything."""
        text = env.get(self.name)
        if text is not None and not text.strip():
            text = "" if self.empty_means_none else None
        if text is None:
            text = self.default
        return None if text is None else self.parse(text)

    def show(self, value: Any) -> str:
        """`value` for an operator's eyes."""
        if value is None or value == ():
            return ""
        return _HIDDEN if self.secret else self.format(value)


def _choice(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    def parse(text: str) -> StrEnum:
        for member in kind:
            if member.value.lower() == text.strip().lower():
                return member
        raise InvalidValue("must be one of " + ", ".join(kind))

    return parse


def _count(least: int, most: int) -> Callable[[str], int]:
    return lambda text: values.integer(text, least=least, most=most)


def _sink(text: str) -> SinkSetting:
    kind, _, path = text.strip().partition(":")
    if kind == SinkKind.JSONL:
        if not path:
            raise InvalidValue("jsonl needs a path, as in jsonl:/var/lib/event-service/events.jsonl")
        return SinkSetting(SinkKind.JSONL, Path(path))
    if path or kind not in tuple(SinkKind):
        raise InvalidValue("must be pubsub, jsonl:PATH, stdout or none")
    return SinkSetting(SinkKind(kind))


def _relay(text: str) -> RelayAddress | None:
    if not text:
        return None
    try:
        return parse_address(text)
    except InvalidAddress as error:
        raise InvalidValue(f"{values.without_user(text)!r} is no relay address: {error}") from None


def _relays(text: str) -> tuple[RelayAddress, ...]:
    return tuple(relay for relay in map(_relay, values.text_list(text)) if relay is not None)


def _url(text: str) -> str:
    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidValue("must be a full http or https address")
    return text.strip()


def _file_path(text: str) -> Path:
    path = Path(text)
    if not path.name or text.endswith("/"):
        raise InvalidValue("must be the path of a file")
    return path


def _readable_file(text: str) -> Path:
    path = Path(text)
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise InvalidValue(f"cannot read {text}: {error.strerror}") from None
    return path


def _key_list(text: str) -> KeyList:
    path = _readable_file(text)
    keys: set[bytes] = set()
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        key = line.partition("#")[0].strip()
        try:
            keys.update([parse_public_key(key)] if key else [])
        except InvalidEncoding as error:
            raise InvalidValue(f"line {number} of {text}: {error}") from None
    return KeyList(path, frozenset(keys))


def credentials_problem(path: Path) -> str | None:
    """Why Google's library cannot take the file at `path`, as far as its shape tells; `None` if it may.

    Never quotes what is in it.
    """
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_KEY_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return f"{path} is no credentials file: it is not JSON"
    fields: dict[str, Any] = found if isinstance(found, dict) else {}
    kind = fields.get("type", "service_account")
    if not isinstance(kind, str) or kind not in _CREDENTIAL_FIELDS:
        return f"{path} is no credentials file: its type is none of {', '.join(_CREDENTIAL_FIELDS)}"
    missing = [name for name in _CREDENTIAL_FIELDS[kind] if not isinstance(fields.get(name), str)]
    return f"{path} is no {kind} credentials file: it lacks {', '.join(missing)}" if missing else None


def _proxy(text: str) -> HostPort:
    proxy = values.host_port(text)
    if not proxy.host or not proxy.port:
        raise InvalidValue("must be host:port")
    return proxy


def _true_or_false(value: bool) -> str:
    return "true" if value else "false"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.lower().rstrip(".") for name in values.text_list(text))


SETTINGS: tuple[Setting, ...] = (
    Setting("EVENTS_LISTEN_ADDRESS", "listen_address", values.host_port, ":8008", "address of the web server"),
    Setting(
        "EVENTS_ENVIRONMENT",
        "environment",
        _choice(Environment),
        "PRODUCTION",
        "`PRODUCTION` or `DEVELOPMENT`; DEVELOPMENT posts nothing to Google Pub/Sub",
    ),
    Setting(
        "EVENTS_LOG_LEVEL",
        "log_level",
        _choice(LogLevel),
        "DEBUG",
        "`TRACE`, `DEBUG`, `ERROR` or `DISABLED`",
        live=True,
    ),
    Setting("EVENTS_DATABASE_PATH", "database_path", _file_path, None, "full path of the database file; required"),
    Setting(
        "EVENTS_GOOGLE_PUBSUB_PROJECT_ID",
        "google_pubsub_project_id",
        values.project_id,
        None,
        "Pub/Sub project; required for sink `pubsub`",
    ),
    Setting(
        "EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH",
        "google_pubsub_credentials_json_path",
        _readable_file,
        None,
        "credentials file of any type that Google's library reads; default: application default credentials",
    ),
    Setting(
        "EVENTS_PYROSCOPE_APPLICATION_NAME",
        "pyroscope_application_name",
        str.strip,
        "events.nos.social",
        "Pyroscope application",
    ),
    Setting(
        "EVENTS_PYROSCOPE_SERVER_ADDRESS",
        "pyroscope_server_address",
        _url,
        None,
        "full address of the Pyroscope server; empty turns profiling off",
        format=values.without_user,
    ),
    Setting("EVENTS_PYROSCOPE_BASIC_AUTH_USER", "pyroscope_basic_auth_user", str, None, "basic auth user", secret=True),
    Setting(
        "EVENTS_PYROSCOPE_BASIC_AUTH_PASSWORD",
        "pyroscope_basic_auth_password",
        str,
        None,
        "basic auth password",
        secret=True,
    ),
    Setting(
        "EVENTS_SINK",
        "sink",
        _sink,
        None,
        "`pubsub`, `jsonl:PATH`, `stdout` or `none`; DEVELOPMENT defaults to a `.jsonl` beside the database",
    ),
    Setting("EVENTS_PUBSUB_TOPIC", "pubsub_topic", values.topic_id, "nostr-events", "topic id"),
    Setting(
        "EVENTS_RETRACTED",
        "retracted",
        _choice(RetractedEvents),
        "forward",
        "events known to be deleted, vanished or expired when they are saved: `forward` them with the attribute"
        " `retracted`, or `suppress` them",
    ),
    Setting(
        "EVENTS_TARGET_RELAY",
        "target_relay",
        _relay,
        "wss://relay.nos.social",
        "relay that kinds 0, 3, 10002 are sent to; set but empty: none, as in DEVELOPMENT",
        empty_means_none=True,
    ),
    Setting(
        "EVENTS_BOOTSTRAP_RELAYS",
        "bootstrap_relays",
        _relays,
        BOOTSTRAP_RELAYS,
        "relays to begin with",
        format=values.format_list,
        empty_means_none=True,
        live=True,
    ),
    Setting(
        "EVENTS_SKIP_RELAYS",
        "skip_relays",
        _names,
        SKIP_RELAYS,
        "host suffixes of discovered relays that are never dialled",
        format=values.format_list,
        empty_means_none=True,
        live=True,
    ),
    Setting(
        "EVENTS_ALLOWED_PORTS",
        "allowed_ports",
        values.ports,
        "",
        "ports of other services, such as 22 or 6379, at which discovered relays are dialled all the same",
        format=lambda found: values.format_list(sorted(found)),
        empty_means_none=True,
        live=True,
    ),
    Setting(
        "EVENTS_DISCOVER_RELAYS",
        "discover_relays",
        values.boolean,
        "true",
        "dial relays learned from events",
        _true_or_false,
        live=True,
    ),
    Setting("EVENTS_MAX_RELAYS", "max_relays", _count(1, 100_000), "1000", "most relays dialled; your own always are"),
    Setting(
        "EVENTS_MAX_RELAYS_PER_HOST",
        "max_relays_per_host",
        _count(1, 1000),
        "3",
        "most relays dialled per host; your own always are",
        live=True,
    ),
    Setting(
        "EVENTS_ALLOW_PRIVATE_RELAYS",
        "allow_private_relays",
        values.boolean,
        "false",
        "let relay addresses resolve to loopback and private networks",
        _true_or_false,
    ),
    Setting(
        "EVENTS_CRAWL_MODE",
        "crawl_mode",
        _choice(CrawlMode),
        "auto",
        "`query`: ask relays by author; `whole`: for everything; `auto`: what fits and costs less, for each relay",
        live=True,
    ),
    Setting("EVENTS_CRAWLERS", "crawlers", _count(1, 64), None, "crawler processes; default: cores, at least 2"),
    Setting(
        "EVENTS_RELAY_COMPRESSION",
        "relay_compression",
        values.boolean,
        "true",
        "offer compression to relays: fewer bytes, more CPU",
    ),
    Setting(
        "EVENTS_BACKFILL",
        "backfill",
        values.duration_ms,
        "16m",
        "how far back a first start reaches",
        values.format_duration,
    ),
    Setting(
        "EVENTS_RESWEEP_WINDOW",
        "resweep_window",
        values.duration_ms,
        "72h",
        "window that is swept again",
        values.format_duration,
    ),
    Setting(
        "EVENTS_RESWEEP_EVERY",
        "resweep_every",
        values.duration_ms,
        "6h",
        "how often it is swept",
        values.format_duration,
    ),
    Setting(
        "EVENTS_EVENT_RETENTION",
        "event_retention",
        values.duration_ms,
        "1h",
        "how long payloads are kept after delivery",
        values.format_duration,
    ),
    Setting(
        "EVENTS_SEEN_RETENTION",
        "seen_retention",
        values.duration_ms,
        "30d",
        "how long ids are kept",
        values.format_duration,
    ),
    Setting(
        "EVENTS_SEEN_RETENTION_MAX",
        "seen_retention_max",
        values.duration_ms,
        "180d",
        "how long they are kept at most for the sake of relays that are away",
        values.format_duration,
    ),
    Setting("EVENTS_MAX_EVENT_BYTES", "max_event_bytes", _count(1024, 8 << 20), "1048576", "largest event saved"),
    Setting(
        "EVENTS_MAX_EVENT_TAGS",
        "max_event_tags",
        _count(1, 1_000_000),
        "20000",
        "most tags of an event saved, with 16 values each on average",
    ),
    Setting(
        "EVENTS_BACKPRESSURE_HIGH",
        "backpressure_high",
        _count(1, 100_000_000),
        "20000",
        "pending events above which crawlers stop reading",
        live=True,
    ),
    Setting(
        "EVENTS_BACKPRESSURE_LOW",
        "backpressure_low",
        _count(0, 100_000_000),
        "15000",
        "pending events below which crawlers read again",
        live=True,
    ),
    Setting(
        "EVENTS_BACKPRESSURE_BYTES",
        "backpressure_bytes",
        _count(_LEAST_WAITING_BYTES, 1 << 50),
        "268435456",
        "bytes of pending events above which crawlers stop reading; below three quarters of it they go on",
        live=True,
    ),
    Setting(
        "EVENTS_MAX_DATABASE_BYTES",
        "max_database_bytes",
        _count(0, 1 << 50),
        "8589934592",
        "bytes in use in the database beyond which payloads are forgotten as soon as they are delivered; 0: no bound",
        live=True,
    ),
    Setting(
        "EVENTS_RELAY_BYTE_RATE",
        "relay_byte_rate",
        _count(0, 1 << 40),
        "262144",
        "bytes a second of kinds 0, 2, 3 and 10002 that one relay may bring of authors whom no registered user follows;"
        " beyond it they are fetched later, at this rate; 0: no bound",
        live=True,
    ),
    Setting(
        "EVENTS_RUNTIME_DIRECTORY",
        "runtime_directory",
        Path,
        None,
        "metrics files and heartbeats, best on tmpfs; default: `RUNTIME_DIRECTORY`, else a temporary folder",
    ),
    Setting(
        "EVENTS_STAGE_LISTEN_ADDRESS",
        "stage_listen_address",
        values.host_port,
        None,
        "own `/metrics` and `/_health` of a stage that is run alone; empty: off",
    ),
    Setting(
        "EVENTS_NEW_AUTHOR_LOOKBACK",
        "new_author_lookback",
        values.duration_ms,
        "24h",
        "how far back from the follower's list a newly wanted author's events are fetched",
        values.format_duration,
    ),
    Setting(
        "EVENTS_NEW_AUTHOR_LOOKBACK_MAX",
        "new_author_lookback_max",
        values.duration_ms,
        "7d",
        "how far back from now that is at most, however old the list",
        values.format_duration,
    ),
    Setting("EVENTS_SOCKS_PROXY", "socks_proxy", _proxy, None, "`host:port` for onion relays; empty: they are skipped"),
    Setting("EVENTS_SECRET_KEY_PATH", "secret_key_path", _readable_file, None, "key file for NIP-42; empty: none"),
    Setting(
        "EVENTS_TARGET_RELAY_RATE",
        "target_relay_rate",
        _count(0, 1_000_000),
        "0",
        "most events a minute sent to the target relay, which may ban who sends more; 0: no bound",
        live=True,
    ),
    Setting(
        "EVENTS_TARGET_RELAY_BACKLOG",
        "target_relay_backlog",
        _count(0, 1_000_000_000),
        "1000000",
        "events that may wait for the target relay; beyond it the oldest are discarded; 0: no bound",
        live=True,
    ),
    Setting(
        "EVENTS_TARGET_RELAY_BACKLOG_BYTES",
        "target_relay_backlog_bytes",
        _count(0, 1 << 50),
        "2147483648",
        "the same in bytes; 0: no bound",
        live=True,
    ),
    Setting(
        "EVENTS_REGISTRATION",
        "registration",
        _choice(RegistrationMode),
        "open",
        "who may become a user: `open`, `allowlist` or `proof-of-work` (NIP-13)",
        live=True,
    ),
    Setting(
        "EVENTS_REGISTRATION_ALLOWLIST",
        "registration_allowlist",
        _key_list,
        None,
        "file with a public key (hex or npub) a line, `#` begins a comment; required for `allowlist`",
        live=True,
    ),
    Setting(
        "EVENTS_REGISTRATION_DIFFICULTY",
        "registration_difficulty",
        _count(1, 64),
        "20",
        "bits of work that a registration proves with `proof-of-work`",
        live=True,
    ),
    Setting("EVENTS_MAX_USERS", "max_users", _count(1, 10_000_000), "100000", "most registered users"),
    Setting(
        "EVENTS_MAX_WANTED_AUTHORS",
        "max_wanted_authors",
        _count(1, 100_000_000),
        "2000000",
        "most registered users and followees in all; near it the newest and largest users get fewer of their followees",
    ),
    Setting("EVENTS_MAX_CONNECTIONS", "max_connections", _count(1, 100_000), "512", "most clients of the web server"),
    Setting(
        "EVENTS_MAX_CONNECTIONS_PER_CLIENT",
        "max_connections_per_client",
        _count(1, 100_000),
        "32",
        "most connections of one client address",
    ),
    Setting(
        "EVENTS_MAX_REGISTRATIONS_PER_MINUTE",
        "max_registrations_per_minute",
        _count(1, 1_000_000),
        "20",
        "registrations a minute of one client address, ten minutes' worth of them at once",
    ),
    Setting(
        "EVENTS_MAX_ADDRESS_LABELS",
        "max_address_labels",
        _count(0, 100_000),
        "2000",
        "most relay addresses told apart in the metrics of a process; others count as `other`",
    ),
    Setting(
        "EVENTS_MAX_QUEUE_AGE",
        "max_queue_age",
        values.duration_ms,
        "15m",
        "age of a queue's oldest untried event beyond which `/_health` fails; 0: never",
        values.format_duration,
        live=True,
    ),
    Setting(
        "EVENTS_STATUS_PAGE",
        "status_page",
        _choice(StatusPageAccess),
        "local",
        "who sees the status page: `local` (browsers on this machine), `everyone` or `off`",
        live=True,
    ),
    Setting(
        "EVENTS_TRUSTED_PROXIES",
        "trusted_proxies",
        values.networks,
        "",
        "addresses or networks of your reverse proxies, whose `X-Forwarded-For` is believed; empty: none",
        values.format_list,
        empty_means_none=True,
    ),
    Setting(
        "EVENTS_PUBLIC_URL",
        "public_url",
        _relay,
        None,
        "address at which users reach the web server, as in `wss://events.example.com`; "
        "a request to vanish from it ends a registration",
    ),
    Setting(
        "EVENTS_ALLOWED_ORIGINS",
        "allowed_origins",
        values.text_list,
        "",
        "web pages whose scripts may register, as in `https://example.com`; empty: all",
        values.format_list,
        empty_means_none=True,
    ),
)
