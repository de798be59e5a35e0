"""Settings: every default, every wrong value named, and all mistakes in one message."""

import json
import os
import re
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import CannotStart
from pipeline.settings.choices import (
    CrawlMode,
    Environment,
    HostRole,
    KeyList,
    LogLevel,
    RegistrationMode,
    SinkKind,
    SinkSetting,
)
from pipeline.settings.config import Config, InvalidConfig
from pipeline.settings.schema import SETTINGS
from pipeline.settings.values import HostPort

Env = dict[str, str]
S, M, H, D = 1_000, 60_000, 3_600_000, 86_400_000
# Of the Go service (pipeline/docs/compatibility.md), and what was added since.
DEFAULTS: dict[str, Any] = {
    "listen_address": HostPort("", 8008),
    "environment": Environment.PRODUCTION,
    "log_level": LogLevel.DEBUG,
    "pyroscope_application_name": "events.nos.social",
    "pyroscope_server_address": None,
    "pyroscope_basic_auth_user": None,
    "pyroscope_basic_auth_password": None,
    "sink": (SinkSetting(SinkKind.PUBSUB),),
    "sink_backlog": 1_000_000,
    "sink_backlog_bytes": 2 << 30,
    "pubsub_topic": "nostr-events",
    "discover_relays": True,
    "max_relays": 1000,
    "max_relays_per_host": 3,
    "allow_private_relays": False,
    "crawl_mode": CrawlMode.AUTO,
    "relay_compression": True,
    "crawlers": max(2, os.cpu_count() or 2),
    "backfill": 16 * M,
    "resweep_window": 72 * H,
    "resweep_every": 6 * H,
    "event_retention": H,
    "seen_retention": 30 * D,
    "max_event_bytes": 1_048_576,
    "max_event_tags": 20_000,
    "backpressure_high": 20_000,
    "backpressure_low": 15_000,
    "stage_listen_address": None,
    "new_author_lookback": 24 * H,
    "socks_proxy": None,
    "secret_key_path": None,
}
BOOTSTRAP = [
    "wss://relay.damus.io", "wss://nos.lol", "wss://e.nos.lol", "wss://purplepag.es", "wss://relay.current.fyi",
    "wss://brb.io", "wss://relay.snort.social",
]  # fmt: skip
SKIPPED = [
    "relay.nos.social", "127.0.0.1", "localhost", "nostr.band", "nostrja-kari-nip50.heguro.com",
    "nostr.sebastix.social",
]  # fmt: skip


@pytest.fixture
def env(tmp_path: Path) -> Env:
    """The least that PRODUCTION needs."""
    credentials = tmp_path / "credentials.json"
    credentials.write_text('{"client_email": "a@b", "private_key": "k", "token_uri": "https://t"}')
    return {
        "EVENTS_DATABASE_PATH": str(tmp_path / "events.db"),
        "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "a-project",
        "EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH": str(credentials),
    }


@pytest.fixture
def development(tmp_path: Path) -> Env:
    return {"EVENTS_ENVIRONMENT": "development", "EVENTS_DATABASE_PATH": str(tmp_path / "events.db")}


def problems(env: Env) -> dict[str, str]:
    with pytest.raises(InvalidConfig) as caught:
        Config.from_env(env)
    assert isinstance(caught.value, CannotStart)
    text = str(caught.value)
    assert "\n" not in text
    assert all(f"{name}: {why}" in text for name, why in caught.value.problems.items())
    return caught.value.problems


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(env: Env, name: str) -> None:
    assert getattr(Config.from_env(env), name) == DEFAULTS[name]


def test_defaults_that_are_addresses(env: Env) -> None:
    config = Config.from_env(env)
    assert str(config.target_relay) == "wss://relay.nos.social"
    assert [relay.url for relay in config.bootstrap_relays] == BOOTSTRAP
    assert list(config.skip_relays) == SKIPPED


def test_what_is_required_is_taken_as_it_stands(env: Env) -> None:
    config = Config.from_env(env)
    assert str(config.database_path) == env["EVENTS_DATABASE_PATH"]
    assert config.google_pubsub_project_id == "a-project"
    assert str(config.google_pubsub_credentials_json_path) == env["EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH"]


def test_development_posts_to_nobody(development: Env, tmp_path: Path) -> None:
    config = Config.from_env(development)
    assert config.environment is Environment.DEVELOPMENT
    assert config.sink == (SinkSetting(SinkKind.JSONL, tmp_path / "events.jsonl"),)
    assert config.target_relay is None
    assert config.google_pubsub_project_id is None


def test_development_posts_where_it_is_told_to_but_never_to_pubsub(development: Env) -> None:
    told = Config.from_env(development | {"EVENTS_TARGET_RELAY": "ws://127.0.0.1:8081", "EVENTS_SINK": "stdout"})
    assert str(told.target_relay) == "ws://127.0.0.1:8081"
    assert told.sink == (SinkSetting(SinkKind.STDOUT),)
    assert "EVENTS_SINK" in problems(development | {"EVENTS_SINK": "pubsub", "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": "p"})


@pytest.mark.parametrize("blank", ["", "  "])
def test_an_empty_variable_counts_as_unset(env: Env, blank: str) -> None:
    plain = Config.from_env(env)
    lists = {"EVENTS_TARGET_RELAY", "EVENTS_BOOTSTRAP_RELAYS", "EVENTS_SKIP_RELAYS"}
    empty = {setting.name: blank for setting in SETTINGS if setting.name not in lists and setting.name not in env}
    assert Config.from_env(env | empty) == plain


@pytest.mark.parametrize("blank", ["", "  "])
def test_an_empty_list_or_target_means_none(env: Env, development: Env, blank: str) -> None:
    names = ("EVENTS_TARGET_RELAY", "EVENTS_BOOTSTRAP_RELAYS", "EVENTS_SKIP_RELAYS")
    for base in (env, development):
        config = Config.from_env(base | dict.fromkeys(names, blank))
        assert (config.target_relay, config.bootstrap_relays, config.skip_relays) == (None, (), ())


def test_an_empty_required_variable_is_missing(env: Env) -> None:
    required = ("EVENTS_DATABASE_PATH", "EVENTS_GOOGLE_PUBSUB_PROJECT_ID")
    for blank in ("", " "):
        for name in required:
            assert set(problems(env | {name: blank})) == {name}
    assert set(problems({})) == set(required)


def test_what_pubsub_needs_is_not_asked_for_without_it(env: Env) -> None:
    path = {"EVENTS_DATABASE_PATH": env["EVENTS_DATABASE_PATH"]}
    for sink in ("none", "stdout", "jsonl:/tmp/x.jsonl", "stdout,jsonl:/tmp/x%2Cy.jsonl"):
        assert dict(Config.from_env(path | {"EVENTS_SINK": sink}).effective())["EVENTS_SINK"] == sink


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pubsub,jsonl:/a.jsonl,jsonl:/b.jsonl", "jsonl is named twice"),
        ("pubsub,none", "none cannot be named beside another sink"),
        ("pubsub,", "must be pubsub"),
        ("pubsub,kafka:host", "'kafka': must be pubsub"),
        ("jsonl:/a,b.jsonl", "a comma within a path or argument is written %2C"),
        ("pubsub,jsonl:", "jsonl needs a path"),
    ],
)
def test_several_sinks_are_each_known_and_named_once(env: Env, text: str, said: str) -> None:
    assert said in problems(env | {"EVENTS_SINK": text})["EVENTS_SINK"]


def test_what_a_sink_needs_is_asked_for_wherever_it_stands(env: Env) -> None:
    del env["EVENTS_GOOGLE_PUBSUB_PROJECT_ID"]
    assert set(problems(env | {"EVENTS_SINK": "stdout,pubsub"})) == {"EVENTS_GOOGLE_PUBSUB_PROJECT_ID"}


@pytest.mark.parametrize("place", ["{0}", "{0}-wal", "{0}-shm", "{0}/../{1}", "links/{1}", "{1}"])
def test_file_of_a_sink_is_none_of_the_database_however_it_is_spelt(
    env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    database = tmp_path / "data" / "events.db"
    database.parent.mkdir()
    (database.parent / "links").symlink_to(database.parent)
    monkeypatch.chdir(database.parent)
    at = f"stdout,jsonl:{place.format(database, database.name)}"
    assert problems(env | {"EVENTS_DATABASE_PATH": str(database), "EVENTS_SINK": at}) == {
        "EVENTS_SINK": "must not write into the files of EVENTS_DATABASE_PATH"
    }


@pytest.mark.parametrize("emulator", ["", "127.0.0.1:1"])
def test_no_credentials_file_means_those_of_the_machine(env: Env, emulator: str) -> None:
    del env["EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH"]
    assert Config.from_env(env | {"PUBSUB_EMULATOR_HOST": emulator}).google_pubsub_credentials_json_path is None


@pytest.mark.parametrize(
    "found",
    [
        {"type": "authorized_user", "client_id": "i", "client_secret": "s", "refresh_token": "r"},
        {"type": "external_account", "audience": "a", "subject_token_type": "t", "token_url": "u"},
        {"type": "impersonated_service_account", "service_account_impersonation_url": "u", "source_credentials": {}},
        {"type": "service_account", "client_email": "e", "private_key": "k", "token_uri": "u"},
    ],
)
def test_every_type_of_credentials_is_taken(env: Env, found: dict[str, object]) -> None:
    """As long as it has what its type needs."""
    path = Path(env["EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH"])
    path.write_text(json.dumps(found))
    assert Config.from_env(env).google_pubsub_credentials_json_path == path
    path.write_text(json.dumps({"type": found["type"]}))
    assert "lacks" in problems(env)["EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json: secret", "not JSON"),
        ("", "not JSON"),
        ("{}", "lacks client_email, private_key, token_uri"),
        ("[]", "lacks"),
        ('{"type": "secret"}', "its type is none of"),
        ('{"type": ["secret"]}', "its type is none of"),
        ('{"client_email": "a@b", "private_key": 1, "token_uri": "t"}', "lacks private_key"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_credentials_file_that_is_none(env: Env, text: str, said: str) -> None:
    Path(env["EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH"]).write_text(text)
    found = problems(env)
    assert set(found) == {"EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH"}
    (problem,) = found.values()
    assert said in problem
    assert "secret" not in problem
    for nobody_reads_it in ({"EVENTS_SINK": "none"}, {"PUBSUB_EMULATOR_HOST": "127.0.0.1:1"}):
        Config.from_env(env | nobody_reads_it)


WRONG = {
    "EVENTS_PUBSUB_TOPIC": ["a b/", "ab", "goog-topic"],
    "EVENTS_GOOGLE_PUBSUB_PROJECT_ID": ["my project", "projects/mine"],
    "EVENTS_LISTEN_ADDRESS": ["8008", "::1:80", "host:70000"],
    "EVENTS_ENVIRONMENT": ["STAGING", "PROD"],
    "EVENTS_LOG_LEVEL": ["INFO", "5"],
    "EVENTS_RETRACTED": ["drop", "1"],
    "EVENTS_DATABASE_PATH": ["/", ".", "/var/lib/", "/usr"],
    "EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH": ["/does/not/exist.json", "/"],
    "EVENTS_PYROSCOPE_SERVER_ADDRESS": ["pyroscope:4040", "ftp://x", "http://", "http://[x", "http://h:99999"],
    "EVENTS_TRACE_SAMPLE": ["-0.1", "1.01", "1%", "half", "nan", "1e-3"],
    "EVENTS_SINK": ["kafka", "jsonl", "jsonl:", "stdout:x", "PUBSUB:"],
    "EVENTS_TARGET_RELAY": ["not an address", "ftp://relay.example.com", "wss://"],
    "EVENTS_BOOTSTRAP_RELAYS": ["wss://nos.lol,wss://"],
    "EVENTS_DISCOVER_RELAYS": ["yes", "1"],
    "EVENTS_MAX_RELAYS": ["0", "-1", "many"],
    "EVENTS_ALLOWED_PORTS": ["x", "0", "65536", "22;80"],
    "EVENTS_MAX_RELAYS_PER_HOST": ["0", "1.5"],
    "EVENTS_ALLOW_PRIVATE_RELAYS": ["maybe"],
    "EVENTS_CRAWL_MODE": ["both", "chunks"],
    "EVENTS_RELAY_COMPRESSION": ["gzip"],
    "EVENTS_STATUS_PAGE": ["public", "true"],
    "EVENTS_PUBLIC_URL": ["wss://", "no address at all"],
    "EVENTS_TRUSTED_PROXIES": ["proxy", "10.0.0.1/8", "127.0.0.1:80"],
    "EVENTS_CRAWLERS": ["0", "65"],
    "EVENTS_BACKFILL": ["16", "ages"],
    "EVENTS_RESWEEP_WINDOW": ["72", "3 d"],
    "EVENTS_RESWEEP_EVERY": ["often"],
    "EVENTS_EVENT_RETENTION": ["-1h"],
    "EVENTS_SEEN_RETENTION": ["1y"],
    "EVENTS_MAX_EVENT_BYTES": ["1M", "100"],
    "EVENTS_MAX_EVENT_TAGS": ["0"],
    "EVENTS_BACKPRESSURE_HIGH": ["0", "x"],
    "EVENTS_BACKPRESSURE_LOW": ["-1", "20000", "30000"],
    "EVENTS_STAGE_LISTEN_ADDRESS": ["9100"],
    "EVENTS_NEW_AUTHOR_LOOKBACK": ["1"],
    "EVENTS_SOCKS_PROXY": [":9050", "127.0.0.1:0", "tor"],
    "EVENTS_SECRET_KEY_PATH": ["/does/not/exist.key"],
    "EVENTS_REGISTRATION": ["closed", "pow"],
    "EVENTS_REGISTRATION_ALLOWLIST": ["/does/not/exist.keys", __file__],
    "EVENTS_HUB": ["db.example.com", "postgresql://db", "mysql://db/name", "postgresql://db:x/name"],
    "EVENTS_ROLE": ["edge", "crawler,home"],
    "EVENTS_HOST": ["Fra 1", "-fra", "a_b", "x" * 33],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
def test_a_wrong_value_is_named_and_nothing_else_is(env: Env, name: str, text: str) -> None:
    assert set(problems(env | {name: text})) == {name}


def test_all_mistakes_come_in_one_message(env: Env) -> None:
    env = {name: texts[0] for name, texts in WRONG.items()} | {"EVENTS_BACKPRESSURE_LOW": "x"}
    assert set(problems(env)) == set(WRONG)


def test_every_setting_that_can_be_wrong_is_tried_above() -> None:
    free = {
        "EVENTS_GOOGLE_PUBSUB_PROJECT_ID", "EVENTS_PYROSCOPE_APPLICATION_NAME", "EVENTS_PYROSCOPE_BASIC_AUTH_USER",
        "EVENTS_PYROSCOPE_BASIC_AUTH_PASSWORD", "EVENTS_PUBSUB_TOPIC", "EVENTS_SKIP_RELAYS", "EVENTS_ALLOWED_ORIGINS",
        "EVENTS_RUNTIME_DIRECTORY",
    }  # fmt: skip
    unknown = {setting.name for setting in SETTINGS} - free - set(WRONG)
    # Counts and durations that came later are read by the parsers that are tried above.
    for setting in SETTINGS:
        if setting.name in unknown:
            assert re.fullmatch(r"\d+[smhd]?", setting.default or ""), setting.name


HUB = {"EVENTS_HUB": "postgresql://home:secret@db.example.com/hub"}


def test_crawling_host_needs_no_sink_and_home_crawls_nothing(env: Env) -> None:
    path = {"EVENTS_DATABASE_PATH": env["EVENTS_DATABASE_PATH"]}
    edge = Config.from_env(path | HUB | {"EVENTS_ROLE": "crawler", "EVENTS_HOST": "fra1"})
    assert (edge.role, edge.host, edge.sink, edge.target_relay) == (HostRole.CRAWLER, "fra1", (), None)
    assert edge.crawlers >= 2
    assert edge.audit_every == 0
    # As the supervisor publishes it for its stages.
    crawler = path | HUB | {"EVENTS_ROLE": "crawler", "EVENTS_HOST": "fra1"}
    assert Config.from_env(crawler | {"EVENTS_AUDIT_EVERY": "0"}).audit_every == 0
    home = Config.from_env(env | HUB | {"EVENTS_ROLE": "home"})
    assert (home.role, home.host, home.crawlers) == (HostRole.HOME, None, 0)
    assert Config.from_env(env | HUB | {"EVENTS_ROLE": "home", "EVENTS_CRAWLERS": "0"}).crawlers == 0
    shown = dict(home.effective())
    assert shown["EVENTS_HUB"] == "postgresql://***@db.example.com/hub"
    option = HUB | {"EVENTS_HUB": "postgresql://db.example.com/hub?user=home&password=secret&sslmode=require"}
    assert "secret" not in str(Config.from_env(env | option | {"EVENTS_ROLE": "home"}).effective())
    alone = Config.from_env(env)
    assert (alone.hub, alone.role, alone.host) == (None, None, None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (HUB, "EVENTS_ROLE"),
        ({"EVENTS_ROLE": "home"}, "EVENTS_HUB"),
        ({"EVENTS_HOST": "fra1"}, "EVENTS_HOST"),
        (HUB | {"EVENTS_ROLE": "crawler"}, "EVENTS_HOST"),
        (HUB | {"EVENTS_ROLE": "home", "EVENTS_HOST": "fra1"}, "EVENTS_HOST"),
        (HUB | {"EVENTS_ROLE": "home", "EVENTS_CRAWLERS": "2"}, "EVENTS_CRAWLERS"),
        (HUB | {"EVENTS_ROLE": "crawler", "EVENTS_HOST": "fra1", "EVENTS_CRAWLERS": "0"}, "EVENTS_CRAWLERS"),
        (HUB | {"EVENTS_ROLE": "crawler", "EVENTS_HOST": "fra1", "EVENTS_SINK": "stdout"}, "EVENTS_SINK"),
        (
            HUB | {"EVENTS_ROLE": "crawler", "EVENTS_HOST": "fra1", "EVENTS_TARGET_RELAY": "wss://relay.example.com"},
            "EVENTS_TARGET_RELAY",
        ),
        (HUB | {"EVENTS_ROLE": "crawler", "EVENTS_HOST": "fra1", "EVENTS_AUDIT_EVERY": "6h"}, "EVENTS_AUDIT_EVERY"),
    ],
)
def test_settings_of_several_hosts_that_make_no_sense_together(env: Env, changes: Env, named: str) -> None:
    assert set(problems(env | changes)) == {named}


def test_allowlist_is_read_from_its_file_and_required_for_that_mode(env: Env, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# team\n{'AB' * 32}\n\n  {'cd' * 32}  # somebody\n")
    env |= {"EVENTS_REGISTRATION": "Allowlist"}
    assert set(problems(env)) == {"EVENTS_REGISTRATION_ALLOWLIST"}
    config = Config.from_env(env | {"EVENTS_REGISTRATION_ALLOWLIST": str(file)})
    assert config.registration is RegistrationMode.ALLOWLIST
    assert config.registration_allowlist == KeyList(file, frozenset({b"\xab" * 32, b"\xcd" * 32}))
    file.write_text("nsec1secret\n")
    assert "nsec1" not in problems(env | {"EVENTS_REGISTRATION_ALLOWLIST": str(file)})["EVENTS_REGISTRATION_ALLOWLIST"]


@pytest.mark.parametrize("text", ["production", "Production", " PRODUCTION "])
def test_words_are_read_in_any_case(env: Env, text: str) -> None:
    assert Config.from_env(env | {"EVENTS_ENVIRONMENT": text}).environment is Environment.PRODUCTION
    assert Config.from_env(env | {"EVENTS_LOG_LEVEL": "disabled"}).log_level is LogLevel.DISABLED


def test_lists_are_separated_by_commas(env: Env) -> None:
    config = Config.from_env(
        env
        | {"EVENTS_BOOTSTRAP_RELAYS": " wss://a.example/ , ws://127.0.0.5:8081,", "EVENTS_SKIP_RELAYS": "B.example.,c"}
    )
    assert [relay.url for relay in config.bootstrap_relays] == ["wss://a.example", "ws://127.0.0.5:8081"]
    assert config.skip_relays == ("b.example", "c")


def test_the_sink_may_not_write_into_the_database(env: Env, development: Env) -> None:
    path = env["EVENTS_DATABASE_PATH"]
    assert set(problems(env | {"EVENTS_SINK": f"jsonl:{path}"})) == {"EVENTS_SINK"}
    odd = path.replace(".db", ".jsonl")
    assert set(problems(development | {"EVENTS_DATABASE_PATH": odd})) == {"EVENTS_SINK"}


def test_marks_of_backpressure_must_leave_room_between_them(env: Env) -> None:
    assert set(problems(env | {"EVENTS_BACKPRESSURE_HIGH": "10000"})) == {"EVENTS_BACKPRESSURE_LOW"}
    config = Config.from_env(env | {"EVENTS_BACKPRESSURE_HIGH": "2", "EVENTS_BACKPRESSURE_LOW": "1"})
    assert (config.backpressure_high, config.backpressure_low) == (2, 1)


def test_stages_of_one_database_find_the_same_runtime_directory(env: Env, tmp_path: Path) -> None:
    other = env | {"EVENTS_DATABASE_PATH": str(tmp_path / "other.db")}
    mine = Config.from_env(env).runtime_directory
    assert mine == Config.from_env(dict(env)).runtime_directory
    assert mine != Config.from_env(other).runtime_directory
    assert mine.parent == Path(tempfile.gettempdir())
    assert str(os.getuid()) in mine.name
    assert Config.from_env(env | {"RUNTIME_DIRECTORY": "/run/a:/run/b"}).runtime_directory == Path("/run/a")
    told = env | {"RUNTIME_DIRECTORY": "/run/a", "EVENTS_RUNTIME_DIRECTORY": "/run/mine"}
    assert Config.from_env(told).runtime_directory == Path("/run/mine")


def test_every_setting_is_a_field_of_the_same_name() -> None:
    assert [setting.field for setting in SETTINGS] == [each.name for each in fields(Config)]
    for setting in SETTINGS:
        assert setting.name == f"EVENTS_{setting.field.upper()}"
        assert setting.meaning


PASSWORD = "pass/w@rd"


@pytest.mark.parametrize("name", ["EVENTS_TARGET_RELAY", "EVENTS_BOOTSTRAP_RELAYS"])
@pytest.mark.parametrize("address", ["wss://me:{}@relay.example", "me:{}@relay.example", "https://{}@relay.example/x"])
def test_a_password_in_an_address_is_not_repeated(env: Env, name: str, address: str) -> None:
    """What is wrong with a setting goes to the log."""
    with pytest.raises(InvalidConfig) as error:
        Config.from_env(env | {name: address.format(PASSWORD)})
    assert PASSWORD not in str(error.value)
    assert "***@relay.example" in str(error.value)


def test_a_password_in_the_address_of_a_server_is_not_shown(env: Env) -> None:
    config = Config.from_env(env | {"EVENTS_PYROSCOPE_SERVER_ADDRESS": "https://me:pass@pyroscope.example"})
    assert dict(config.effective())["EVENTS_PYROSCOPE_SERVER_ADDRESS"] == "https://***@pyroscope.example"


def test_what_is_shown_reads_back_as_it_was_and_secrets_are_hidden(env: Env, tmp_path: Path) -> None:
    env |= {
        "EVENTS_PYROSCOPE_BASIC_AUTH_USER": "somebody",
        "EVENTS_PYROSCOPE_BASIC_AUTH_PASSWORD": "open sesame",
        "EVENTS_SINK": f"jsonl:{tmp_path}/x.jsonl",
        "EVENTS_LISTEN_ADDRESS": "[::1]:80",
        "EVENTS_SKIP_RELAYS": "",
    }
    config = Config.from_env(env)
    shown = dict(config.effective())
    assert list(shown) == [setting.name for setting in SETTINGS]
    assert "sesame" not in str(shown)
    assert "somebody" not in str(shown)
    hidden = {setting.name: env[setting.name] for setting in SETTINGS if setting.secret}
    assert Config.from_env(shown | hidden) == config


def test_booleans_are_shown_as_they_are_written(env: Env) -> None:
    shown = dict(Config.from_env(env).effective())
    booleans = {each.name: each.default for each in SETTINGS if each.default in ("true", "false")}
    assert {name: shown[name] for name in booleans} == booleans


def test_credentials_that_systemd_loads_are_defaults(env: Env, tmp_path: Path) -> None:
    """The units let a file that is missing read as `none`; what a setting names wins."""
    folder = tmp_path / "loaded"
    folder.mkdir()
    key = Path(env.pop("EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH")).read_text()
    for name, text in (("pubsub.json", key), ("nostr.key", "none\n")):
        (folder / name).write_text(text)
    config = Config.from_env(env | {"CREDENTIALS_DIRECTORY": str(folder)})
    assert (config.google_pubsub_credentials_json_path, config.secret_key_path) == (folder / "pubsub.json", None)
    (folder / "nostr.key").write_text("11" * 32)
    (folder / "pubsub.json").write_text("none")
    named = {"EVENTS_SECRET_KEY_PATH": str(folder / "pubsub.json"), "PUBSUB_EMULATOR_HOST": "127.0.0.1:1"}
    config = Config.from_env(env | {"CREDENTIALS_DIRECTORY": str(folder)} | named)
    assert (config.google_pubsub_credentials_json_path, config.secret_key_path) == (None, folder / "pubsub.json")


def test_a_command_that_runs_no_stage_needs_the_database_alone(tmp_path: Path) -> None:
    config = Config.from_env({"EVENTS_DATABASE_PATH": str(tmp_path / "events.db")}, runs=False)
    assert config.google_pubsub_project_id is None
    with pytest.raises(InvalidConfig, match="EVENTS_DATABASE_PATH: is required"):
        Config.from_env({}, runs=False)
